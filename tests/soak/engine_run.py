"""One run of the engine in a folder that is kept, as a stage of a run does it: `python engine_run.py URL FOLDER ROWS STEPS SLOTS WORKERS`.

Rows are single requests (STEPS 1) or chains, asked for in this process or by so many WORKERS. It says `begun`, works, writes what came of each row
to FOLDER/outcomes.jsonl, and ends as the command line does: a line on stderr and exit code 2 for what a user can mend, 143 after SIGTERM with what
was in flight kept.
"""

import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from benchmarks.engines import payload
from benchmarks.engines.ours import OPEN, problem, request
from insightv.config import EndpointConfig, GenerateConfig, ScaleConfig, UserError
from insightv.files import explained
from insightv.generation.sample import progressive
from insightv.models.chat import Halted
from insightv.models.endpoint import Endpoint
from insightv.models.meter import Meter
from insightv.scale.local import run
from insightv.scale.spread import spread
from insightv.scale.worker import Job
from insightv.store import ImageStore, Journal


@asynccontextmanager
async def asking(folder: Path, digest: str, steps: int, meter: Meter | None, endpoints: Sequence[EndpointConfig]) -> AsyncIterator[Job[int, str]]:
    """A row's number -> what came of it, as one line. A worker has a meter of its own."""
    meter, images = meter or Meter(), ImageStore(folder / "images")
    with Journal(folder / "journal", "soak") as journal:
        endpoint = Endpoint(endpoints[0], images, journal, meter=meter)

        async def single(row: int) -> str:
            reply = await request(endpoint, digest, row)
            return f"{row} {reply.finish} {reply.error or reply.text}"

        async def chain(row: int) -> str:
            return (await progressive(problem(row, digest), endpoint, GenerateConfig(), seed=0, index=0)).model_dump_json()

        try:
            yield Job(single if steps == 1 else chain, [endpoint.stats], meter)
        finally:
            await endpoint.close()


async def outcomes(url: str, folder: Path, meter: Meter, rows: int, steps: int, slots: int, workers: int) -> list[str]:
    """The lines of all rows, in order."""
    digest = ImageStore(folder / "images").add(payload.image())
    endpoint = EndpointConfig(url=url, concurrency=slots, price_in=1.0, price_out=2.0)
    job = partial(asking, folder, digest, steps, None if workers else meter)
    lines: dict[int, str] = {}
    print("begun", flush=True)
    scale = ScaleConfig(workers=workers)
    async with spread(job, [endpoint], range(rows), str, scale=scale, concurrency=int(slots * OPEN), meter=meter) as (results, _):
        async for position, line in results:
            lines[position] = line
    return [lines[position] for position in range(rows)]


def main() -> int:
    url, folder, numbers = sys.argv[1], Path(sys.argv[2]), map(int, sys.argv[3:])
    meter = Meter()
    signal.signal(signal.SIGTERM, lambda number, _: meter.halt(Halted("stopped", 128 + number)))
    try:
        lines = run(outcomes(url, folder, meter, *numbers))
        with explained(folder):
            (folder / "outcomes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except (UserError, Halted) as error:
        print(error, file=sys.stderr)
        return error.code if isinstance(error, Halted) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
