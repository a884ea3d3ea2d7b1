"""Ray Data's map_batches with an actor that is an async generator; a row is a chain or one request.

Small batches in one block, so many at once in the actor that they hold three times the slots: a batch ends with its slowest row, and a semaphore
keeps what is in flight to the slots. Large batches or many blocks were slower. Ray has no journal of requests; this run has none.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import ray

from benchmarks.engines import payload
from benchmarks.engines.measure import Meter, say
from benchmarks.engines.peers import arguments

BATCH, TIMES = 4, 3
"""Rows of a batch, and how many times the slots the open batches hold."""


class Ask:
    """The actor: batches come several at once, and the semaphore holds them to the slots together."""

    def __init__(self, url: str, steps: int, slots: int) -> None:
        self._url, self._steps, self._slots = f"{url}/chat/completions", steps, slots
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        if self._session is None:
            self._places = asyncio.Semaphore(self._slots)
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        said = await asyncio.gather(*(self._row(int(row)) for row in batch["id"]))
        yield {"id": batch["id"], "said": said}

    async def _row(self, row: int) -> str:
        steps: list[str] = []
        assert self._session
        for _ in range(self._steps):
            body = {"model": payload.MODEL, "messages": payload.messages(row, steps), "temperature": 0.7, "top_p": 0.95, "max_tokens": 1024}
            async with self._places, self._session.post(self._url, data=orjson.dumps(body), headers={"Content-Type": "application/json"}) as response:
                steps.append(orjson.loads(await response.read())["choices"][0]["message"]["content"])
        return steps[-1]


def main() -> None:
    """One run; the result is the last line."""
    given = arguments.read(__doc__)
    os.environ["RAY_DATA_DEFAULT_ASYNC_BATCH_UDF_MAX_CONCURRENCY"] = str(TIMES * given.slots // BATCH)
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False, object_store_memory=256 * 2**20)
    ray.data.DataContext.get_current().enable_progress_bars = False
    pool = ray.data.ActorPoolStrategy(size=1)
    with Meter(tree=True) as meter:
        data = ray.data.range(given.rows, override_num_blocks=1).map_batches(
            Ask, fn_constructor_args=(given.url, given.steps, given.slots), batch_size=BATCH, compute=pool, num_cpus=1
        )
        done = sum(len(found["id"]) for found in data.iter_batches(batch_size=None))
    say(done=done, **meter.result)


if __name__ == "__main__":
    main()
