"""Share items out to workers, of which any may die: who gets what, who starts again, and when it is the item's fault."""

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from insightv.config import EndpointConfig, UserError
from insightv.models.chat import Halted
from insightv.models.meter import Meter, Stats
from insightv.scale.worker import Answer, Open, here

T = TypeVar("T")
R = TypeVar("R")

_EVERY = 0.2
"""Seconds between two reports of what a worker asked for."""
_SUSPECT = 2
"""Workers that died under an item, after which it is tried alone; the next one that dies of it then ends the stage."""
_STARTS = 3
"""Times in a row that a worker may die before it is ready."""
_FAREWELL = 15.0
"""Seconds a worker has to let go of what it holds."""


class Lost(Exception):
    """A worker's process is gone; the message says what is known of it."""


class Hand(Protocol):
    """A `Worker` in another process. Any method but `kill` raises `Lost` when that is gone."""

    async def open(self, open: Open[Any, Any], endpoints: Sequence[EndpointConfig], host: str) -> UserError | None: ...
    async def work(self, position: int, item: Any) -> Answer: ...
    async def news(self, seconds: float, requests: float, cost: float) -> Stats: ...
    async def halt(self, error: Halted) -> None: ...
    async def close(self) -> Stats: ...
    def kill(self) -> None:
        """End the process, whatever it does."""


@dataclass(eq=False)
class _Seat:
    """A worker's place: its share of the endpoints and of the items, whoever sits there."""

    endpoints: Sequence[EndpointConfig]
    most: int
    hand: Hand | None = None
    busy: int = 0
    alone: bool = False
    """Kept for suspects, one at a time."""

    @property
    def free(self) -> bool:
        return self.hand is not None and self.busy < self.most and not self.alone


@dataclass(eq=False)
class _Errand:
    position: int
    item: Any
    name: str
    deaths: int = 0


_Task = asyncio.Task[tuple[int, Any] | None]


class Crew(Generic[T, R]):
    """Workers for the time of a block; `stats` is what they asked for together, counted by `meter`, whose halt they hear."""

    def __init__(self, hire: Callable[[], Hand], open: Open[T, R], seats: Sequence[tuple[Sequence[EndpointConfig], int]], meter: Meter) -> None:
        """`seats` are each worker's endpoints, and how many items it has in hand at most."""
        self.stats = Stats()
        meter.join(self.stats)
        self._hire, self._open, self._meter = hire, open, meter
        self._seats = [_Seat(endpoints, most) for endpoints, most in seats]
        self._tasks: set[_Task] = set()
        self._ended: asyncio.Queue[_Task] = asyncio.Queue()
        self._again: deque[_Errand] = deque()
        self._suspects: deque[_Errand] = deque()
        self._exhausted = False
        self._unwatch: Callable[[], None] = lambda: None

    async def __aenter__(self) -> "Crew[T, R]":
        loop = asyncio.get_running_loop()

        def halt(error: Halted) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._halt, error)

        self._unwatch = self._meter.watch(halt)
        for seat in self._seats:
            self._begin(self._start(seat))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._unwatch()
        for task in self._tasks:
            task.cancel()
        # Takes every task's error too, so that none is reported as never retrieved.
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._dismiss(seat.hand) for seat in self._seats if seat.hand))

    async def completed(self, items: Iterable[T], name: Callable[[T], str]) -> AsyncGenerator[tuple[int, R], None]:
        """As `local.completed`, yield (position, result) in order of completion; no more items are held than the workers have places.

        An item goes to the worker that its name belongs to, or to another with a free place where that one has none. What a dead worker had in hand
        is done again. An item of which workers die, the last of them while it had nothing else in hand, is a `UserError`.
        """
        source = (_Errand(position, item, name(item)) for position, item in enumerate(items))
        out: dict[_Task, _Seat] = {}
        halted: Halted | None = None
        while True:
            while not halted and (given := self._next(source)):
                out[self._begin(self._do(*given))] = given[0]
            if not out and (halted or (self._exhausted and not self._again and not self._suspects)):
                break
            task = await self._ended.get()
            self._tasks.discard(task)
            try:
                pair = task.result()
            except Halted as error:
                halted = halted or error
            else:
                if pair is not None:
                    yield pair
            # Only now, so that whoever takes the results is not overtaken by them.
            if seat := out.pop(task, None):
                seat.busy -= 1
                seat.alone = seat.alone and bool(seat.busy or self._suspects)
        if halted:
            raise halted

    def _next(self, source: Iterator[_Errand]) -> tuple[_Seat, Hand, _Errand] | None:
        """Who does what next, its place taken; None if nothing can begin now."""
        seat, errand = self._suspected() or self._usual(source) or (None, None)
        if seat is None or seat.hand is None or errand is None:
            return None
        seat.busy += 1
        return seat, seat.hand, errand

    def _suspected(self) -> tuple[_Seat, _Errand] | None:
        """A suspect and a worker with nothing else in hand, for which one gets nothing new."""
        if not self._suspects:
            return None
        seat = next((seat for seat in self._seats if seat.alone), None) or min(self._seats, key=lambda seat: seat.busy)
        seat.alone = True
        return (seat, self._suspects.popleft()) if seat.hand and not seat.busy else None

    def _usual(self, source: Iterator[_Errand]) -> tuple[_Seat, _Errand] | None:
        free = [seat for seat in self._seats if seat.free]
        if not free:
            return None
        errand = self._again.popleft() if self._again else next(source, None)
        if errand is None:
            self._exhausted = True
            return None
        own = self._seats[zlib.crc32(errand.name.encode()) % len(self._seats)]
        return own if own.free else min(free, key=lambda seat: seat.busy / seat.most), errand

    def _begin(self, work: Coroutine[Any, Any, tuple[int, R] | None]) -> _Task:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended.put_nowait)
        self._tasks.add(task)
        return task

    async def _do(self, seat: _Seat, hand: Hand, errand: _Errand) -> tuple[int, R] | None:
        try:
            answer = await hand.work(errand.position, errand.item)
        except Lost as loss:
            self._lost(seat, hand)
            errand.deaths += 1
            if errand.deaths > _SUSPECT:
                died = f"{errand.deaths} workers died at problem {errand.name}, the last with nothing else in hand"
                raise UserError(f"{died}; take it out of the problems, or find out what it does ({loss})") from loss
            (self._suspects if errand.deaths == _SUSPECT else self._again).append(errand)
            return None
        self._count(answer.stats)
        if answer.error:
            raise answer.error
        return errand.position, answer.result

    async def _start(self, seat: _Seat) -> None:
        loss: Lost | None = None
        for _ in range(_STARTS):
            hand = self._hire()
            try:
                if error := await hand.open(self._open, seat.endpoints, here()):
                    raise error
                if self._meter.halted:
                    await hand.halt(self._meter.halted)
            except Lost as lost:
                hand.kill()
                loss = lost
            except BaseException:
                hand.kill()
                raise
            else:
                seat.hand = hand
                self._begin(self._listen(seat, hand))
                return
        raise UserError(f"{_STARTS} workers in a row ended before they could begin: {loss}")

    async def _listen(self, seat: _Seat, hand: Hand) -> None:
        """Hear what a worker asks for, the sooner the nearer the budget's end is: each may then use up its part of half of what is left."""
        while seat.hand is hand:
            requests, cost = (left / (2 * len(self._seats)) for left in self._meter.left)
            try:
                self._count(await hand.news(_EVERY, requests, cost))
            except Lost:
                self._lost(seat, hand)

    def _lost(self, seat: _Seat, hand: Hand) -> None:
        """Put another in the place of a worker that is gone, once."""
        if seat.hand is hand:
            seat.hand = None
            hand.kill()
            self._begin(self._start(seat))

    def _count(self, stats: Stats) -> None:
        self.stats.add(stats)
        with suppress(Halted):  # the workers hear of it
            self._meter.admit()

    def _halt(self, error: Halted) -> None:
        for seat in self._seats:
            if seat.hand:
                self._begin(self._tell(seat, seat.hand, error))

    async def _tell(self, seat: _Seat, hand: Hand, error: Halted) -> None:
        try:
            await hand.halt(error)
        except Lost:
            self._lost(seat, hand)

    async def _dismiss(self, hand: Hand) -> None:
        with suppress(Lost, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                self._count(await hand.close())
        hand.kill()
