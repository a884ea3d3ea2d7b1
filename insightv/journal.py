"""The journal of paid requests: a set of SQLite files of which a process reads all and writes its own."""

import asyncio
import contextlib
import json
import math
import os
import queue
import re
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import orjson

from insightv.config import UserError
from insightv.files import explained, locked, sync, try_lock

Row = dict[str, Any]

_NAPS, _NAP = 3, 0.02
"""How often, and how many seconds each time, a row waits for others to share its commit."""
_ENOUGH = 12
"""Rows that wait for no more: those who hear of one commit go on all at once, and shall not keep the loop from what else arrives."""
_ROWS = 64
"""Rows written by one statement at most."""
_FRESH = 0.1
"""Seconds in which another process's new file may go unseen by readers."""
_TICK = 10**9
"""Nanoseconds after which two changes of a folder have different stamps on any file system."""

_NAME = 255
"""Bytes of a file's name at most."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, row BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS bills (
    payer TEXT, model TEXT, requests INT, failed INT, prompt INT, completion INT, cached INT, cost REAL, PRIMARY KEY (payer, model)
);
"""
_ADD_BILL = """
INSERT INTO bills VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (payer, model) DO UPDATE SET requests = requests + excluded.requests,
failed = failed + excluded.failed, prompt = prompt + excluded.prompt, completion = completion + excluded.completion, cached = cached + excluded.cached,
cost = cost + excluded.cost
"""


class Bill(NamedTuple):
    """What a reply, or many, took; written down with the reply itself, so that neither is ever without the other."""

    requests: int = 0
    """Sent, further attempts included."""
    failed: int = 0
    """Replies that are none: the request failed for good."""
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cost: float = 0.0

    def plus(self, other: "Bill") -> "Bill":
        """Both together."""
        sums: list[Any] = [mine + theirs for mine, theirs in zip(self, other, strict=True)]
        return Bill(*sums)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A row that waits for its commit, and who waits for it."""

    key: str
    row: Row
    bill: Bill
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Row]"


class Journal:
    """Rows by key, JSON values; a row counts when its commit returned, and the first row of a key stands for ever.

    Safe for threads and for processes of one machine. Disk-full, permission and damage are `UserError`s. `payer` names whose bills are
    written here, where several share the journal.
    """

    def __init__(self, folder: Path, payer: str = "") -> None:
        self.folder = folder
        self._payer = payer
        self._read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._readers: dict[str, sqlite3.Connection] = {}
        self._listed = -1
        self._looked = -math.inf
        self._writer: sqlite3.Connection | None = None
        self._owned: IO[bytes] | None = None
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._committer: threading.Thread | None = None
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Row | None:
        """The row of a key, or None."""
        with self._read_lock:
            self._list_files()
            for name, connection in self._readers.items():
                with _explained_database(self.folder / name):
                    if found := connection.execute("SELECT row FROM replies WHERE key = ?", (key,)).fetchone():
                        row: Row = orjson.loads(found[0])
                        return row
        return None

    def get_many(self, keys: Iterable[str]) -> dict[str, Row]:
        """Those of the keys that have a row, with it."""
        wanted = list(keys)
        return self._look_up(wanted) if wanted else {}

    def put_many(self, rows: Mapping[str, Row], bills: Mapping[str, Bill] | None = None) -> dict[str, Row]:
        """Store rows and bills (by model) in one atomic transaction; returns, after the commit, the rows that stand under these keys.

        A key that has a row already, from whichever process, keeps it: use what is returned, so that all agree.
        """
        if not rows and not bills:
            return {}
        encoded = {key: orjson.dumps(row) for key, row in rows.items()}
        with self._write_lock, locked(self.folder / "commit.lock") as lock:
            self._void(lock)
            standing = self._look_up(list(rows), relist=True)
            fresh = [(key, data) for key, data in encoded.items() if key not in standing]
            if fresh or bills:
                self._commit(fresh, bills or {}, lock)
                lock.truncate(0)
        return {key: standing.get(key, row) for key, row in rows.items()}

    async def put(self, key: str, row: Row, bill: Bill = Bill()) -> Row:
        """Store one row, with its bill on the row's `model`, and return, after its commit, the one that stands; commits are shared with concurrent puts.

        A cancelled put is stored all the same: its reply is paid.
        """
        loop = asyncio.get_running_loop()
        pending = _Pending(key, row, bill, loop, loop.create_future())
        with self._read_lock:
            if self._committer is None:
                # With a queue of its own: the one before may still be emptying its.
                self._queue = queue.SimpleQueue()
                self._committer = threading.Thread(target=self._commit_groups, args=(self._queue,), name="journal", daemon=True)
                self._committer.start()
            self._queue.put(pending)
        return await pending.done

    def bills(self, payer: str | None = None) -> dict[str, Bill]:
        """What each model was paid for, by its name; with `payer` what that one paid."""
        query = "SELECT model, requests, failed, prompt, completion, cached, cost FROM bills WHERE ?1 IS NULL OR payer = ?1 ORDER BY model"
        found: dict[str, Bill] = {}
        for _, connection in self.readers():
            for model, *numbers in connection.execute(query, (payer,)):
                found[model] = found.get(model, Bill()).plus(Bill(*numbers))
        return dict(sorted(found.items()))

    def readers(self) -> Iterator[tuple[Path, sqlite3.Connection]]:
        """Every file with a connection that can only read, in the order of their names; damage is a `UserError`."""
        with self._read_lock:
            self._list_files(relist=True)
            for name, connection in sorted(self._readers.items()):
                with _explained_database(self.folder / name):
                    yield self.folder / name, connection

    def close(self) -> None:
        """Commit what waits and release files and locks; the journal opens again by itself when used."""
        with self._read_lock:
            committer, self._committer = self._committer, None
            if committer:
                self._queue.put(None)
        if committer:
            committer.join()
        with self._write_lock, self._read_lock:
            for connection in (*self._readers.values(), *([self._writer] if self._writer else [])):
                connection.close()
            self._readers, self._writer, self._listed, self._looked = {}, None, -1, -math.inf
            if self._owned:
                self._owned.close()
                self._owned = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _look_up(self, keys: list[str], relist: bool = False) -> dict[str, Row]:
        query = "SELECT key, row FROM replies WHERE key IN (SELECT value FROM json_each(?))"
        found: dict[str, Row] = {}
        with self._read_lock:
            self._list_files(relist)
            for name, connection in self._readers.items():
                missing = [key for key in keys if key not in found]
                if not missing:
                    break
                with _explained_database(self.folder / name):
                    found.update({key: orjson.loads(data) for key, data in connection.execute(query, (json.dumps(missing),))})
        return found

    def _list_files(self, relist: bool = False) -> None:
        """Open the files that appeared since the last look. Only a commit must see them at once; else a moment's delay spares most looks."""
        now = time.monotonic()
        if now - self._looked < _FRESH and not relist:
            return
        self._looked = now
        changed = self.folder.stat().st_mtime_ns
        # A file that appeared in the same tick of the clock as the last look may have left no other stamp.
        if changed == self._listed and time.time_ns() - changed > _TICK:
            return
        for path in sorted(self.folder.glob("*.sqlite")):
            if path.name not in self._readers:
                with _explained_database(path):
                    connection = _connect(path)
                    connection.execute("PRAGMA query_only = ON")
                    self._readers[path.name] = connection
        self._listed = changed

    def _void(self, lock: IO[bytes]) -> None:
        """Overwrite what a commit left that was not brought to its end; `lock` then names its file.

        Who dies after the log is on disk, and before the index in shared memory says so, leaves rows that nobody sees while anybody has the file
        open. Their keys would be stored again elsewhere, and when the last one is gone without closing, the log is read anew and they are back.
        """
        lock.seek(0)
        name = lock.read(_NAME).decode(errors="replace")
        if not name:
            return
        path = self.folder / Path(name).name
        if path.suffix == ".sqlite" and path.is_file():
            with _explained_database(path), contextlib.closing(_connect(path)) as connection:
                [version] = connection.execute("PRAGMA user_version").fetchone()
                # Any commit does that changes something: it goes where the other began, on whose every byte the rest of that depends.
                connection.execute(f"PRAGMA user_version = {(version + 1) % 2**31}")
        lock.truncate(0)

    def _commit(self, rows: list[tuple[str, bytes]], bills: Mapping[str, Bill], lock: IO[bytes]) -> None:
        with _explained_database(self.folder):
            if self._writer is None:
                self._writer = self._open_own()
                # Readers here see what is committed here at once.
                self._looked = -math.inf
            assert self._owned
            lock.write(Path(self._owned.name).with_suffix(".sqlite").name.encode())
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                # Many rows in a statement: each one gives way to other threads and waits for its turn again.
                for first in range(0, len(rows), _ROWS):
                    some = rows[first : first + _ROWS]
                    self._writer.execute(f"INSERT INTO replies VALUES {', '.join(['(?, ?)'] * len(some))}", list(chain.from_iterable(some)))
                self._writer.executemany(_ADD_BILL, [(self._payer, model, *bill) for model, bill in bills.items()])
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _open_own(self) -> sqlite3.Connection:
        """Take over a file of this machine that no living process owns, or make one."""
        host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())
        with explained(self.folder):
            for path in sorted(self.folder.glob(f"{host}-*.sqlite")):
                self._owned = try_lock(path.with_suffix(".lock"))
                if self._owned:
                    return _connect(path)
            path = self.folder / f"{host}-{os.getpid()}-{secrets.token_hex(4)}.sqlite"
            self._owned = try_lock(path.with_suffix(".lock"))
            fresh = path.with_suffix(".new")
            try:
                with contextlib.closing(_connect(fresh)) as connection:
                    connection.executescript(_SCHEMA)
                # Readers take every *.sqlite for complete, so the name comes after the tables.
                fresh.rename(path)
            except BaseException:
                # A full disk is tried again with each commit, and shall not be filled by what the attempts leave.
                for left in self.folder.glob(f"{path.stem}.*"):
                    left.unlink()
                raise
            sync(self.folder)
        return _connect(path)

    def _commit_groups(self, waiting: "queue.SimpleQueue[_Pending | None]") -> None:
        """Commit in one transaction whatever came in while the last one was written, and a moment longer: a commit costs as much as ten rows."""
        while (first := waiting.get()) is not None:
            group, ended = [first], False
            for _ in range(_NAPS):
                time.sleep(_NAP)
                if waiting.qsize() >= _ENOUGH:
                    break
            while not ended and not waiting.empty():
                item = waiting.get()
                if item is None:
                    ended = True
                else:
                    group.append(item)
            self._commit_group(group)
            if ended:
                return

    def _commit_group(self, group: list[_Pending]) -> None:
        rows: dict[str, Row] = {}
        bills: dict[str, Bill] = {}
        for item in group:
            rows.setdefault(item.key, item.row)
            if any(item.bill):
                model = str(item.row.get("model", ""))
                bills[model] = bills.get(model, Bill()).plus(item.bill)
        standing: dict[str, Row] | Exception
        try:
            standing = self.put_many(rows, bills)
        except Exception as error:
            standing = error
        # One wake-up for all that wait on one loop.
        for loop in {item.loop for item in group}:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_tell, [item for item in group if item.loop is loop], standing)


def _tell(group: list[_Pending], standing: dict[str, Row] | Exception) -> None:
    for item in group:
        if item.done.done():
            continue
        if isinstance(standing, Exception):
            item.done.set_exception(standing)
        else:
            item.done.set_result(standing[item.key])


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextlib.contextmanager
def _explained_database(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise UserError(f"journal {path}: {error}; check free space and permissions, and move a damaged file away") from error
