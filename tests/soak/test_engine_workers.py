"""The request engine in four workers under Ray: now a worker is killed, now the driver. `make engine` runs it where there is Ray.

It prints what was measured. SOAK_WORKER_KILLS and SOAK_SEED change its size.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.engines.measure import family
from benchmarks.engines.process import serving
from benchmarks.engines.weather import Settings

pytest.importorskip("ray", reason="pip install 'insightv[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")]

KILLS = int(os.environ.get("SOAK_WORKER_KILLS", "10"))
SEED = int(os.environ.get("SOAK_SEED", "0"))
SLOTS, WORKERS = 32, 4
ROWS, STEPS = 60 * KILLS, 5


class Loss(NamedTuple):
    """A kill: how many requests had come by then, what the journal held, what of the engine it took, and how many requests came after it from what was left."""

    came: int
    held: set[tuple[int, int]]
    who: str
    late: int = 0


def named(pid: int) -> str:
    """A living process's command line; empty for one that is gone, or dead and not yet fetched by its parent."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def below(pid: int) -> set[int]:
    """The processes that descend from one."""
    return family(pid) - {pid}


def works(pid: int) -> bool:
    """Whether a process lives and may yet ask something; Ray's agents and its workers without an actor look for its dead server for a minute more."""
    name = named(pid)
    return bool(name) and "Agent" not in name and name != "ray::IDLE"


def wait_until(reached: Callable[[], object], seconds: float = 180, why: Callable[[], object] = lambda: "") -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, why()
        # To read the whole log of requests takes the server's time.
        time.sleep(0.1)


def workers(process: "subprocess.Popen[str]") -> list[int]:
    return sorted(pid for pid in below(process.pid) if "ray::Worker" in named(pid))


def kill_worker(soak: Any, process: "subprocess.Popen[str]", chance: random.Random) -> Loss:
    """Kill one; the driver waits meanwhile, so that nothing is asked for again before it is seen what was kept."""
    # A worker takes longer to start than it is until the next kill, so there may be none for a while.
    wait_until(lambda: workers(process), why=lambda: f"no worker is there, and of the driver became {process.poll()}")
    victim = chance.choice(workers(process))
    process.send_signal(signal.SIGSTOP)
    try:
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not named(victim))
        # In this order: the other workers go on, and what they ask for after the log was counted may be kept before the journal is read.
        held = soak.kept()
        return Loss(len(soak.log()), held, "worker")
    finally:
        process.send_signal(signal.SIGCONT)


def kill_driver(soak: Any, process: "subprocess.Popen[str]") -> Loss:
    """Kill it, and see what was kept once its workers have noticed."""
    left = below(process.pid)
    process.kill()
    before = len(soak.log())
    process.communicate()
    wait_until(lambda: not any(map(works, left)), why=lambda: list(filter(None, map(named, left))))
    came = len(soak.log())
    return Loss(came, soak.kept(), "driver", came - before)


def again(log: list[list[Any]], losses: list[Loss]) -> Iterator[tuple[Loss, list[Any]]]:
    """Every request whose part had been asked for before: the first kill in between, and what came of the time before."""
    last: dict[tuple[int, int], int] = {}
    for place, (row, step, *_) in enumerate(log):
        kept = [(loss.who, loss.came) for loss in losses if loss.came <= place and (row, step) in loss.held]
        assert not kept, f"step {step} of row {row} was asked for at {place} though it was in the journal at a kill: {kept[0]}"
        if (row, step) in last:
            between = [loss for loss in losses if last[row, step] < loss.came <= place]
            assert between, "asked for again though nothing was killed"
            yield between[0], log[last[row, step]]
        last[row, step] = place


def test_a_run_whose_workers_and_drivers_are_killed_pays_for_what_was_in_flight_and_ends_the_same(tmp_path: Path, soaking: Any) -> None:
    chance, settings = random.Random(SEED), Settings(latency=100, slow=1000)
    with serving(settings) as server:
        calm = soaking(server, tmp_path / "calm", ROWS, STEPS, SLOTS)
        begun = time.monotonic()
        calm.finish()
        whole = time.monotonic() - begun
    with serving(settings) as server:
        soak = soaking(server, tmp_path / "killed", ROWS, STEPS, SLOTS, WORKERS)
        losses: list[Loss] = []
        process = None
        while len(losses) < KILLS:
            if process is None:
                came, process = len(soak.log()), soak.start()
                wait_until(lambda came=came, process=process: len(soak.log()) > came or process.poll() is not None)  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 1.4 * whole / KILLS))
            assert process.poll() is None, "it came to its end before the last kill"
            if chance.random() < 0.5:
                losses.append(kill_worker(soak, process, chance))
            else:
                losses.append(kill_driver(soak, process))
                process = None
        soak.finish(process)
        log = soak.log()
        soak.finish()
        assert len(soak.log()) == len(log), "a run that is complete asks for nothing"
    repeats = list(again(log, losses))
    kinds = Counter(loss.who for loss in losses)
    print(f"\n{dict(kinds)} killed (seed {SEED}) in {ROWS * STEPS} requests by {WORKERS} workers with {SLOTS} slots together:")
    for who, count in kinds.items():
        paid = [sum(loss is one for one, _ in repeats) for loss in losses if loss.who == who]
        answered = sum(loss.who == who and before[5] is not None for loss, before in repeats)
        print(f"a {who}: {sum(paid)} asked for again after {count} kills, {max(paid)} at most; {answered} of them had been answered")
    print(f"workers that outlived their driver asked for {sum(loss.late for loss in losses)} more, {max(loss.late for loss in losses)} at most")
    assert soak.made() == calm.made()
    # In flight, and answered but on the way to the disk, which takes less time than an answer. A worker has its part of the slots.
    for who, slots in (("driver", SLOTS), ("worker", SLOTS // WORKERS)):
        assert sum(loss.who == who for loss, _ in repeats) <= 2 * slots * kinds[who]
