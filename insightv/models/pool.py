"""Replicas of one model, and who of those that wait for a place at one goes first."""

import asyncio
import contextlib
import heapq
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from insightv.models.limits import Limit

TURN: ContextVar[int] = ContextVar("turn", default=0)
"""The place in line of the work that a task belongs to: the lowest goes first, so that what is open is finished before more is begun."""

_HOMES = 65536
"""Prefixes whose replica is remembered."""

_Waiting = tuple[int, int, asyncio.Future["Replica"]]


class Replica:
    """One server: its address, what it may be given at once, and whether it can be reached."""

    def __init__(self, url: str, most: int) -> None:
        self.url = url
        self.limit = Limit(most)
        self.taken = 0
        self.outage: asyncio.Task[None] | None = None
        """The probes that wait for its return, while it is out of reach."""
        self.since = 0.0
        """When the outage began, by the monotonic clock."""
        self.known: OrderedDict[str, None] = OrderedDict()
        """Digests of images that it was sent under their uuid."""

    @property
    def free(self) -> bool:
        """Whether it has a place for one more."""
        return self.outage is None and self.taken < self.limit.value

    @property
    def load(self) -> float:
        """Share of its places that is taken."""
        return self.taken / self.limit.value


class Pool:
    """Places at all replicas. A request goes to the replica that saw its prefix before, unless that would leave another idle."""

    def __init__(self, urls: Sequence[str], most: int) -> None:
        self.replicas = [Replica(url, most) for url in urls]
        self._homes: OrderedDict[int, Replica] = OrderedDict()
        self._queues: dict[Replica | None, list[_Waiting]] = {replica: [] for replica in (None, *self.replicas)}
        self._count = 0

    async def take(self, prefix: int = 0) -> Replica:
        """A replica with a place for one request, to be given back; `prefix` tells conversations with the same beginning, 0 none."""
        home = self._homes.get(prefix) if prefix else None
        if not any(self._queues.values()) and (replica := self._open(home)):
            replica.taken += 1
        else:
            waiting: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
            self._count += 1
            heapq.heappush(self._queues[home], (TURN.get(), self._count, waiting))
            self.dispatch()
            try:
                replica = await waiting
            except asyncio.CancelledError:
                if waiting.done() and not waiting.cancelled() and not waiting.exception():
                    self.give(waiting.result())
                raise
        if prefix and len(self.replicas) > 1:
            self._homes[prefix] = replica
            self._homes.move_to_end(prefix)
            if len(self._homes) > _HOMES:
                self._homes.popitem(last=False)
        return replica

    def give(self, replica: Replica) -> None:
        """Give a place back."""
        replica.taken -= 1
        self.dispatch()

    def dispatch(self) -> None:
        """Hand free places to those who wait."""
        while replica := self._open(None):
            queue = self._next_queue(replica)
            if queue is None:
                return
            *_, waiting = heapq.heappop(queue)
            if not waiting.done():
                replica.taken += 1
                waiting.set_result(replica)

    def fail(self, error: Exception) -> None:
        """Let all who wait raise the error."""
        for waiting in self._drained():
            if not waiting.done():
                waiting.set_exception(error)

    @contextlib.contextmanager
    def held(self, replica: Replica) -> Iterator[None]:
        """The place at this replica, given back at the end of the block."""
        try:
            yield
        finally:
            self.give(replica)

    def _open(self, home: Replica | None) -> Replica | None:
        if home and home.free:
            return home
        best = None
        for replica in self.replicas:
            if replica.free and (best is None or replica.load < best.load):
                best = replica
        return best

    def _next_queue(self, replica: Replica) -> list[_Waiting] | None:
        """Where the next for this replica waits: at home or without one; else, rather than be idle, it takes from the longest queue."""
        own = [queue for queue in (self._queues[replica], self._queues[None]) if queue]
        if own:
            return min(own, key=lambda queue: queue[0][:2])
        longest = max(self._queues.values(), key=len)
        return longest or None

    def _drained(self) -> list[asyncio.Future[Replica]]:
        waiting = [item[2] for queue in self._queues.values() for item in queue]
        for queue in self._queues.values():
            queue.clear()
        return waiting
