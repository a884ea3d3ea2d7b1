"""The request engine against a stub server in a process of its own: kills, signals and a full disk. `make engine` runs it.

Each test prints what was measured. SOAK_KILLS and SOAK_SEED change its size.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engines.process import serving
from benchmarks.engines.weather import Settings
from insightv.store import Journal

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SOAK_KILLS", "50"))
SEED = int(os.environ.get("SOAK_SEED", "0"))
SLOTS = 32
QUICK = Settings(latency=100, slow=1000)


@pytest.mark.parametrize(("rows", "steps"), [(3000, 1), (600, 5)], ids=["single", "chains"])
def test_a_run_killed_again_and_again_pays_for_what_was_in_flight_and_ends_the_same(tmp_path: Path, soaking: Any, rows: int, steps: int) -> None:
    chance = random.Random(SEED)
    with serving(QUICK) as server:
        calm = soaking(server, tmp_path / "calm", rows, steps, SLOTS)
        begun = time.monotonic()
        calm.finish()
        whole = time.monotonic() - begun
        assert len(calm.log()) == rows * steps
    with serving(QUICK) as server:
        soak = soaking(server, tmp_path / "killed", rows, steps, SLOTS)
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
    assert soak.made() == calm.made()


@pytest.mark.parametrize(("rows", "steps"), [(1500, 1), (300, 5)], ids=["single", "chains"])
def test_a_run_that_is_asked_to_stop_pays_for_nothing_twice(tmp_path: Path, soaking: Any, rows: int, steps: int) -> None:
    chance = random.Random(SEED)
    with serving(QUICK) as server:
        soak = soaking(server, tmp_path, rows, steps, SLOTS)
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


def test_a_full_disk_is_one_line_and_with_more_room_the_run_goes_on(small_disk: Path, soaking: Any) -> None:
    with serving(QUICK) as server:
        soak = soaking(server, small_disk, 2000, 1, SLOTS)
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
    assert len(soak.made()[0]) == 2000 and sum(twice.values()) <= 2 * 2 * SLOTS
