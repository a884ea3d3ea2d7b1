"""What a perfect engine takes: list scheduling of the very same latencies over K slots, refilled at once."""

import heapq
from dataclasses import dataclass

from benchmarks.engines.weather import Settings, weather

ATTEMPTS = 6
"""Attempts that an engine may give a request: what still fails then has failed for good."""


@dataclass(frozen=True)
class Stay:
    """One request's time in a slot, and the wait that the server demands before the row's next, which it spends outside, in milliseconds."""

    milliseconds: int
    wait: int = 0


def ideal_seconds(settings: Settings, rows: int, steps: int, slots: int) -> float:
    """Seconds for rows of so many steps (1: single requests), retries and mandated waits included: the shorter of the two schedules."""
    slots = min(slots, settings.capacity or slots)
    needed = [stays(settings, row, steps) for row in range(rows)]
    return min(schedule(needed, slots), schedule(needed, slots, even=True)) / 1000


def stays(settings: Settings, row: int, steps: int) -> list[Stay]:
    """Every request that a row needs, one after another; a row that fails for good ends there."""
    found = []
    for step in range(1, steps + 1):
        for attempt in range(1, ATTEMPTS + 1):
            kind, milliseconds, _ = weather(settings, row, step, attempt)
            found.append(Stay(milliseconds, 1000 * (settings.retry_after or 0) if kind == "429" else 0))
            if kind in ("ok", "400"):
                break
        if kind != "ok":
            break
    return found


def schedule(rows: list[list[Stay]], slots: int, even: bool = False) -> int:
    """Milliseconds until all is done, where the slots take what is ready: in the rows' order, so that open rows go before those that are not begun,
    or with `even` the row that has had the fewest requests.

    A row's next request is ready when its last has ended and its wait is over; more rows are open than slots where some wait.
    """

    def rank(row: int, number: int) -> tuple[int, int, int]:
        return (number if even else 0, row, number)

    ready = [rank(row, 0) for row in range(len(rows)) if rows[row]]
    # (time, 0 for a slot that falls free or 1 for a wait that ends, row, number of the row's next request)
    events: list[tuple[int, int, int, int]] = []
    now, free = 0, slots
    while ready or events:
        while ready and free:
            _, row, number = heapq.heappop(ready)
            free -= 1
            heapq.heappush(events, (now + rows[row][number].milliseconds, 0, row, number))
        now = events[0][0]
        while events and events[0][0] == now:
            _, kind, row, number = heapq.heappop(events)
            if kind == 0:
                free += 1
                wait = rows[row][number].wait
                if number + 1 < len(rows[row]) and wait:
                    heapq.heappush(events, (now + wait, 1, row, number + 1))
                elif number + 1 < len(rows[row]):
                    heapq.heappush(ready, rank(row, number + 1))
            else:
                heapq.heappush(ready, rank(row, number))
    return now
