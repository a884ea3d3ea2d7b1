"""Data sets that were built, read back as rows, and others made of them."""

from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow.parquet as pq

from insightv.datasets.export import shards
from insightv.datasets.rows import Made, Row
from insightv.store import content_hash

_BATCH = 256


def read(folder: Path) -> Iterator[Row]:
    """The rows of the set that `export.save` wrote to `folder`, in their order; images by their digests."""
    with (folder / "manifest.jsonl").open("rb") as traces:
        for file in shards(folder):
            columns = [name for name in pq.read_schema(file).names if name != "images"]
            for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=columns):
                for item in batch.to_pylist():
                    traced = orjson.loads(next(traces))
                    if traced["id"] != item["id"]:
                        raise ValueError(f"row {item['id']} of {folder} has the trace of {traced['id']}")
                    yield item | {name: traced[name] for name in ("problem_id", "part", "images")} | {"trace": traced["chains"]}


def joined(*folders: Path) -> Iterator[Made]:
    """All rows of several sets of one kind; a row that stands in two of them is taken once."""
    taken: set[str] = set()
    for folder in folders:
        for row in read(folder):
            if row["id"] not in taken:
                taken.add(row["id"])
                yield [row], []


def chosen(folder: Path) -> Iterator[Made]:
    """The chosen chains of preference pairs as rows of SFT, each chain once however many pairs it won."""
    taken: set[str] = set()
    for pair in read(folder):
        winner = pair["trace"]["chosen"]
        if winner["chain_id"] not in taken:
            taken.add(winner["chain_id"])
            kept = {name: pair[name] for name in ("problem_id", "images", "prompt")}
            identity = content_hash(["chosen", pair["problem_id"], winner["chain_id"]])
            yield [{"id": identity, "part": "chosen", **kept, "completion": pair["chosen"], "trace": {"chain": winner}}], []
