"""A quota: of any number of rows those with the smallest hashes, whatever their order; on disk, so memory does not grow."""

import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from insightv.datasets.pictures import Picture
from insightv.records import Problem
from insightv.store import ImageStore

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE chosen (key TEXT PRIMARY KEY, problem TEXT, pictures BLOB, place BLOB) WITHOUT ROWID;
CREATE TABLE rejected (number INTEGER PRIMARY KEY, key TEXT, rejection BLOB);
"""


class Quota:
    """The `most` problems of the smallest keys among those offered, and the rejections of rows that would have been among them.

    A row above the largest key kept so far is never wanted again, so of N rows about `most` x ln(N / `most`) are decoded, not N.
    """

    def __init__(self, folder: Path, most: int) -> None:
        folder.mkdir()
        self._file = sqlite3.connect(folder / "chosen.sqlite", isolation_level=None)
        self._file.executescript(_TABLES)
        self._file.execute("BEGIN")
        self._images = ImageStore(folder / "images", cache=0)
        self._most = most
        self._count = 0

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def wants(self, key: str) -> bool:
        """Whether a row of this key can still be among the chosen ones."""
        return self._count < self._most or key <= self._largest()

    def add(self, key: str, problem: Problem, pictures: list[Picture], place: dict[str, Any]) -> str | None:
        """Choose a problem for now; the id of the problem with the same key if there is one. Of these two the one with the smaller `meta` stays."""
        row = self._file.execute("SELECT problem FROM chosen WHERE key = ?", (key,)).fetchone()
        if row:
            known = Problem.model_validate_json(row[0])
            if _canonical(problem) < _canonical(known):
                self._file.execute("UPDATE chosen SET problem = ? WHERE key = ?", (problem.model_dump_json(), key))
            return known.id
        facts = [asdict(picture) | {"data": self._images.add(picture.data), "thumb": picture.thumb.hex(), "look": f"{picture.look:x}"} for picture in pictures]
        self._file.execute("INSERT INTO chosen VALUES (?, ?, ?, ?)", (key, problem.model_dump_json(), orjson.dumps(facts), orjson.dumps(place)))
        self._count += 1
        if self._count > self._most:
            self._file.execute("DELETE FROM chosen WHERE key = ?", (self._largest(),))
            self._count -= 1
        return None

    def reject(self, key: str, rejection: dict[str, Any]) -> None:
        """Keep a rejection until it is known whether its row would have been chosen."""
        self._file.execute("INSERT INTO rejected (key, rejection) VALUES (?, ?)", (key, orjson.dumps(rejection)))

    def rejections(self) -> Iterator[dict[str, Any]]:
        """Rejections of rows below the largest key chosen, in the order in which they came."""
        last = self._largest() if self._count >= self._most else "g"
        for (rejection,) in self._file.execute("SELECT rejection FROM rejected WHERE key <= ? ORDER BY number", (last,)):
            yield orjson.loads(rejection)

    def chosen(self) -> Iterator[tuple[Problem, list[Picture], dict[str, Any]]]:
        """The chosen problems in the order of their keys, with their pictures and what was given as their place."""
        for problem, pictures, place in self._file.execute("SELECT problem, pictures, place FROM chosen ORDER BY key"):
            facts = orjson.loads(pictures)
            yield Problem.model_validate_json(problem), [self._picture(fact) for fact in facts], orjson.loads(place)

    def _picture(self, fact: dict[str, Any]) -> Picture:
        return Picture(self._images.get(fact["data"]), fact["pixels"], int(fact["look"], 16), bytes.fromhex(fact["thumb"]))

    def _largest(self) -> str:
        return str(self._file.execute("SELECT max(key) FROM chosen").fetchone()[0] or "")


def _canonical(problem: Problem) -> bytes:
    return orjson.dumps(problem.meta, option=orjson.OPT_SORT_KEYS)
