"""Rows out of tar archives in WebDataset's form: members that share a name up to its first dot are one row.

The layout is that of the WebDataset library (webdataset.github.io): `dir/0001.json`, `dir/0001.jpg`, in that order or another, but next to each other;
several images of a row are `0001.0.jpg`, `0001.1.jpg`. An archive is read member by member as a stream, and nothing is written to disk.
"""

import re
import tarfile
from collections.abc import Iterator
from typing import IO, Any

import orjson

from insightv.datasets import formats
from insightv.datasets.formats import RowError

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_MOST_HEADER = 2**20
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")


class _Header(tarfile.TarInfo):
    """A whole header whose extension records are of a sane size: tarfile reads those into memory before we see the member."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        if 0 < len(buf) < tarfile.BLOCKSIZE:
            # tarfile takes this for the end.
            raise tarfile.ReadError("the archive breaks off in a header")
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENSIONS and header.size > _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


def tar_rows(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield (key, row) for each group of members: the fields of its JSON, `images` as bytes in the order of their numbers, texts by their suffix.

    A row holds `__key__`; its text in `key.txt` is the field `txt`, that in `key.answer.txt` the field `answer`. A group that is too large, names a
    member twice or has a broken JSON comes as the `RowError` that says so. A damaged archive raises what tarfile raises.
    """
    key, members, fault = "", dict[str, bytes](), None
    for name, data in _members(file):
        match = _NAME.fullmatch(name)
        if not match:
            continue
        if match[1] != key:
            if key:
                yield key, fault or _row(key, members)
            key, members, fault = match[1], {}, None
        suffix = match[2].casefold()
        if isinstance(data, RowError):
            fault, members = fault or data, {}
        elif suffix in members:
            fault = fault or RowError("bad_row", f"two members are called {name}")
        elif sum(map(len, members.values())) + len(data) > formats.MOST_ROW:
            fault, members = fault or _too_large(name), {}
        elif not fault:
            members[suffix] = data
    if key:
        yield key, fault or _row(key, members)


def _members(file: IO[bytes]) -> Iterator[tuple[str, bytes | RowError]]:
    with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Header) as archive:
        for member in archive:
            # The list of members would grow with the archive.
            archive.members = []  # type: ignore[attr-defined] # an attribute that its stub does not name
            if not member.isreg():
                continue
            if member.size > formats.MOST_ROW:
                yield member.name, _too_large(member.name)
                continue
            data = archive.extractfile(member)
            yield member.name, data.read() if data else b""


def _too_large(name: str) -> RowError:
    return RowError("row_too_large", f"with {name} the row has more than {formats.MOST_ROW} bytes")


def _row(key: str, members: dict[str, bytes]) -> Any:
    row: dict[str, Any] = {}
    images = []
    for suffix, data in members.items():
        *name, last = suffix.split(".")
        if last in IMAGES:
            images.append((int(name[0]) if name and name[0].isdecimal() else 0, suffix, data))
        elif last == "json":
            try:
                fields = orjson.loads(data)
            except orjson.JSONDecodeError as error:
                return RowError("bad_json", f"{key}.{suffix}: {error}")
            if not isinstance(fields, dict):
                return RowError("bad_row", f"{key}.{suffix} holds no object")
            row = fields | row
        elif last in ("txt", "cls"):
            try:
                row[".".join(name) or last] = data.decode("utf-8")
            except UnicodeDecodeError as error:
                return RowError("bad_row", f"{key}.{suffix}: {error}")
    if images:
        # Names of images in the JSON are names of members: these are they.
        row = {name: value for name, value in row.items() if name not in ("image", "images")} | {"images": [data for _, _, data in sorted(images)]}
    return {"__key__": key, **row}
