"""The work on one request: a task of its own, which ends with the client's connection."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from starlette.types import Receive

from insightv.models.chat import Delta

T = TypeVar("T")
Piece = tuple[int, Delta]
"""Which choice, and what is new of it."""
Put = Callable[[Piece], None]


class ClientGone(Exception):
    """The client closed its connection: nobody waits for the reply."""


class Work:
    """A job under way; what comes of it is read as pieces, in the order in which it comes."""

    def __init__(self, job: Callable[[Put], Coroutine[Any, Any, None]], ended: Callable[[], None]) -> None:
        """The job begins at once, and is given where to put its pieces; `ended` is called once, when `stop` was."""
        self._ended = ended
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(job))

    async def next(self) -> list[Piece]:
        """The pieces since the last call, at least one, and none at the end; what made the job fail is raised."""
        pieces = [await self._pieces.get()]
        while pieces[-1] and not self._pieces.empty():
            pieces.append(self._pieces.get_nowait())
        if pieces[-1] is None:
            # The end is told, and failures are raised, only after all that came before.
            self._pieces.put_nowait(None)
        if pieces[0] is None:
            await self._task
        return [piece for piece in pieces if piece]

    async def rest(self) -> list[Piece]:
        """All pieces that are still to come."""
        rest: list[Piece] = []
        while pieces := await self.next():
            rest += pieces
        return rest

    async def stop(self) -> None:
        """Cancel what is not done, and wait until it has let go of everything; who began the work calls it, however it ended."""
        self._task.cancel()
        try:
            with suppress(asyncio.CancelledError, Exception):
                await self._task
        finally:
            self._ended()

    async def _run(self, job: Callable[[Put], Coroutine[Any, Any, None]]) -> None:
        try:
            await job(self._pieces.put_nowait)
        finally:
            self._pieces.put_nowait(None)


async def at_once(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all in their order; the first failure cancels the others, whose results nobody would see."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def while_there(receive: Receive, awaited: Awaitable[T]) -> T:
    """The result of what is awaited, or `ClientGone`, with it cancelled, as soon as the client is."""
    task, gone = asyncio.ensure_future(awaited), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
