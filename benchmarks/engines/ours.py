"""This project's engine over the stub: journal and image store on disk, single requests or chains through `progressive`."""

import argparse
import contextlib
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.engines import payload
from benchmarks.engines.measure import Meter, say
from insightv.config import EndpointConfig, GenerateConfig
from insightv.generation.sample import progressive
from insightv.models.chat import EndpointDown, Reply, Sampling
from insightv.models.endpoint import Endpoint
from insightv.prompts import STEP_SCHEMA, generator_messages
from insightv.records import Problem
from insightv.scale.local import completed
from insightv.scale.local import run as run_on_fast_loop
from insightv.store import ImageStore, Journal

OPEN = 1.5
"""Rows open for a slot: what waits outside its slot leaves it to another."""


def problem(row: int, digest: str) -> Problem:
    """A row as the engine's users write it."""
    return Problem(id=f"{row:032d}", question=payload.question(row), images=(digest,), answers=("7",))


async def request(endpoint: Endpoint, digest: str, row: int) -> Reply:
    """The first step of a row's chain alone."""
    messages = generator_messages(problem(row, digest), ())
    [reply] = await endpoint.complete(messages, Sampling(seed=row, temperature=0.7, top_p=0.95, max_tokens=1024, schema=STEP_SCHEMA))
    return reply


async def run(endpoint: Endpoint, digest: str, rows: int, steps: int, slots: int) -> dict[str, int]:
    """Rows done by their fate: `ok`, `failed`, and for chains `defect`."""
    settings = GenerateConfig(max_steps=15)

    async def single(row: int) -> str:
        return "failed" if (await request(endpoint, digest, row)).finish == "failed" else "ok"

    async def chain(row: int) -> str:
        return (await progressive(problem(row, digest), endpoint, settings, seed=0, index=0)).status

    counts: dict[str, int] = {}
    try:
        async with contextlib.aclosing(completed(single if steps == 1 else chain, range(rows), concurrency=int(slots * OPEN))) as fates:
            async for _, fate in fates:
                counts[fate] = counts.get(fate, 0) + 1
    finally:
        await endpoint.close()
    return counts


def main() -> None:
    """One run in a folder that is kept only if it is named; the result is the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="keeps journal and images, so that a killed run can be repeated")
    parser.add_argument("--settings", default="{}", help="further fields of EndpointConfig as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        say(**measured(arguments, arguments.folder or Path(scratch)))


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Counts and costs of the run."""
    config = EndpointConfig.model_validate_json(arguments.settings).model_copy(update={"url": arguments.url, "concurrency": arguments.slots})
    images, stats, counts, down = ImageStore(folder / "images"), {}, {}, ""
    digest = images.add(payload.image())

    async def work() -> None:
        nonlocal stats, counts
        endpoint = Endpoint(config, images, journal)
        counts = await run(endpoint, digest, arguments.rows, arguments.steps, arguments.slots)
        stats = vars(endpoint.stats)

    with Meter() as meter, Journal(folder / "journal") as journal:
        try:
            run_on_fast_loop(work())
        except EndpointDown as error:
            down = str(error)
    return {"done": sum(counts.values()), "counts": counts, "stats": stats, "down": down, **meter.result}


if __name__ == "__main__":
    main()
