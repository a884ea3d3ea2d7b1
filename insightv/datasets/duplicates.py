"""Problems that come again: the same pixels and words, or nearly the same picture under the same words. Kept in SQLite, so memory does not grow."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from insightv.answers import normalise
from insightv.datasets.pictures import Picture
from insightv.records import Problem
from insightv.store import content_hash

DISTANCE = 5
"""Bits in which the looks of two near pictures differ at most: docs/sources.md says on what it was measured."""
MOST_DISTANCE = 15
_SHADE = 12
"""By how much (of 255) a channel of two near pictures' thumbs differs at most: looks alone see neither colour nor a small thing on a plain ground."""
_COMPARED = 500
"""Problems of the same words and of a like picture that one is compared with at most, the earliest first: bounds the time where thousands look alike."""

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE exact (key BLOB PRIMARY KEY, problem TEXT) WITHOUT ROWID;
CREATE TABLE known (place INTEGER PRIMARY KEY, problem TEXT, looks BLOB, thumbs BLOB);
CREATE TABLE near (band INTEGER, place INTEGER, PRIMARY KEY (band, place)) WITHOUT ROWID;
CREATE TABLE image (pixels BLOB PRIMARY KEY, problems INTEGER) WITHOUT ROWID;
"""
_LIKE = "SELECT problem, looks, thumbs FROM near JOIN known USING (place) WHERE band = ? ORDER BY place LIMIT ?"


class Duplicates:
    """What was imported so far. `distance` is in bits, from 0; None looks for exact repetitions alone."""

    def __init__(self, path: Path, distance: int | None = DISTANCE) -> None:
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.executescript(_TABLES)
        self._file.execute("BEGIN")
        self._distance = distance
        self._count = 0

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def find(self, problem: Problem, pictures: Sequence[Picture]) -> tuple[str, str] | None:
        """(`duplicate` or `near_duplicate`, id of the earlier problem), or None for a new one.

        Duplicates ask and answer the same about equal pixels; near ones ask and answer the same, once normalised, about pictures that look the same.
        """
        row = self._file.execute("SELECT problem FROM exact WHERE key = ?", (_exact(problem, pictures),)).fetchone()
        if row:
            return "duplicate", row[0]
        if self._distance is None:
            return None
        for other, looks, thumbs in self._alike(problem, pictures):
            if _near(pictures, looks, thumbs, self._distance):
                return "near_duplicate", other
        return None

    def add(self, problem: Problem, pictures: Sequence[Picture]) -> None:
        """Remember a problem that was new."""
        self._count += 1
        self._file.execute("INSERT INTO exact VALUES (?, ?)", (_exact(problem, pictures), problem.id))
        for pixels in sorted({picture.pixels for picture in pictures}):
            self._file.execute("INSERT INTO image VALUES (?, 1) ON CONFLICT DO UPDATE SET problems = problems + 1", (bytes.fromhex(pixels),))
        if self._distance is not None:
            looks = b"".join(picture.look.to_bytes(8, "big") for picture in pictures)
            thumbs = b"".join(picture.thumb for picture in pictures)
            self._file.execute("INSERT INTO known VALUES (?, ?, ?, ?)", (self._count, problem.id, looks, thumbs))
            bands = _bands(problem, pictures, self._distance)
            self._file.executemany("INSERT OR IGNORE INTO near VALUES (?, ?)", [(band, self._count) for band in bands])

    def shared(self) -> dict[str, int]:
        """How many images (`images`) stand in more than one problem, and how often these are used in all (`uses`)."""
        images, uses = self._file.execute("SELECT count(*), coalesce(sum(problems), 0) FROM image WHERE problems > 1").fetchone()
        return {"images": images, "uses": uses}

    def _alike(self, problem: Problem, pictures: Sequence[Picture]) -> Iterator[tuple[str, bytes, bytes]]:
        for band in _bands(problem, pictures, self._distance or 0):
            yield from self._file.execute(_LIKE, (band, _COMPARED))


def _exact(problem: Problem, pictures: Sequence[Picture]) -> bytes:
    return bytes.fromhex(content_hash([problem.question, problem.options, problem.answers, [picture.pixels for picture in pictures]]))


def _bands(problem: Problem, pictures: Sequence[Picture], distance: int) -> list[int]:
    """Keys of which two near problems share one: of distance + 1 parts of a look, as many differing bits leave one part equal."""
    words = [normalise(text) for text in (problem.question.replace("<image>", " "), *problem.options, *sorted(problem.answers))]
    look = f"{pictures[0].look:064b}" if pictures else ""
    parts = [look[64 * place // (distance + 1) : 64 * (place + 1) // (distance + 1)] for place in range(distance + 1 if pictures else 1)]
    hashes = (content_hash([words, len(problem.options), len(pictures), place, part]) for place, part in enumerate(parts))
    return [int(value[:16], 16) - 2**63 for value in hashes]


def same(one: Picture, other: Picture, distance: int) -> bool:
    """Whether two pictures look the same: looks that differ in `distance` bits at most, and thumbs that hardly differ in any place and colour."""
    return _near([one], other.look.to_bytes(8, "big"), other.thumb, distance)


def _near(pictures: Sequence[Picture], looks: bytes, thumbs: bytes, distance: int) -> bool:
    for place, picture in enumerate(pictures):
        if (picture.look ^ int.from_bytes(looks[8 * place : 8 * place + 8], "big")).bit_count() > distance:
            return False
        size = len(picture.thumb)
        ours, theirs = (np.frombuffer(thumb, np.uint8).astype(np.int16) for thumb in (picture.thumb, thumbs[size * place : size * (place + 1)]))
        if np.abs(ours - theirs).max() > _SHADE:
            return False
    return True
