"""Rows out of one open file of each kind, one at a time; no row is larger than `MOST_ROW`, and nothing in a file is executed."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import orjson

from insightv.config import UserError

MOST_ROW = 128 * 2**20
"""Bytes of a row at most, images included: more is a mistake or an attack."""
BATCH = 16
"""Rows of Parquet and of Hugging Face data sets that are in memory at once."""
_PIECE = 2**20
_BLANK = re.compile(r"[ \t\r\n]*")


class RowError(ValueError):
    """Why a row cannot become a problem: a fixed name and a detail for the reader."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class DamagedFile(Exception):
    """What a library said of a file that cannot be read further."""


def _lines(file: IO[bytes]) -> Iterator[bytes | RowError]:
    while line := file.readline(MOST_ROW + 1):
        if len(line) <= MOST_ROW:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_PIECE)
        yield RowError("row_too_large", f"a line of more than {MOST_ROW} bytes")


def _json_lines(file: IO[bytes], path: Path) -> Iterator[Any]:
    for line in _lines(file):
        yield line if isinstance(line, RowError) else _parsed(line)


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return RowError("bad_json", str(error))


def _json_list(file: IO[bytes], path: Path) -> Iterator[Any]:
    """Elements of one JSON list, however long it is: the standard library finds where an element ends in what was read so far."""
    text = io.TextIOWrapper(file, "utf-8-sig")
    find_end = json.JSONDecoder().raw_decode
    count, size = 0, _PIECE
    try:
        buffer = text.read(size).lstrip()
        if not buffer.startswith("["):
            raise UserError(f"{path} must hold a list of rows; for one row per line call it .jsonl")
        at = 1
        while True:
            start = end = _after_blank(buffer, at)
            try:
                end = _after_blank(buffer, find_end(buffer, start)[1])
            except (ValueError, RecursionError):
                # Broken, or only cut by the end of the buffer: reading on tells.
                end = start if count == 0 and buffer[start : start + 1] == "]" else len(buffer)
            if end == len(buffer):
                piece = text.read(size)
                if not piece or len(buffer) - at > MOST_ROW:
                    raise UserError(f"{path} is not valid JSON after row {count}")
                buffer, at, size = buffer[at:] + piece, 0, 2 * size
                continue
            if buffer[end] not in ",]":
                raise UserError(f"{path} is not valid JSON after row {count}")
            if end > start:
                count += 1
                yield _parsed(buffer[start:end].encode())
            if buffer[end] == "]":
                return
            at, size = end + 1, _PIECE
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid JSON after row {count}: {error}") from None


def _after_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


class _Text:
    """Lines for the csv module, and what is wrong with those of the current row; a bad row is read to its end, or its quotes would swallow the next."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = 0
        self.fault: RowError | None = None

    def __iter__(self) -> "_Text":
        return self

    def __next__(self) -> str:
        pieces: list[bytes] = []
        while piece := self._file.readline(_PIECE):
            self._size += len(piece)
            # Of what is too much only the parity of quotes is kept, by which the csv module knows where the row ends.
            pieces.append(piece if self._size <= MOST_ROW else b'"' * (piece.count(b'"') % 2))
            if piece.endswith(b"\n"):
                break
        if not pieces:
            raise StopIteration
        if self._size > MOST_ROW:
            self.fault = RowError("row_too_large", f"a row of more than {MOST_ROW} bytes")
        try:
            return b"".join(pieces).decode("utf-8")
        except UnicodeDecodeError as error:
            self.fault = self.fault or RowError("bad_row", str(error))
            return b"".join(pieces).decode("utf-8", "replace")

    def next_row(self) -> None:
        """Forget the row before."""
        self._size, self.fault = 0, None


def _tsv(file: IO[bytes], path: Path) -> Iterator[Any]:
    return _table(file, path, "\t")


def _csv(file: IO[bytes], path: Path) -> Iterator[Any]:
    return _table(file, path, ",")


def _table(file: IO[bytes], path: Path, delimiter: str) -> Iterator[Any]:
    """Rows of TSV or CSV as name -> text; an empty cell is None."""
    csv.field_size_limit(2 * MOST_ROW)
    text = _Text(file)
    reader = csv.reader(text, delimiter=delimiter)
    names = [name.removeprefix("\ufeff").strip() for name in next(reader, [])]
    if text.fault or not names or len(set(names)) != len(names):
        raise UserError(f"{path} needs a first line of column names, each once")
    while True:
        text.next_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            text.fault, cells = RowError("bad_row", str(error)), []
        if not text.fault and cells and len(cells) != len(names):
            text.fault = RowError("bad_row", f"{len(cells)} cells for {len(names)} columns")
        if text.fault:
            yield text.fault
        elif cells:
            yield {name: cell or None for name, cell in zip(names, cells, strict=True)}


def _parquet(file: IO[bytes], path: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # A buffered stream reads pages as they are needed; the default would take whole column chunks into memory.
        table = parquet.ParquetFile(file, pre_buffer=False, buffer_size=_PIECE)
        yield from arrow_rows(table.iter_batches(batch_size=BATCH))
    except (pa.ArrowException, OSError) as error:
        raise DamagedFile(error) from error


def arrow_rows(batches: Iterable[Any]) -> Iterator[Any]:
    """Rows of Arrow batches or tables as they are stored: an image is a struct of `bytes` and `path` and is not decoded here."""
    for batch in batches:
        for place in range(batch.num_rows):
            row = batch.slice(place, 1)
            if row.nbytes > MOST_ROW:
                yield RowError("row_too_large", f"a row of {row.nbytes} bytes, more than {MOST_ROW}")
                continue
            try:
                yield row.to_pylist()[0]
            except (UnicodeDecodeError, ValueError, OverflowError) as error:
                yield RowError("bad_row", str(error))


READERS: dict[str, Callable[[IO[bytes], Path], Iterator[Any]]] = {"json": _json_list, "jsonl": _json_lines, "tsv": _tsv, "csv": _csv, "parquet": _parquet}
"""Kind of a file -> its rows. A row that cannot be read comes as a `RowError`; a file that is damaged raises its library's error or `DamagedFile`."""
