"""Put any number of lines in order: what does not fit into memory lies in sorted scratch files, which are merged."""

import heapq
import os
import shutil
import struct
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from insightv.config import UserError
from insightv.files import explained

_HEAD = struct.Struct(">II")
_Item = tuple[bytes, bytes]


class Sorter:
    """Lines that come in any order and are given back in the order of their keys; equal keys keep the order in which they came."""

    def __init__(self, scratch: Path, memory: int = 64 * 2**20) -> None:
        """Lines of up to about `memory` bytes are held; `scratch` is a folder of the sorter's own, emptied now and removed at the end."""
        self._scratch = scratch
        self._memory = memory
        self._held: list[_Item] = []
        self._size = 0
        self._runs: list[tuple[Path, int]] = []
        shutil.rmtree(scratch, ignore_errors=True)

    def add(self, key: bytes, line: bytes) -> None:
        """Take a line."""
        self._held.append((key, line))
        # What Python needs for two byte strings and a pair, besides the bytes.
        self._size += len(key) + len(line) + 130
        if self._size > self._memory:
            self._spill()

    def __iter__(self) -> Iterator[bytes]:
        """All lines in order, once."""
        self._held.sort(key=itemgetter(0))
        yield from map(itemgetter(1), heapq.merge(*(_read(path, size) for path, size in self._runs), self._held, key=itemgetter(0)))
        self._held = []
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _spill(self) -> None:
        self._held.sort(key=itemgetter(0))
        path = self._scratch / f"{len(self._runs):06d}"
        with explained(path):
            self._scratch.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for key, line in self._held:
                    file.write(_HEAD.pack(len(key), len(line)) + key + line)
            self._runs.append((path, path.stat().st_size))
        self._held, self._size = [], 0


def _read(path: Path, size: int) -> Iterator[_Item]:
    with explained(path), path.open("rb", buffering=2**18) as file:
        if os.fstat(file.fileno()).st_size != size:
            raise UserError(f"{path} was changed while it was in use; run the same command again")
        while head := file.read(_HEAD.size):
            of_key, of_line = _HEAD.unpack(head)
            yield file.read(of_key), file.read(of_line)
