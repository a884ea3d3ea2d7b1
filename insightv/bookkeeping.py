"""What stands in a journal: figures by model, an export of all replies, and the removal of those that shall be asked for anew."""

import gzip
import heapq
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import orjson

from insightv.config import UserError
from insightv.files import replacing, try_lock
from insightv.journal import Bill, Journal

_MODEL = "json_extract(CAST(row AS TEXT), '$.model')"
_ERROR = "json_extract(CAST(row AS TEXT), '$.error')"


def stats(folder: Path) -> list[dict[str, Any]]:
    """By model: replies that stand, those of them that are failures, megabytes, and what was paid, also for replies that were pruned since."""
    query = f"SELECT coalesce({_MODEL}, ''), count(*), count({_ERROR}), sum(length(row)) FROM replies GROUP BY 1"
    held: dict[str, list[int]] = {}
    with _opened(folder) as journal:
        for _, connection in journal.readers():
            for model, *numbers in connection.execute(query):
                held[model] = [a + b for a, b in zip(held.get(model, [0, 0, 0]), numbers, strict=True)]
        bills = journal.bills()
    return [_figures(model, held.get(model, [0, 0, 0]), bills.get(model, Bill())) for model in sorted(held.keys() | bills.keys())]


def export(folder: Path, out: Path) -> int:
    """Write every reply as a JSON line {"key", "row"}, sorted by key, gzipped where `out` ends in .gz; returns their number."""
    count = 0
    with _opened(folder) as journal, _lines(out) as lines:
        for key, row in heapq.merge(*(_sorted(connection) for _, connection in journal.readers())):
            lines.write(b'{"key":' + orjson.dumps(key) + b',"row":' + row + b"}\n")
            count += 1
    return count


def prune(folder: Path, *, model: str | None = None, failed: bool = False) -> tuple[int, int]:
    """Remove the replies of a model (`name@revision`), the failures, or the failures of that model; returns their number and the bytes freed.

    What is removed is asked for, and paid, again when it is needed. A journal in use is a `UserError`.
    """
    if model is None and not failed:
        raise UserError("say what to prune: --model NAME@REVISION, --failed, or both")
    wanted = " AND ".join([*([f"{_MODEL} = :model"] if model is not None else []), *([f"{_ERROR} IS NOT NULL"] if failed else [])])
    removed = freed = 0
    for path in _files(folder):
        lock = try_lock(path.with_suffix(".lock"))
        if lock is None:
            raise UserError(f"{path} is in use by a run; wait for its end or stop it")
        with lock:
            before = path.stat().st_size
            connection = sqlite3.connect(path, isolation_level=None)
            removed += connection.execute(f"DELETE FROM replies WHERE {wanted}", {"model": model}).rowcount
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
            freed += before - path.stat().st_size
    return removed, freed


def _figures(model: str, held: list[int], bill: Bill) -> dict[str, Any]:
    replies, failed, size = held
    share = f"{bill.cached / bill.prompt:.0%}" if bill.prompt else ""
    paid = {"requests": bill.requests, "tokens in": bill.prompt, "cached": share, "tokens out": bill.completion, "cost": round(bill.cost, 4)}
    return {"model": model or "in this process", "replies": replies, "failed": failed, "MB": round(size / 2**20, 1), **paid}


def _sorted(connection: sqlite3.Connection) -> Iterator[tuple[str, bytes]]:
    return cast(Iterator[tuple[str, bytes]], connection.execute("SELECT key, row FROM replies ORDER BY key"))


@contextmanager
def _lines(out: Path) -> Iterator[IO[bytes]]:
    """The file to write, or a gzip stream into it that tells neither name nor time, so that the same replies are the same bytes."""
    with replacing(out) as file:
        if out.suffix != ".gz":
            yield file
        else:
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                yield cast(IO[bytes], packed)


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.sqlite"))
    if not files:
        raise UserError(f"no journal at {folder}: it holds no *.sqlite files")
    return files


def _opened(folder: Path) -> Journal:
    _files(folder)
    return Journal(folder)
