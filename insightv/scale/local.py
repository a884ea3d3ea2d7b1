"""Map an async function over records, with bounded memory and no barriers."""

import asyncio
import contextlib
import contextvars
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from insightv.models.chat import Halted
from insightv.models.pool import TURN

T = TypeVar("T")
R = TypeVar("R")

_YOUNG = 20_000
"""Objects made, and not freed again, between two collections."""


def run(main: Coroutine[Any, Any, R]) -> R:
    """`asyncio.run` on the fastest event loop that this system has."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):  # there is none for Windows
        import uvloop

        factory = uvloop.new_event_loop
    with _seldom_collected(), asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


@contextlib.contextmanager
def _seldom_collected() -> Iterator[None]:
    """Spare the collector the walk through all modules, and through hundreds of requests in flight, each time that a few of them ended."""
    young, *older = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(max(_YOUNG, young), *older)
    try:
        yield
    finally:
        gc.set_threshold(young, *older)
        gc.unfreeze()


async def map_records(fn: Callable[[T], Awaitable[R]], items: Iterable[T], *, concurrency: int, on_done: Callable[[R], None] | None = None) -> list[R]:
    """Apply `fn` to every item as `completed` does, and return the results in the items' order; `on_done` hears every result when it comes."""
    results: dict[int, R] = {}
    async with contextlib.aclosing(completed(fn, items, concurrency=concurrency)) as pairs:
        async for position, result in pairs:
            results[position] = result
            if on_done:
                on_done(result)
    return [results[position] for position in range(len(results))]


async def completed(fn: Callable[[T], Awaitable[R]], items: Iterable[T], *, concurrency: int) -> AsyncGenerator[tuple[int, R], None]:
    """Apply `fn` to every item, at most `concurrency` at once, and yield (position, result) in order of completion.

    Items are pulled only when a place is free, and a place is filled again as soon as one is done; no more is held than what is in flight. Earlier
    items have precedence at an endpoint's places. The first error, or a cancellation, cancels all that is in flight; but after `Halted` nothing new
    begins, the others end by themselves, and it is raised last.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    loop = asyncio.get_running_loop()
    source = enumerate(items)
    running: set[asyncio.Task[tuple[int, R]]] = set()
    ended: asyncio.Queue[asyncio.Task[tuple[int, R]]] = asyncio.Queue()
    halted: Halted | None = None
    exhausted = False

    async def one(position: int, item: T) -> tuple[int, R]:
        TURN.set(position)
        return position, await fn(item)

    try:
        while True:
            while not exhausted and not halted and len(running) < concurrency:
                following = next(source, None)
                if following is None:
                    exhausted = True
                else:
                    task = loop.create_task(one(*following), context=contextvars.copy_context())
                    task.add_done_callback(ended.put_nowait)
                    running.add(task)
            if not running:
                break
            task = await ended.get()
            try:
                pair = task.result()
            except Halted as error:
                halted = halted or error
            else:
                yield pair
            running.discard(task)
    finally:
        for task in running:
            task.cancel()
        # Takes every task's error too, so that none is reported as never retrieved.
        await asyncio.gather(*running, return_exceptions=True)
    if halted:
        raise halted
