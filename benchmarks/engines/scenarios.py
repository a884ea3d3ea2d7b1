"""Faults, and what our engine makes of them: each scenario says what was asked and what was measured."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.engines.drive import Case, Result, run, run_killed
from benchmarks.engines.weather import Settings, poison

Scenario = Callable[[float, bool], Result]
CALM = Settings()


def weather(scale: float, pinned: bool) -> Result:
    """A bad day: every row is to come out well, at nearly the speed of an ideal that meets the same faults."""
    settings = replace(CALM, too_many=0.025, server_error=0.025, reset=0.01, malformed=0.03)
    case = Case(_scaled(3000, scale), 1, 64)
    found = run("ours", case, settings, pinned=pinned)
    asked = "5% 429/500, 1% resets, 3% malformed, 2% at 2 s: every row answered, none paid twice"
    return _told(found, asked, f"{_rate(found)}; {found['counts']}, {found['paid_twice']} paid twice, by kind {found['kinds']}")


def poisoned(scale: float, pinned: bool) -> Result:
    """Rows that nothing answers must fail, bounded in attempts, and hold up nobody."""
    settings = replace(CALM, refused_rows=0.01, failing_rows=0.01)
    case = Case(_scaled(3000, scale), 1, 64)
    found = run("ours", case, settings, pinned=pinned)
    fates = [poison(settings, row) for row in range(case.rows)]
    asked = f"{fates.count('400')} rows always 400, {fates.count('500')} always 500: these fail and no other"
    calm = run("ours", case, CALM, pinned=pinned)
    measured = f"all good rows answered after {found['good_seconds']:.1f} s, {calm['good_seconds']:.1f} s without poison, the last failure after "
    measured += f"{found['seconds']:.1f} s; {found['counts']}, rows by number of requests {found['attempts']}"
    return _told(found, asked, measured)


def capacity(scale: float, pinned: bool) -> Result:
    """A server that takes 48 while 128 are wanted."""
    settings = replace(CALM, capacity=48)
    found = run("ours", Case(_scaled(6000, scale), 1, 128), settings, pinned=pinned)
    goodput = found["kinds"].get("ok", 0) / found["seconds"]
    refused = found["kinds"].get("capacity", 0)
    ideal = found["kinds"].get("ok", 0) / found["ideal_seconds"]
    return _told(found, "429 above 48 in flight, 128 wanted", f"{goodput:.0f} good replies/s of ideal {ideal:.0f}, {refused} refused; {found['counts']}")


def down(scale: float, pinned: bool) -> Result:
    """A server that is away in the middle of the run."""
    away = 60.0 if scale >= 1 else 5.0
    settings = replace(CALM, down=((3.0, away, "closed"),))
    found = run("ours", Case(_scaled(6000, max(scale, 0.3)), 1, 64), settings, pinned=pinned)
    lost = found["seconds"] - found["ideal_seconds"] - away
    asked = f"{away:g} s away after 3 s: nothing fails, all goes on when it is back"
    return _told(found, asked, f"{lost:.1f} s lost besides the outage itself; {found['counts']}, {found['paid_twice']} asked again for what was in flight")


def broken_front(scale: float, pinned: bool) -> Result:
    """The same behind a front that accepts and breaks off."""
    away = 60.0 if scale >= 1 else 5.0
    settings = replace(CALM, down=((3.0, away, "broken"),))
    found = run("ours", Case(_scaled(6000, max(scale, 0.3)), 1, 64), settings, pinned=pinned)
    lost = found["seconds"] - found["ideal_seconds"] - away
    return _told(found, f"{away:g} s behind a front that accepts and breaks off", f"{lost:.1f} s lost besides; {found['counts']}")


def memory(scale: float, pinned: bool) -> Result:
    """Ten times the requests must not take more memory."""
    few, many = (run("ours", Case(_scaled(rows, scale), 1, 256), replace(CALM, slow=400), pinned=pinned) for rows in (10_000, 100_000))
    measured = f"{few['over_mb']:.0f} MB for {few['requests']} requests, {many['over_mb']:.0f} MB for {many['requests']} ({many['rate']:.0f} requests/s)"
    return _told(many, "peak above the imported process does not grow with the number of requests", measured)


def kill(scale: float, pinned: bool) -> Result:
    """Kill -9 in the middle, and again from the start over the same journal."""
    case = Case(_scaled(2000, scale), 1, 32)
    with tempfile.TemporaryDirectory() as folder:
        found = run_killed("ours", case, CALM, Path(folder), case.rows // 2, pinned=pinned)
    asked = "kill -9 at 32 in flight: at most those are paid again"
    return _told(found, asked, f"{found['paid_twice']} paid twice of {found['before_kill']} asked before the kill; {found['counts']}")


SCENARIOS: dict[str, Scenario] = {
    "weather": weather,
    "poison": poisoned,
    "capacity": capacity,
    "down": down,
    "broken": broken_front,
    "kill": kill,
    "memory": memory,
}


def _scaled(rows: int, scale: float) -> int:
    return max(50, round(rows * scale))


def _rate(found: Result) -> str:
    return f"{found['rate']:.0f} requests/s, {found['of_ideal']:.2f} of the ideal"


def _told(found: Result, asked: str, measured: str) -> Result:
    return found | {"asked": asked, "measured": measured}
