"""Files that are whole or absent: atomic writes, locks between processes, and disk errors a user can act on."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from insightv.config import UserError

ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
    errno.EACCES: "permission denied; make the folder writable or choose another one",
    errno.EPERM: "permission denied; make the folder writable or choose another one",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EISDIR: "a folder stands where a file is needed; move it or choose another name",
    errno.EEXIST: "a file stands where a folder is needed; move it or choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose another one",
    errno.ENOTDIR: "a file stands where a folder is needed; move it or choose another folder",
}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn disk-full and permission errors of the block into a `UserError` that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        raise UserError(f"cannot use {error.filename or path}: {ADVICE[error.errno]}") from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open `path.part` for writing; on success fsync it and rename it to `path`, on failure remove it."""
    part = path.with_name(path.name + ".part")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync(path.parent)


def link(source: Path, target: Path) -> None:
    """Have a file under a second name, or a copy of it where the disk does not allow that; a target that is there stays."""
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        # Another disk, one without links, or too many of them.
        with source.open("rb") as given, replacing(target) as file:
            shutil.copyfileobj(given, file)


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's entries, outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def stamp(path: Path) -> str:
    """Size and time of change of a file, at next to no cost: a file whose content changed has another stamp. `missing` where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return "missing"
    return f"{facts.st_size} bytes of {facts.st_mtime_ns} ns"


def try_lock(path: Path) -> IO[bytes] | None:
    """Take the lock file at `path` until the returned file is closed or the process ends; None if another holds it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextmanager
def locked(path: Path) -> Iterator[IO[bytes]]:
    """Hold the lock file at `path`, waiting for other threads and processes; what its holder writes there, the next one can read."""
    with explained(path), path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
