"""Rows as a Hugging Face data set in TRL's conversational form, with a manifest that traces every row; same rows, same bytes.

Images are embedded, so that a set stands alone. Within a row group (at most 4096 rows and 64 MiB before compression) Parquet holds every image once; an
image that rows of other groups share is repeated in each. Where a million rows share 1,000 images, these cost about 0.5 GB if an image has 2 KB, and
some 28 GB if it has 50 KB (docs/benchmarks.md); therefore a set is cut into shards of about 512 MiB: `train-00000.parquet`, `train-00001.parquet` ..
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import accumulate, count
from pathlib import Path
from typing import IO, Any, cast

import orjson
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value

from insightv.config import UserError
from insightv.datasets.rows import Made, Row
from insightv.files import replacing
from insightv.sorting import Sorter
from insightv.store import ImageStore

SHARDS = "train-*.parquet"
_MESSAGES = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})
_COMPLETIONS = ("completion", "chosen", "rejected")
_GROUP, _GROUP_BYTES, _SHARD_BYTES = 4096, 64 * 2**20, 512 * 2**20
_IMAGES = "images.list.element.bytes"
"""The one column whose values come again and again, in Parquet's notation."""


@dataclass(slots=True)
class _Group:
    """Rows that are written together."""

    traces: list[bytes] = field(default_factory=list)
    """Their lines of the manifest."""
    columns: list[bytes] = field(default_factory=list)
    """Their columns but for the images, as JSON."""
    counts: list[int] = field(default_factory=list)
    """How many images each has."""
    blobs: list[bytes] = field(default_factory=list)
    """The images of all."""


def save(made: Iterable[Made], images: ImageStore, folder: Path, scratch: Path, *, memory: int = 256 * 2**20) -> dict[str, Any]:
    """Write rows to `folder` in the order of their ids and return counts: rows, per part, and rejections per reason.

    `train-00000.parquet`, and what follows where the set is large, have the columns `id`, `images` (encoded bytes, embedded), `prompt` and `completion`,
    or `chosen`, `rejected` and `rejected_truncated`; `manifest.jsonl` one line per row with its problem, part, image digests, chains, verdicts and scores;
    `rejections.jsonl` what did not become a row and why, in the order in which it came. Rows of different kinds and repeated ids are a ValueError, no
    rows a `UserError`. Rows are sorted in `scratch`, a folder of its own, with about `memory` bytes held.
    """
    reasons: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    in_order = Sorter(scratch, memory)
    completions: tuple[str, ...] = ()
    with replacing(folder / "rejections.jsonl") as file:
        for rows, rejections in made:
            for row in rows:
                completions = completions or _completions(row)
                if _completions(row) != completions:
                    raise ValueError(f"row {row['id']} does not have the columns {', '.join(completions)}: a data set holds rows of one kind")
                parts[row["part"]] += 1
                in_order.add(row["id"].encode(), _packed(row, completions))
            for rejection in rejections:
                reasons[rejection["reason"]] += 1
                file.write(orjson.dumps(rejection, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))
        if not parts:
            raise UserError(f"no rows to write to {folder}: every candidate was rejected; loosen the settings of this data set or make more chains")
        with replacing(folder / "manifest.jsonl") as manifest:
            _write(_groups(in_order, images), features(completions).arrow_schema, folder, manifest)
    return {"rows": parts.total(), "parts": dict(sorted(parts.items())), "rejections": dict(sorted(reasons.items()))}


def load(folder: Path, cache: Path | None = None) -> Dataset:
    """The data set that `save` wrote, memory-mapped from an Arrow copy in `cache` (default: that of `datasets`)."""
    return cast(Dataset, Dataset.from_parquet(list(map(str, shards(folder))), cache_dir=None if cache is None else str(cache)))


def shards(folder: Path) -> list[Path]:
    """The files of the data set that `save` wrote, in their order."""
    found = sorted(folder.glob(SHARDS))
    if not found:
        raise UserError(f"no data set in {folder}: train-00000.parquet is missing; build it first")
    return found


def features(completions: Sequence[str]) -> Features:
    """The columns of a data set with these completion columns."""
    marks = dict.fromkeys(_marks(completions), Value("bool"))
    return Features({"id": Value("string"), "images": List(Image()), "prompt": _MESSAGES, **dict.fromkeys(completions, _MESSAGES), **marks})


def _marks(completions: Sequence[str]) -> list[str]:
    """Columns beside the completions; TRL leaves alone what it does not know."""
    return ["rejected_truncated"] if "rejected" in completions else []


def _completions(row: Row) -> tuple[str, ...]:
    return tuple(name for name in _COMPLETIONS if name in row)


def _packed(row: Row, completions: Sequence[str]) -> bytes:
    """Two lines: of the manifest, and the columns but for the images."""
    traced = {name: row[name] for name in ("id", "problem_id", "part", "images")} | {"chains": row["trace"]}
    columns = {name: row[name] for name in ("id", "prompt", *completions, *_marks(completions))}
    return orjson.dumps(traced, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE) + orjson.dumps(columns)


def _groups(rows: Iterable[bytes], images: ImageStore) -> Iterator[_Group]:
    """Packed rows in the order of their ids, with their images."""
    group, size, last = _Group(), 0, ""
    for row in rows:
        trace, columns = row.split(b"\n")
        traced = orjson.loads(trace)
        if traced["id"] == last:
            raise ValueError(f"row {last} comes twice")
        last = traced["id"]
        blobs = [images.get(digest) for digest in traced["images"]]
        group.traces.append(trace + b"\n")
        group.columns.append(columns)
        group.counts.append(len(blobs))
        group.blobs += blobs
        size += len(columns) + sum(map(len, blobs))
        if len(group.columns) == _GROUP or size >= _GROUP_BYTES:
            yield group
            group, size = _Group(), 0
    if group.columns:
        yield group


def _write(groups: Iterator[_Group], schema: pa.Schema, folder: Path, manifest: IO[bytes]) -> None:
    for stale in folder.glob(SHARDS):
        stale.unlink()
    group = next(groups, None)
    for number in count():
        if group is None:
            return
        with replacing(folder / f"train-{number:05}.parquet") as file, _writer(file, schema) as writer:
            while group and file.tell() < _SHARD_BYTES:
                writer.write_table(_table(group, schema))
                manifest.writelines(group.traces)
                group = next(groups, None)


def _writer(file: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    # Unless its dictionary may be as large as the group, images are written once for every row.
    return pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=[_IMAGES], dictionary_pagesize_limit=2 * _GROUP_BYTES)


def _table(group: _Group, schema: pa.Schema) -> pa.Table:
    lines = b"\n".join(group.columns)
    parsing = pa.json.ParseOptions(explicit_schema=schema.remove(schema.get_field_index("images")), unexpected_field_behavior="error")
    reading = pa.json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    table = pa.json.read_json(BytesIO(lines), reading, parsing)
    images = pa.StructArray.from_arrays([pa.array(group.blobs, pa.binary()), pa.nulls(len(group.blobs), pa.string())], ["bytes", "path"])
    lists = pa.ListArray.from_arrays(pa.array([0, *accumulate(group.counts)], pa.int32()), images)
    return pa.Table.from_arrays([lists if name == "images" else table[name] for name in schema.names], schema=schema)
