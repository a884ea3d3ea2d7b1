"""Kill -9 at random moments, start again each time: the data sets are the bytes of an undisturbed run. `make soak`."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFIG = Path(os.environ.get("SOAK_CONFIG", Path(__file__).parents[2] / "configs" / "demo.yaml"))
KILLS = int(os.environ.get("SOAK_KILLS", "20"))
SEED = int(os.environ.get("SOAK_SEED", "0"))


def start(run: Path) -> subprocess.Popen[bytes]:
    code = "from insightv.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, "run", str(CONFIG), "-o", f"run={run}"], start_new_session=True)


def finished(run: Path) -> float:
    """Seconds of a run to its end."""
    began = time.monotonic()
    assert start(run).wait() == 0
    return time.monotonic() - began


def kill_after(run: Path, seconds: float) -> bool:
    """Start the run, end it with all its processes after so many seconds; False if it ended by itself before."""
    process = start(run)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    assert process.returncode == 0
    return False


def digests(run: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every finished stage's data sets and manifests."""
    files = [path for suffix in ("*.parquet", "manifest.json", "manifest.jsonl") for path in run.rglob(suffix)]
    names = {str(path.relative_to(run)): path for path in files if not any(part.startswith(".") for part in path.relative_to(run).parts)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items()}


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bytes(tmp_path: Path) -> None:
    whole = finished(tmp_path / "calm")
    expected = digests(tmp_path / "calm")
    assert any(name.endswith(".parquet") for name in expected)
    random_moment = random.Random(SEED)
    kills = 0
    for _ in range(KILLS):
        # Summed up, the mean is one undisturbed run: what starting again costs keeps it from ending before the last kill.
        kills += kill_after(tmp_path / "storm", random_moment.uniform(0.5, 2 * whole / KILLS))
    finished(tmp_path / "storm")
    print(f"{kills} kills (seed {SEED}), {len(expected)} files compared; undisturbed {whole:.0f} s")
    assert kills == KILLS, "the run ended before the last kill: take another SOAK_SEED"
    assert digests(tmp_path / "storm") == expected
