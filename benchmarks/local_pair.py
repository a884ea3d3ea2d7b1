"""The pair in one process beside its two agents asked one after the other: time to the first text, and to the last."""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from insightv import agents
from insightv.chain_text import process_text
from insightv.config import Config
from insightv.generation.ask import decoding
from insightv.generation.sample import read_chain
from insightv.hosting import settings
from insightv.models.chat import Chat, Delta, Reply
from insightv.models.local import LocalChat
from insightv.models.pair import open_agents
from insightv.models.vlm import load
from insightv.prompts import reasoner_messages, summarizer_messages
from insightv.records import Problem
from insightv.store import ImageStore


def main() -> None:
    """Ask each question both ways, in changing order, and print medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--problems", type=int, default=100)
    given = parser.parse_args()
    print(asyncio.run(measure(given.run, given.problems)))


async def measure(run: Path, count: int) -> str:
    """The comparison in a sentence."""
    config, images = settings(run, ()), ImageStore(run / "images")
    places = [(agent.path, agent.adapter) for agent in (config.serve.reasoner, config.serve.summarizer) if agent.path]
    shared: list[Chat] = [*open_agents(places, images, config.local)]
    apart: list[Chat] = [LocalChat(load(path, adapter=adapter, dtype=config.local.dtype), images, None, config.local) for path, adapter in places]
    problems = [Problem(**json.loads(line)) for line in (run / "problems" / "test.jsonl").open()][: count + 5]
    first, total = [], []
    for number, problem in enumerate(problems):
        ways = [lambda p=problem: together(p, shared, config), lambda p=problem: separately(p, apart, config)]  # type: ignore[misc]
        found = [await ways[way]() for way in ((0, 1) if number % 2 else (1, 0))]
        pair, alone = found if number % 2 else found[::-1]
        first.append(pair[0] / alone[0])
        total.append(pair[1] / alone[1])
    for chat in (*shared, *apart):
        await chat.close()
    # The first ones warm up.
    return f"{count} questions: first text {told(first[5:])} times the reasoner's alone, all of it {told(total[5:])} times the two calls"


async def together(problem: Problem, pair: list[Chat], config: Config) -> tuple[float, float]:
    """Seconds to the first text and to the last, asked as the pair."""
    return await timed(agents.stream(problem, pair[0], pair[1], config.systems, config.prompts, 0))


async def separately(problem: Problem, pair: list[Chat], config: Config) -> tuple[float, float]:
    """The same, asked by two calls of agents that share nothing."""
    text: list[str] = []
    prompt, request = reasoner_messages(problem, config.prompts), decoding(config.systems.reasoner, 0)
    first, total = await timed(pair[0].stream(prompt, request), text)
    chain = read_chain(problem, pair[0].identity, prompt, request, 0, Reply("".join(text)))
    _, rest = await timed(pair[1].stream(summarizer_messages(problem, process_text(chain), config.prompts), decoding(config.systems.answer, 0)))
    return first, total + rest


async def timed(deltas: AsyncGenerator[Delta, None], text: list[str] | None = None) -> tuple[float, float]:
    """Seconds to the first text and to the last, which is put into `text`."""
    begun, first = time.perf_counter(), 0.0
    async for delta in deltas:
        if delta.text:
            first = first or time.perf_counter() - begun
            if text is not None:
                text.append(delta.text)
    return first, time.perf_counter() - begun


def told(ratios: list[float]) -> str:
    """The median with its quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
