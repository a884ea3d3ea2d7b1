"""One run of the engine in a folder that is kept, as a stage of a run does it: `python engine_run.py URL FOLDER ROWS STEPS SLOTS`.

Rows are single requests (STEPS 1) or chains. It says `begun`, works, writes what came of each row to FOLDER/outcomes.jsonl, and ends as the command
line does: a line on stderr and exit code 2 for what a user can mend, 143 after SIGTERM with what was in flight kept.
"""

import signal
import sys
from pathlib import Path

from benchmarks.engines import payload
from benchmarks.engines.ours import OPEN, problem
from insightv.config import EndpointConfig, GenerateConfig, UserError
from insightv.files import explained
from insightv.generation.sample import progressive
from insightv.models.chat import Halted, Sampling
from insightv.models.endpoint import Endpoint
from insightv.models.meter import Meter
from insightv.prompts import STEP_SCHEMA, generator_messages
from insightv.scale.local import map_records, run
from insightv.store import ImageStore, Journal


async def outcomes(url: str, folder: Path, journal: Journal, meter: Meter, rows: int, steps: int, slots: int) -> list[str]:
    """What came of each row, as one line."""
    images = ImageStore(folder / "images")
    digest = images.add(payload.image())
    endpoint = Endpoint(EndpointConfig(url=url, concurrency=slots, price_in=1.0, price_out=2.0), images, journal, meter=meter)

    async def request(row: int) -> str:
        messages = generator_messages(problem(row, digest), ())
        [reply] = await endpoint.complete(messages, Sampling(seed=row, temperature=0.7, top_p=0.95, max_tokens=1024, schema=STEP_SCHEMA))
        return f"{row} {reply.finish} {reply.error or reply.text}"

    async def chain(row: int) -> str:
        return (await progressive(problem(row, digest), endpoint, GenerateConfig(), seed=0, index=0)).model_dump_json()

    print("begun", flush=True)
    try:
        return await map_records(request if steps == 1 else chain, range(rows), concurrency=int(slots * OPEN))
    finally:
        await endpoint.close()


def main() -> int:
    url, folder, rows, steps, slots = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    meter = Meter()
    signal.signal(signal.SIGTERM, lambda number, _: meter.halt(Halted("stopped", 128 + number)))
    try:
        with Journal(folder / "journal", "soak") as journal:
            lines = run(outcomes(url, folder, journal, meter, rows, steps, slots))
        with explained(folder):
            (folder / "outcomes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except (UserError, Halted) as error:
        print(error, file=sys.stderr)
        return error.code if isinstance(error, Halted) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
