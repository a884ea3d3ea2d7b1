"""How much a server is asked for: requests at once, which adapt to what it bears, and requests or tokens per minute."""

import time

TOLERATED = 0.1
"""Share of refusals that is weather and no sign of overload."""

_LEAST_CREDIT = 4.0
_LONGEST_REST = 16


class Limit:
    """Requests in flight at one server, at most `most`: additive increase, decrease by what is refused.

    A refusal is a 429, a 503 or a time-out. Every served request earns `TOLERATED` of one; a refusal beyond what was earned takes a place away at
    once, so that a burst into a server that takes 48 loses what the server refuses and no more. Places come back by a sixteenth in each
    round of served requests, and the more rounds apart, up to 16, the oftener that was in vain.
    """

    def __init__(self, most: int) -> None:
        self.value = most
        self._most = most
        self._credit = _LEAST_CREDIT
        self._round = 0
        self._rest = 1
        self._grew = False

    def served(self) -> None:
        """A request was answered, well or badly."""
        self._credit = min(self._credit + TOLERATED, max(_LEAST_CREDIT, TOLERATED * self.value))
        if self.value == self._most:
            return
        self._round += 1
        if self._round >= self._rest * self.value:
            if self._grew:
                self._rest = max(1, self._rest // 2)
            self._round, self._grew = 0, True
            self.value = min(self._most, self.value + max(1, self.value // 16))

    def refused(self) -> None:
        """The server would not or could not take one more."""
        if self._credit >= 1:
            self._credit -= 1
            return
        if self._grew:
            self._rest = min(_LONGEST_REST, 2 * self._rest)
        self._round, self._grew = 0, False
        self.value = max(1, self.value - 1)


class Rate:
    """An amount per minute, spread evenly; a pause lets up to `burst` seconds of it come at once."""

    def __init__(self, per_minute: float, burst: float = 1.0) -> None:
        self._seconds = 60.0 / per_minute
        self._burst = burst
        self._next = 0.0

    def take(self, amount: float = 1.0) -> float:
        """Seconds to wait until `amount` may be used, which is thereby taken: who asks first is served first."""
        now = time.monotonic()
        start = max(self._next, now - self._burst)
        self._next = start + amount * self._seconds
        return max(0.0, start - now)

    def correct(self, amount: float) -> None:
        """Take that much more, or less, than was taken."""
        self._next += amount * self._seconds
