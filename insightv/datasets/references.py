"""Images that stand in another row: VLMEvalKit's tables hold each image once, and in the other rows the index of the row that has it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from insightv.datasets.layouts import is_evalkit

_LONGEST_NAME = 64
"""An `image` of more characters is an image, as in VLMEvalKit's vlmeval/dataset/image_base.py."""


def resolve(rows: Callable[[], Iterator[tuple[str, Any]]], path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, row) of `rows()` with every index in `image` replaced by that row's image; what names no row stays as it is.

    Goes over the rows up to three times, with the images that others refer to in an SQLite file at `path`: the row may stand after those that name it.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; CREATE TABLE image (name TEXT PRIMARY KEY, data TEXT); BEGIN")
        for _, row in rows():
            if name := _named(row):
                file.execute("INSERT OR IGNORE INTO image VALUES (?, NULL)", (name,))
        (wanted,) = file.execute("SELECT count(*) FROM image").fetchone()
        for _, row in rows() if wanted else ():
            if is_evalkit(row) and isinstance(row.get("image"), str) and not _named(row):
                index = str(row["index"])
                if file.execute("SELECT 1 FROM image WHERE name = ? AND data IS NULL", (index,)).fetchone():
                    file.execute("UPDATE image SET data = ? WHERE name = ?", (row["image"], index))
        for place, row in rows():
            if wanted and (name := _named(row)):
                (data,) = file.execute("SELECT data FROM image WHERE name = ?", (name,)).fetchone()
                row = row | {"image": data or name}
            yield place, row


def _named(row: Any) -> str:
    image = row.get("image") if is_evalkit(row) else None
    return image.strip() if isinstance(image, str) and len(image) <= _LONGEST_NAME else ""
