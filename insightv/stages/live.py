"""What a stage that asks endpoints tells while it runs."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from insightv.models.meter import Stats, total
from insightv.records import Chain

_EVERY = 0.25
"""Seconds between two reports: drawing them costs more than counting."""


_SAID = 300
"""Characters of an example that are shown."""


class Live:
    """Counts what is done of `of` pieces of work, and reports it with what the endpoints took."""

    def __init__(self, report: Callable[[dict[str, Any]], None], of: int, stats: Sequence[Stats] = ()) -> None:
        self._report = report
        self._of = of
        self._stats = list(stats)
        self._done = 0
        self._steps = 0
        self._defects = Defects()
        self._last = 0.0

    def chain(self, chain: Chain) -> None:
        """Hear of a chain."""
        self._steps += len(chain.steps)
        self._defects.add(chain)

    def done(self, count: int) -> None:
        """So many more pieces are done."""
        self._done += count
        now = time.monotonic()
        if now - self._last >= _EVERY or self._done == self._of:
            self._last = now
            self._report({"step": self._done, "of": self._of, **self._told(), "found": self._defects.found})

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = {"steps": self._steps} if self._steps else {}
        if self._stats:
            now = total(self._stats)
            told |= {"requests": now.requests, "in": short(now.prompt), "out": short(now.completion)}
            told |= {"cached": f"{now.cached / now.prompt:.0%}"} if now.cached else {}
            told |= {"spend": f"{now.spend:.2f}"} if now.spend else {}
            told |= {name: value for name, value in (("retries", now.retries), ("failed", now.failed), ("journal", now.journalled)) if value}
        return told | ({"defects": self._defects.broken} if self._defects.broken else {})


class Defects:
    """How often each defect came, with the first chain that has it as an example."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        """By name: `chains`, and of the example `problem`, `chain`, and what it `said`."""
        self.broken = 0
        """Chains that are not usable."""

    def add(self, chain: Chain) -> None:
        """Hear of a chain."""
        self.broken += chain.status != "ok"
        for name in chain.defects:
            example = {"chains": 0, "problem": chain.problem_id, "chain": chain.id, "said": chain.reason or chain.text[:_SAID]}
            self.found.setdefault(name, example)["chains"] += 1


def short(count: int) -> str:
    """A count in at most four characters and a unit: 950, 12.3k, 4.6M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
