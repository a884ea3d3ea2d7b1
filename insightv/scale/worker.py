"""What a worker does in its own process; it knows nothing of what runs it."""

import asyncio
import platform
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from insightv.config import EndpointConfig, UserError
from insightv.models.chat import EndpointDown, Halted
from insightv.models.meter import Meter, Stats, difference, total
from insightv.models.pool import TURN

T = TypeVar("T")
R = TypeVar("R")

_LOOK = 0.005
"""Seconds between two looks at how much was asked, while a budget is kept."""


class Job(NamedTuple, Generic[T, R]):
    """Work as it is ready to be done."""

    work: Callable[[T], Awaitable[R]]
    """What is done with an item."""
    stats: list[Stats]
    """Of the endpoints that it asks."""
    meter: Meter
    """Where it is halted."""


Open = Callable[[Sequence[EndpointConfig]], AbstractAsyncContextManager[Job[T, R]]]
"""Gets a job ready over these endpoints, for the time of a block. It can be pickled: a function of a module with plain arguments bound to it."""


class Answer(NamedTuple):
    """What became of an item: its result, or the error that the stage shall end with; and what was asked for since the last answer or news."""

    result: Any
    error: Exception | None
    stats: Stats


class Worker:
    """Does a job's work, one call per item, any number at once. To be used from one event loop."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._job: Job[Any, Any] | None = None
        self._told = Stats()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def open(self, open: Open[Any, Any], endpoints: Sequence[EndpointConfig], host: str) -> UserError | None:
        """Get ready; `host` is `here()` of the driver, which must be the same. What the user can mend is returned, because it shall arrive as it is."""
        if here() != host:
            return UserError(
                f"a worker runs on {platform.node()}, which is not the host of the run: only processes of one host may use the journal's SQLite files; "
                f"set scale.address to a Ray that runs on this host, or to null"
            )
        try:
            self._job = await self._stack.enter_async_context(open(endpoints))
        except UserError as error:
            return error
        return None

    async def work(self, position: int, item: Any) -> Answer:
        """Do the work of an item; earlier positions have precedence at an endpoint's places. Errors of a kind that has no meaning of its own are raised."""
        assert self._job
        TURN.set(position)
        # A task of our own, because what runs the worker may not bear that its own is cancelled.
        task = asyncio.ensure_future(self._job.work(item))
        self._tasks.add(task)
        try:
            return Answer(await task, None, self._news())
        except (UserError, EndpointDown, Halted) as error:
            return Answer(None, error, self._news())
        except asyncio.CancelledError:
            if not self._closing:
                raise
            return Answer(None, Halted("the stage has ended"), self._news())
        finally:
            self._tasks.discard(task)

    async def news(self, seconds: float, requests: float, cost: float) -> Stats:
        """What was asked for since the last answer or news, after `seconds`; sooner if it is as much as `requests` or `cost`."""
        end = time.monotonic() + seconds
        kept = min(requests, cost) < float("inf")
        while not self._closing and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _LOOK) if kept else left)
            if kept and ((now := difference(self._total, self._told)).requests >= requests or now.spend >= cost):
                break
        return self._news()

    async def halt(self, error: Halted) -> None:
        """Let no further request begin; those in flight are answered and journalled."""
        assert self._job
        self._job.meter.halt(error)

    async def close(self) -> Stats:
        """Cancel what is under way, and let go of everything."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()
        return self._news()

    @property
    def _total(self) -> Stats:
        return total(self._job.stats) if self._job else Stats()

    def _news(self) -> Stats:
        now = self._total
        new, self._told = difference(now, self._told), now
        return new


def here() -> str:
    """What tells this host from others; containers on one kernel are one host."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text(encoding="ascii").strip() if boot.is_file() else platform.node()
