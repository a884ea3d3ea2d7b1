"""Ray Data's map_batches with an actor that is an async generator, as much in flight as twice the slots; a row is a chain or one request.

Ray has no journal of requests; this run has none.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import ray

from benchmarks.engines import payload
from benchmarks.engines.measure import Meter, say
from benchmarks.engines.peers import arguments

BATCH = 16


class Ask:
    """The actor: batches come several at once, and the semaphore holds them to the slots together."""

    def __init__(self, url: str, steps: int, slots: int) -> None:
        self._url, self._steps, self._slots = f"{url}/chat/completions", steps, slots
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        if self._session is None:
            self._places = asyncio.Semaphore(self._slots)
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        for finished in asyncio.as_completed([self._row(int(row)) for row in batch["id"]]):
            row, said = await finished
            yield {"id": [row], "said": [said]}

    async def _row(self, row: int) -> tuple[int, str]:
        steps: list[str] = []
        assert self._session
        for _ in range(self._steps):
            body = {"model": payload.MODEL, "messages": payload.messages(row, steps), "temperature": 0.7, "top_p": 0.95, "max_tokens": 1024}
            async with self._places, self._session.post(self._url, data=orjson.dumps(body), headers={"Content-Type": "application/json"}) as response:
                steps.append(orjson.loads(await response.read())["choices"][0]["message"]["content"])
        return row, steps[-1]


def main() -> None:
    """One run; the result is the last line."""
    given = arguments.read(__doc__)
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False, object_store_memory=256 * 2**20)
    ray.data.DataContext.get_current().enable_progress_bars = False
    batches = 2 * given.slots // BATCH + 2
    pool = ray.data.ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=2 * batches, max_concurrent_calls_per_actor=batches)
    blocks = max(1, given.rows // BATCH)
    with Meter(tree=True) as meter:
        data = ray.data.range(given.rows, override_num_blocks=blocks).map_batches(
            Ask, fn_constructor_args=(given.url, given.steps, given.slots), batch_size=BATCH, compute=pool, num_cpus=1
        )
        done = sum(len(batch["id"]) for batch in data.iter_batches(batch_size=None))
    say(done=done, **meter.result)


if __name__ == "__main__":
    main()
