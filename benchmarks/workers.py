"""What workers under Ray give and cost: the same requests with 0, 2 and 4 of them, against the stub. `python -m benchmarks.workers`; see docs/benchmarks.md."""

import argparse
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from benchmarks.engines import payload
from benchmarks.engines.measure import cpu_seconds, family, tree_memory
from benchmarks.engines.ours import request
from benchmarks.engines.process import serving
from benchmarks.engines.weather import Settings
from insightv.config import EndpointConfig, ScaleConfig
from insightv.models.endpoint import Endpoint
from insightv.models.meter import Meter
from insightv.scale.local import run
from insightv.scale.spread import spread
from insightv.scale.worker import Job
from insightv.store import Run


@asynccontextmanager
async def requesting(folder: Path, digest: str, endpoints: Sequence[EndpointConfig]) -> AsyncIterator[Job[int, str]]:
    """One request for each row, journalled."""
    here = Run(folder)
    meter = Meter()
    endpoint = Endpoint(endpoints[0], here.images, here.journal, meter=meter)

    async def one(row: int) -> str:
        return (await request(endpoint, digest, row)).text

    try:
        yield Job(one, [endpoint.stats], meter)
    finally:
        await endpoint.close()
        here.journal.close()


def used() -> dict[int, float]:
    """CPU seconds of this process and all below it, by id."""
    return {pid: cpu_seconds(pid) for pid in family(os.getpid())}


async def measure(url: str, workers: int, rows: int, slots: int, folder: Path) -> str:
    """A line about one run: the rate from the second worker's first answers on, CPU time of all processes but the stub's, and their memory."""
    digest = Run(folder).images.add(payload.image())
    endpoint = EndpointConfig(url=url, concurrency=slots)
    begun = time.monotonic()
    settings = {"scale": ScaleConfig(workers=workers), "concurrency": int(1.5 * slots), "meter": Meter()}
    async with spread(partial(requesting, folder, digest), [endpoint], range(rows), str, **settings) as (results, _):
        count, marks = 0, []
        async for _ in results:
            count += 1
            if count in (rows // 4, rows):
                marks.append((time.monotonic(), used()))
            if count == 1:
                first = time.monotonic() - begun
        (early, before), (late, after) = marks
        size = tree_memory()
    seconds = sum(spent - before.get(pid, 0.0) for pid, spent in after.items())
    asked = rows - rows // 4
    return f"{workers} | {asked / (late - early):.0f} | {1000 * seconds / asked:.2f} | {size:.0f} | {first:.1f}"


def main() -> None:
    """Print a table of all runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=12000)
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2, 4])
    given = parser.parse_args()
    print("workers | requests/s | CPU s / 1,000 | MB | s to the first answer")
    for workers in given.workers:
        with serving(Settings()) as server, tempfile.TemporaryDirectory() as scratch:
            print(run(measure(server.url, workers, given.rows, given.slots, Path(scratch) / "run")), flush=True)


if __name__ == "__main__":
    main()
