"""Rows out of files of every common kind, one at a time: memory does not grow with their number, and no row is larger than `MOST_ROW`.

Read are JSON lists, JSON Lines, TSV and CSV (each also as .gz), Parquet, tar archives, and Hugging Face data sets on disk or by name.
Nothing is unpacked to disk and nothing in a file is executed.
"""

import gzip
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from glob import glob
from pathlib import Path
from typing import IO, Any, cast

from insightv.config import UserError
from insightv.datasets.formats import BATCH, READERS, DamagedFile, RowError, arrow_rows
from insightv.datasets.tars import tar_rows
from insightv.files import explained

HUB = "hub:"
_KINDS = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".tsv": "tsv", ".csv": "csv", ".parquet": "parquet", ".tar": "tar", ".tgz": "tar"}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError)


def kind(path: Path) -> str:
    """`json`, `jsonl`, `tsv`, `csv`, `parquet` or `tar` by the file's suffixes, whatever compresses it; empty if it is none of these."""
    suffixes = [suffix.casefold() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"] or (suffixes[-1:] in ([".bz2"], [".xz"]) and suffixes[-2:-1] == [".tar"])
    found = _KINDS.get(suffixes[-2] if compressed and len(suffixes) > 1 else suffixes[-1] if suffixes else "", "")
    return "" if compressed and found == "parquet" else found


def read_rows(path: str, split: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (place, row) for a file, a folder of shards, a pattern such as `shards/*.tar`, a data set on disk or `hub:NAME:CONFIG:SPLIT`.

    A row that cannot be read comes as the `RowError` that its reader will raise; after a file that breaks off the next one is read. `place` names the
    file or the tar member where the row's number would not be enough. With `split` come the rows of that split alone: by the data set's own splits,
    by the files' names (`train-00000-of-00004.parquet`), or by the column `split`. What is not there or of no known kind is a `UserError`.
    """
    if path.startswith(HUB) or is_stored(Path(path)):
        yield from (("", row) for row in arrow_rows(_batches(path, split)))
        return
    files = files_of(path)
    named = [file for file in files if re.match(rf"{re.escape(split)}\b", file.name)] if split and len(files) > 1 else []
    for file in named or files:
        for place, row in _read_file(file):
            if split and isinstance(row, dict):
                if "split" not in row and not named:
                    raise UserError(f"{file}: split {split!r} is asked for, but the rows have no column `split` and no file is named after it")
                if str(row.get("split", split)) != split:
                    continue
            yield f"{file.name}: {place}" if len(files) > 1 else place if kind(file) == "tar" else "", row


def files_of(path: str) -> list[Path]:
    """The files that a path, a folder or a pattern names, sorted; none, an unknown kind or several kinds are a `UserError`."""
    folder = Path(path)
    if folder.is_dir():
        files = sorted(file for file in folder.rglob("*") if kind(file) and file.is_file())
    else:
        files = [folder] if folder.is_file() else sorted(file for file in map(Path, glob(path, recursive=True)) if file.is_file())
    if not files:
        raise UserError(f"no file to import at {path}" if not folder.is_dir() else f"no file of a known kind below {path}: {', '.join(_KINDS)}")
    kinds = {kind(file): file for file in files}
    if "" in kinds:
        raise UserError(f"{kinds['']} is of no known kind; known are {', '.join(_KINDS)}, most of them also as .gz")
    if len(kinds) > 1:
        raise UserError(f"{path} holds files of several kinds ({', '.join(sorted(kinds))}); name one kind by a pattern such as '{path}/*.{min(kinds)}'")
    return files


def is_stored(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of Hugging Face's datasets."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _read_file(path: Path) -> Iterator[tuple[str, Any]]:
    last = 0
    with explained(path), path.open("rb") as raw:
        # tarfile finds the compression itself.
        packed = path.suffix.casefold() == ".gz" and kind(path) != "tar"
        with gzip.open(raw) if packed else nullcontext(raw) as opened:
            file = cast(IO[bytes], opened)
            rows = tar_rows(file) if kind(path) == "tar" else (("", row) for row in READERS[kind(path)](file, path))
            try:
                for last, (place, row) in enumerate(rows, 1):
                    yield place or f"row {last}", row
            except (*_DAMAGED, DamagedFile) as error:
                said = " ".join(str(error).split())[:200] or type(error).__name__
                yield f"row {last + 1}", RowError("damaged_file", f"{path} cannot be read further after row {last}: {said}")


def _batches(path: str, split: str) -> Iterator[Any]:
    """Arrow tables of a Hugging Face data set, saved by `save_to_disk` or streamed from the hub; no code of a data set is ever run."""
    import datasets

    name, config, own, *rest = [*path.removeprefix(HUB).split(":"), "", ""]
    if path.startswith(HUB) and (not name or any(rest)):
        raise UserError(f"{path} must read hub:NAME, hub:NAME:CONFIG or hub:NAME:CONFIG:SPLIT")
    try:
        if path.startswith(HUB):
            found = datasets.load_dataset(name, config or None, split=own or split or "train", streaming=True)
        else:
            found = datasets.load_from_disk(path)
        if isinstance(found, dict):
            if (split or len(found) > 1) and split not in found:
                raise UserError(f"{path} has the splits {', '.join(found)}; choose one by `split`")
            found = found[split or next(iter(found))]
        yield from found.with_format("arrow").iter(batch_size=BATCH)
    except UserError:
        raise
    except Exception as error:
        # The library and what it loads with raise errors of many kinds, for the network, for names and for files.
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
