"""What workers under Ray give and cost: the same requests with 0, 2 and 4 of them, against the stub. `python -m benchmarks.workers`; see docs/benchmarks.md."""

import argparse
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from benchmarks.engines import payload
from benchmarks.engines.ours import problem
from benchmarks.engines.process import serving
from benchmarks.engines.weather import Settings
from insightv.config import EndpointConfig, ScaleConfig
from insightv.models.chat import Sampling
from insightv.models.endpoint import Endpoint
from insightv.models.meter import Meter
from insightv.prompts import STEP_SCHEMA, generator_messages
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
        sampling = Sampling(seed=row, temperature=0.7, top_p=0.95, max_tokens=1024, schema=STEP_SCHEMA)
        [reply] = await endpoint.complete(generator_messages(problem(row, digest), ()), sampling)
        return reply.text

    try:
        yield Job(one, [endpoint.stats], meter)
    finally:
        await endpoint.close()
        here.journal.close()


def family() -> dict[int, tuple[float, float]]:
    """CPU seconds and resident megabytes of this process and all below it, by id."""
    facts, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = int(path.parent.name), re.sub(r"^.*\) ", "", path.read_text(), flags=re.DOTALL).split()
        except OSError:  # it ended meanwhile
            continue
        parents[pid] = int(rest[1])
        facts[pid] = (int(rest[11]) + int(rest[12])) / os.sysconf("SC_CLK_TCK"), int(rest[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: facts[pid] for pid in found}


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
                marks.append((time.monotonic(), family()))
            if count == 1:
                first = time.monotonic() - begun
        (early, before), (late, after) = marks
    cpu = sum(used - before.get(pid, (0.0, 0.0))[0] for pid, (used, _) in after.items())
    asked = rows - rows // 4
    return f"{workers} | {asked / (late - early):.0f} | {1000 * cpu / asked:.2f} | {sum(size for _, size in after.values()):.0f} | {first:.1f}"


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
