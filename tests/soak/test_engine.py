"""The request engine against a stub server in a process of its own: kills, signals, a full disk, bad weather, poison, overload and an outage.

`make engine` runs it. Each test prints what was measured. SOAK_KILLS, SOAK_SEED and SOAK_DOWN (seconds of the outage) change its size.
"""

import contextlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.engines.drive import Case, run
from benchmarks.engines.process import Server, environment, serving
from benchmarks.engines.weather import Settings, poison
from insightv.store import Journal

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SOAK_KILLS", "50"))
SEED = int(os.environ.get("SOAK_SEED", "0"))
DOWN = float(os.environ.get("SOAK_DOWN", "60"))
SLOTS = 32
QUICK = Settings(latency=100, slow=1000)
Part = tuple[int, int]
"""Row and step, 1 for the first."""


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """Every journalled row but for its attempts, read by nothing of ours."""
    found: dict[str, dict[str, Any]] = {}
    for path in (folder / "journal").glob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            for key, row in connection.execute("SELECT key, row FROM replies"):
                assert key not in found
                found[key] = {name: value for name, value in orjson.loads(row).items() if name != "attempts"}
    return found


def kept(folder: Path, steps: int) -> set[Part]:
    """The parts whose replies are journalled, by what the stub says in them."""
    parts = set()
    for row in stored(folder).values():
        said = row["message"]["content"]
        step = re.search(r"Item (\d+), column (\d+)", said)
        end = re.search(r"For item (\d+)", said)
        parts.add((int(step[1]), int(step[2])) if step else (int(end[1]), steps))  # type: ignore[index]
    return parts


@dataclass
class Soak:
    """A run that is ended and started again over one folder."""

    server: Server
    folder: Path
    rows: int
    steps: int
    lost: list[set[Part]] = field(default_factory=list)
    """At each end: what had been asked for and was not kept."""
    unanswered: list[int] = field(default_factory=list)
    """How many of these had no answer yet."""

    def start(self) -> "subprocess.Popen[str]":
        arguments = [self.server.url, str(self.folder), str(self.rows), str(self.steps), str(SLOTS)]
        command = [sys.executable, str(Path(__file__).parent / "engine_run.py"), *arguments]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "begun\n"
        return process

    def finish(self) -> None:
        process = self.start()
        _, said = process.communicate(timeout=300)
        assert (process.returncode, said) == (0, "")

    def end(self, number: signal.Signals, after: float) -> bool:
        """Start it and send the signal so many seconds after it began; False if it ended by itself before."""
        process, before = self.start(), len(self.log())
        time.sleep(after)
        if process.poll() is not None:
            return False
        at = time.monotonic()
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == (-9 if number == signal.SIGKILL else 143)
        self.note(at if number == signal.SIGKILL else time.monotonic(), self.log()[before:])
        return True

    def note(self, at: float, asked: list[list[Any]]) -> None:
        """See what was asked for since the start, and not kept."""
        held = kept(self.folder, self.steps)
        gone = [entry for entry in asked if (entry[0], entry[1]) not in held]
        self.lost.append({(entry[0], entry[1]) for entry in gone})
        self.unanswered.append(sum(entry[5] is None or entry[5] >= at for entry in gone))
        # An answer is on its way to the disk for a moment, no longer.
        assert all(entry[5] is None or entry[5] > at - 0.5 for entry in gone)

    def log(self) -> list[list[Any]]:
        log: list[list[Any]] = self.server.report()["log"]
        return log

    def twice(self) -> Counter[Part]:
        """Parts that were asked for more than once, with the times beyond the first; all of them had been lost at an end, as often."""
        again = Counter((row, step) for row, step, *_ in self.log())
        again = Counter({part: times - 1 for part, times in again.items() if times > 1})
        assert not again - Counter(part for lost in self.lost for part in lost), "what is in the journal was asked for again"
        return again


@pytest.mark.parametrize(("rows", "steps"), [(3000, 1), (600, 5)], ids=["single", "chains"])
def test_a_run_killed_again_and_again_pays_for_what_was_in_flight_and_ends_the_same(tmp_path: Path, rows: int, steps: int) -> None:
    chance = random.Random(SEED)
    with serving(QUICK) as server:
        calm = Soak(server, tmp_path / "calm", rows, steps)
        begun = time.monotonic()
        calm.finish()
        whole = time.monotonic() - begun
        assert len(calm.log()) == rows * steps
    with serving(QUICK) as server:
        soak = Soak(server, tmp_path / "killed", rows, steps)
        kills = 0
        while kills < KILLS and soak.end(signal.SIGKILL, chance.uniform(0.0, 1.8 * whole / KILLS)):
            kills += 1
        soak.finish()
        log, twice = soak.log(), soak.twice()
        soak.finish()
        assert len(soak.log()) == len(log), "a run that is complete asks for nothing"
    most = max(map(len, soak.lost), default=0)
    good = Counter((row, step) for row, step, _, kind, _, answered in log if kind == "ok" and answered)
    print(f"\n{kills} kills (seed {SEED}) of {rows * steps} requests: {sum(twice.values())} asked for twice, {sum(good.values()) - len(good)} answered twice;")
    print(f"at one kill at most {most} in flight or on the way to the disk, {max(soak.unanswered, default=0)} of them unanswered, of {SLOTS} slots")
    assert kills == KILLS and max(soak.unanswered) <= SLOTS
    assert stored(soak.folder) == stored(calm.folder)
    assert (soak.folder / "outcomes.jsonl").read_bytes() == (calm.folder / "outcomes.jsonl").read_bytes()


@pytest.mark.parametrize(("rows", "steps"), [(1500, 1), (300, 5)], ids=["single", "chains"])
def test_a_run_that_is_asked_to_stop_pays_for_nothing_twice(tmp_path: Path, rows: int, steps: int) -> None:
    chance = random.Random(SEED)
    with serving(QUICK) as server:
        soak = Soak(server, tmp_path, rows, steps)
        stops = sum(soak.end(signal.SIGTERM, chance.uniform(0.05, 0.5)) for _ in range(8))
        soak.finish()
        print(f"\n{stops} SIGTERMs: {sum(soak.twice().values())} of {rows * steps} asked for twice")
        assert stops == 8 and not soak.twice() and not any(soak.lost) and len(soak.log()) == rows * steps
    with Journal(tmp_path / "journal") as journal:
        [bill] = journal.bills("soak").values()
    assert (bill.requests, bill.failed) == (rows * steps, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_is_one_line_and_with_more_room_the_run_goes_on(small_disk: Path) -> None:
    with serving(QUICK) as server:
        soak = Soak(server, small_disk, 2000, 1)
        for size in ("4m", "30m"):
            before, process = len(soak.log()), soak.start()
            _, said = process.communicate(timeout=120)
            assert process.returncode == 2 and len(said.splitlines()) == 1 and "full" in said and "free" in said
            asked = soak.log()[before:]
            soak.note(max(entry[5] for entry in asked if entry[5]), asked)
            subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)
        soak.finish()
        twice = soak.twice()
    print(f"\nsaid: {said.strip()}\n{sum(twice.values())} asked for twice after two full disks; not kept at each: {[len(lost) for lost in soak.lost]}")
    assert len(stored(small_disk)) == 2000 and sum(twice.values()) <= 2 * 2 * SLOTS


def told(found: dict[str, Any]) -> str:
    return f"{found['counts']}, by kind {found['kinds']}, {found['seconds']:.1f} s, ideal {found['ideal_seconds']:.1f} s"


def test_bad_weather_loses_nothing_doubles_nothing_and_costs_little(tmp_path: Path) -> None:
    settings = Settings(too_many=0.025, server_error=0.025, reset=0.01, malformed=0.03)
    # The last rows' backoffs cost some three seconds at the end, however long the run.
    case = Case(12_000, 1, 64)
    found = run("ours", case, settings, extra=("--folder", str(tmp_path)))
    print(f"\n{found['of_ideal']:.3f} of the ideal's rate, {found['rate']:.0f} requests/s: {told(found)}")
    rows = stored(tmp_path)
    assert len(rows) == case.rows == found["done"] and found["paid_twice"] == 0
    assert all(row.get("error") or row["message"]["content"] for row in rows.values())
    assert found["of_ideal"] >= 0.9


def test_poison_costs_its_attempts_and_nobody_else_anything() -> None:
    settings, case = Settings(refused_rows=0.01, failing_rows=0.01), Case(2000, 1, 64)
    fates = Counter(poison(settings, row) for row in range(case.rows))
    found = run("ours", case, settings)
    print(f"\n{dict(fates)}; rows by their number of requests {found['attempts']}: {told(found)}")
    assert fates["400"] and fates["500"]
    assert found["counts"] == {"ok": fates["ok"], "failed": fates["400"] + fates["500"]}
    assert found["attempts"] == {1: fates["ok"] + fates["400"], 6: fates["500"]}


def test_an_overloaded_server_is_kept_busy() -> None:
    settings, case = Settings(capacity=48), Case(6000, 1, 128)
    found = run("ours", case, settings)
    goodput = found["kinds"]["ok"] / found["seconds"] / (case.rows / found["ideal_seconds"])
    print(f"\n{goodput:.3f} of the ideal goodput, {found['kinds'].get('capacity', 0)} refused: {told(found)}")
    assert found["counts"] == {"ok": case.rows} and found["paid_twice"] == 0 and goodput >= 0.88


def test_an_outage_costs_its_own_time() -> None:
    settings, case = replace(Settings(), down=((3.0, DOWN, "closed"),)), Case(3000, 1, 64)
    found = run("ours", case, settings)
    lost = found["seconds"] - found["ideal_seconds"]
    print(f"\nan outage of {DOWN:g} s cost {lost:.1f} s, {found['paid_twice']} asked for again: {told(found)}")
    assert found["counts"] == {"ok": case.rows} and found["paid_twice"] <= case.slots and lost <= DOWN + 5
