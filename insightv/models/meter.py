"""What a run asks of its endpoints: how much, at what price, and when to stop."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from insightv.config import BudgetConfig
from insightv.models.chat import Halted
from insightv.records import Usage


@dataclass
class Stats:
    """What was asked of an endpoint, or of several, and what came of it."""

    requests: int = 0
    """Requests sent, further attempts included."""
    retries: int = 0
    """Those among them that asked once more, after a failure or because the server could not do a part of what was asked."""
    journalled: int = 0
    """Replies that the journal gave for nothing."""
    failed: int = 0
    """Requests that failed for good."""
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    """Prompt tokens that the server had in its prefix cache."""
    reasoning: int = 0
    """Completion tokens that were hidden reasoning."""
    spend: float = 0.0
    """In the currency of the config's prices."""

    def use(self, usage: Usage, cost: float) -> None:
        """Count the tokens of one request."""
        self.prompt += usage.prompt
        self.completion += usage.completion
        self.cached += usage.cached
        self.reasoning += usage.reasoning
        self.spend += cost

    def add(self, other: "Stats") -> None:
        """Count what another counted."""
        for field in fields(Stats):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Meter:
    """The stats of all endpoints of a process together, its budget, and the one place to stop it from; safe for threads.

    Once halted, by the budget or from outside, no request begins any more; those in flight are answered, journalled and paid.
    """

    def __init__(self, budget: BudgetConfig | None = None, *, requests: int = 0, cost: float = 0.0) -> None:
        """`requests` and `cost` are what earlier processes of the same run have spent already."""
        self.halted: Halted | None = None
        """Why no request may begin any more."""
        self._budget = budget or BudgetConfig()
        self._before = Stats(requests=requests, spend=cost)
        self._begun = time.monotonic()
        self._endpoints: list[Stats] = []
        self._watchers: set[Callable[[Halted], None]] = set()
        self._lock = threading.Lock()

    def join(self, stats: Stats) -> None:
        """Count an endpoint's stats from now on."""
        self._endpoints.append(stats)

    @property
    def total(self) -> Stats:
        """The sum over all endpoints of this process."""
        return total(self._endpoints)

    def admit(self) -> None:
        """Raise `Halted` if no further request may begin."""
        if not self.halted and (spent := self._spent()):
            self.halt(Halted(f"{spent}; raise it"))
        if self.halted:
            raise Halted(str(self.halted), self.halted.code)

    @property
    def left(self) -> tuple[float, float]:
        """Requests and cost that the budget still holds; infinite without a limit."""
        budget, now = self._budget, total([self._before, *self._endpoints])
        requests = math.inf if budget.max_requests is None else budget.max_requests - now.requests
        return requests, math.inf if budget.max_cost is None else budget.max_cost - now.spend

    def halt(self, error: Halted) -> None:
        """Let no further request begin; the first reason stands."""
        with self._lock:
            self.halted = self.halted or error
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher(self.halted)

    @property
    def busy(self) -> bool:
        """Whether an endpoint is in use."""
        return bool(self._watchers)

    def watch(self, watcher: Callable[[Halted], None]) -> Callable[[], None]:
        """Have `watcher` called at the halt, from whichever thread; the returned function ends that."""
        with self._lock:
            self._watchers.add(watcher)
        return lambda: self._watchers.discard(watcher)

    def _spent(self) -> str:
        budget = self._budget
        if budget.max_hours is not None and time.monotonic() - self._begun >= budget.max_hours * 3600:
            return f"budget.max_hours: {budget.max_hours:g} hours are over"
        if budget.max_requests is None and budget.max_cost is None:
            return ""
        now = total([self._before, *self._endpoints])
        if budget.max_requests is not None and now.requests >= budget.max_requests:
            return f"budget.max_requests: {now.requests} requests were sent"
        if budget.max_cost is not None and now.spend >= budget.max_cost:
            return f"budget.max_cost: {now.spend:.2f} of {budget.max_cost:g} is spent"
        return ""


def total(several: list[Stats]) -> Stats:
    """The sum of several stats."""
    return Stats(**{field.name: sum(getattr(stats, field.name) for stats in several) for field in fields(Stats)})


def difference(later: Stats, earlier: Stats) -> Stats:
    """What was counted in between."""
    return Stats(**{field.name: getattr(later, field.name) - getattr(earlier, field.name) for field in fields(Stats)})
