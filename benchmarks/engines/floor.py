"""The floor: the least that Python does for a request. A bare aiohttp loop without journal, retries or parsing of what was said."""

import argparse
import asyncio
import itertools

import aiohttp
import orjson
import uvloop

from benchmarks.engines import payload
from benchmarks.engines.measure import Meter, say

_PLACE = "PLACE-OF-THE-TEXT"


def pieces() -> tuple[bytes, bytes, bytes]:
    """The constant bytes of a body: before the first text, between it and what the end holds, and the end."""
    turns = payload.messages(0, [])
    turns[1]["content"][1]["text"] = _PLACE
    body = {"model": payload.MODEL, "messages": turns, "temperature": 0.7, "top_p": 0.95, "max_tokens": 1024}
    head, _, end = orjson.dumps(body).partition(f'"{_PLACE}"'.encode())
    opened, _, settings = end.partition(b"]}]")
    return head, opened + b"]}", b"]" + settings


OPEN = 1.5
"""Chains open for a slot: as many as our engine has, so that a long one does not begin last."""


async def run(url: str, rows: int, steps: int, slots: int) -> int:
    """Workers that take row after row, one per slot, or for chains more; returns the rows done."""
    head, opened, end = pieces()
    numbers, done = itertools.count(), 0
    target = f"{url}/chat/completions"
    headers = {"Content-Type": "application/json"}
    places = asyncio.Semaphore(slots)

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal done
        while (row := next(numbers)) < rows:
            turns = orjson.dumps(f"{payload.question(row)}\n\n{payload.NEXT_STEP}") + opened
            for step in range(1, steps + 1):
                async with places, session.post(target, data=head + turns + end, headers=headers) as response:
                    body = orjson.loads(await response.read())
                said = body["choices"][0]["message"]["content"]
                asked = payload.CONCLUDE if step == 4 else payload.NEXT_STEP
                turns += b"," + orjson.dumps({"role": "assistant", "content": said}) + b"," + orjson.dumps({"role": "user", "content": asked})
            done += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(slots if steps == 1 else int(slots * OPEN))))
    return done


def main() -> None:
    """One run; the result is the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--slots", type=int, default=64)
    arguments = parser.parse_args()
    payload.data_url()
    with Meter() as meter:
        done = uvloop.run(run(arguments.url, arguments.rows, arguments.steps, arguments.slots))
    say(done=done, **meter.result)


if __name__ == "__main__":
    main()
