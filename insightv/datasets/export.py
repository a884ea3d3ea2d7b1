"""Rows as a Hugging Face data set in TRL's conversational form, with a manifest that traces every row; same rows, same bytes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value

from insightv.config import UserError
from insightv.datasets.rows import Rejection, Row
from insightv.files import replacing
from insightv.store import ImageStore

PARQUET = "train-00000.parquet"
_MESSAGES = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})
_COMPLETIONS = ("completion", "chosen", "rejected")
_GROUP = 256
"""Rows written at a time, so that memory holds only their images."""


def save(rows: Iterable[Row], rejections: Iterable[Rejection], images: ImageStore, folder: Path) -> dict[str, Any]:
    """Write rows to `folder` in their order and return counts: rows, per part, and rejections per reason.

    `train-00000.parquet` has the columns `id`, `images` (encoded bytes, embedded), `prompt` and `completion`, or `chosen`,
    `rejected` and `rejected_truncated`; `manifest.jsonl` one line per row with its problem, part, image digests, chains, verdicts and scores;
    `rejections.jsonl` what did not become a row and why. Rows of different kinds and repeated ids are a ValueError, no rows
    a `UserError`.
    """
    parts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    ids: set[str] = set()
    stream = iter(rows)
    first = next(stream, None)
    if first is None:
        raise UserError(f"no rows to write to {folder}: every candidate was rejected; loosen the settings of this data set or make more chains")
    completions = [name for name in _COMPLETIONS if name in first]
    schema = features(completions).arrow_schema
    with replacing(folder / "manifest.jsonl") as manifest, replacing(folder / PARQUET) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        stream = chain([first], stream)
        while group := list(islice(stream, _GROUP)):
            writer.write_table(pa.Table.from_pylist([_columns(row, completions, images) for row in group], schema=schema))
            for row in group:
                if row["id"] in ids:
                    raise ValueError(f"row {row['id']} comes twice")
                ids.add(row["id"])
                parts[row["part"]] += 1
                traced = {name: row[name] for name in ("id", "problem_id", "part", "images")} | {"chains": row["trace"]}
                manifest.write(orjson.dumps(traced, option=orjson.OPT_SORT_KEYS) + b"\n")
    with replacing(folder / "rejections.jsonl") as file:
        for rejection in rejections:
            reasons[rejection["reason"]] += 1
            file.write(orjson.dumps(rejection, option=orjson.OPT_SORT_KEYS) + b"\n")
    return {"rows": parts.total(), "parts": dict(sorted(parts.items())), "rejections": dict(sorted(reasons.items()))}


def load(folder: Path, cache: Path | None = None) -> Dataset:
    """The data set that `save` wrote, memory-mapped from an Arrow copy in `cache` (default: that of `datasets`)."""
    path = folder / PARQUET
    if not path.is_file():
        raise UserError(f"no data set in {folder}: {PARQUET} is missing; build it first")
    return cast(Dataset, Dataset.from_parquet(str(path), cache_dir=None if cache is None else str(cache)))


def features(completions: Sequence[str]) -> Features:
    """The columns of a data set with these completion columns."""
    marks = dict.fromkeys(_marks(completions), Value("bool"))
    return Features({"id": Value("string"), "images": List(Image()), "prompt": _MESSAGES, **dict.fromkeys(completions, _MESSAGES), **marks})


def _marks(completions: Sequence[str]) -> list[str]:
    """Columns beside the completions; TRL leaves alone what it does not know."""
    return ["rejected_truncated"] if "rejected" in completions else []


def _columns(row: Row, completions: Sequence[str], images: ImageStore) -> dict[str, Any]:
    if [name for name in _COMPLETIONS if name in row] != list(completions):
        raise ValueError(f"row {row['id']} does not have the columns {', '.join(completions)}: a data set holds rows of one kind")
    embedded = [{"bytes": images.get(digest), "path": None} for digest in row["images"]]
    return {"images": embedded, **{name: row[name] for name in ("id", "prompt", *completions, *_marks(completions))}}
