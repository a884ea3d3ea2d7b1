"""Map an async function over records, with bounded memory and no barriers."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def map_records(fn: Callable[[T], Awaitable[R]], items: Iterable[T], *, concurrency: int, on_done: Callable[[R], None] | None = None) -> list[R]:
    """Apply `fn` to every item, at most `concurrency` at once, and return the results in the items' order.

    Items are pulled only when a place is free, and a place is filled again as soon as one is done. The first error, or
    a cancellation, cancels all that is in flight. `on_done` hears every result when it comes.
    """
    results: dict[int, R] = {}
    async with contextlib.aclosing(completed(fn, items, concurrency=concurrency)) as pairs:
        async for position, result in pairs:
            results[position] = result
            if on_done:
                on_done(result)
    return [results[position] for position in range(len(results))]


async def completed(fn: Callable[[T], Awaitable[R]], items: Iterable[T], *, concurrency: int) -> AsyncGenerator[tuple[int, R], None]:
    """The same as an iterator of (position, result) in order of completion; holds no more than what is in flight."""
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")

    async def one(position: int, item: T) -> tuple[int, R]:
        return position, await fn(item)

    source = enumerate(items)
    running: set[asyncio.Task[tuple[int, R]]] = set()
    exhausted = False
    try:
        while True:
            while not exhausted and len(running) < concurrency:
                following = next(source, None)
                if following is None:
                    exhausted = True
                else:
                    running.add(asyncio.create_task(one(*following)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            # Waits for nothing, but takes every task's error, so that none is reported as never retrieved.
            pairs = await asyncio.gather(*done)
            for pair in sorted(pairs, key=lambda pair: pair[0]):
                yield pair
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
