"""Stages under a real Ray: killed workers, killed drivers, signals and budgets, counted at the server. Minutes long, so left out unless asked for."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engines.measure import family
from insightv.config import TeacherDials
from insightv.store import Journal

pytest.importorskip("ray", reason="pip install 'insightv[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")]

SMALL = Path(__file__).parents[1] / "small.yaml"
SEED = int(os.environ.get("SOAK_SEED", "0"))
OUTPUTS = ("generate/chains.jsonl", "assess/verdicts.jsonl", "assess/scores.jsonl")
CONCURRENCY = 16
LOAD = ["world.train=60", "generate.open_problems=24", *(f"models.{role}.concurrency={CONCURRENCY}" for role in ("generator", "judge", "scorer"))]

Asked = Counter[str]


def started(run: Path, url: str, workers: int, *more: str, verb: str = "build") -> "subprocess.Popen[str]":
    """A run up to its assessments as a process, and the leader of a group."""
    roles = [f"models.{role}.url={url}" for role in ("generator", "judge", "scorer")]
    told = [f"run={run}", f"models.base={run}", f"scale.workers={workers}", *roles, *LOAD, *more]
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from insightv.cli import main; main()"
    command = [sys.executable, "-c", code, "assess", str(SMALL), *(word for one in told for word in ("-o", one))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(run: Path, url: str, workers: int, *more: str) -> list[bytes]:
    process = started(run, url, workers, *more)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and not said, said
    return [(run / name).read_bytes() for name in OUTPUTS]


def below(pid: int) -> dict[int, str]:
    """The processes that descend from one, by id, with their names."""
    found = {}
    for child in family(pid) - {pid}:
        with suppress(OSError):  # it ended meanwhile
            name = Path(f"/proc/{child}/comm").read_text().strip()
            found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip() or name
    return found


def wait_until(reached: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def ended(processes: dict[int, str]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in processes)


def in_flight(places: int) -> int:
    """Requests at most that places hold and that are answered but not committed: a commit takes less time than an answer of the teacher's."""
    return 2 * places


def twice(asked: Asked) -> int:
    return asked.total() - len(asked)


@pytest.fixture
def calm(tmp_path: Path, counting_teacher: Any) -> tuple[str, Asked, list[bytes]]:
    """A teacher, its count, and what a run without workers makes of it."""
    url, asked = counting_teacher(TeacherDials(latency=0.1))
    made = finish(tmp_path / "calm", url, 0)
    assert not twice(asked)
    asked.clear()
    return url, asked, made


def test_any_number_of_workers_makes_the_same_bytes(tmp_path: Path, calm: tuple[str, Asked, list[bytes]]) -> None:
    url, asked, made = calm
    for workers in (1, 2, 4):
        assert finish(tmp_path / str(workers), url, workers) == made
        assert not twice(asked)
        asked.clear()
    assert finish(tmp_path / "4", url, 2) == made and not asked


def test_a_killed_worker_costs_what_it_had_in_flight(tmp_path: Path, calm: tuple[str, Asked, list[bytes]]) -> None:
    url, asked, made = calm
    chance, run = random.Random(SEED), tmp_path / "run"
    process = started(run, url, 4)
    wait_until(lambda: asked.total() >= chance.randrange(60, 200))
    victim = chance.choice(sorted(pid for pid, name in below(process.pid).items() if "ray::Worker" in name))
    os.kill(victim, signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and not said
    assert [(run / name).read_bytes() for name in OUTPUTS] == made
    assert twice(asked) <= in_flight(CONCURRENCY // 4)


def test_a_killed_driver_goes_on_with_another_number_of_workers(tmp_path: Path, calm: tuple[str, Asked, list[bytes]]) -> None:
    url, asked, made = calm
    run = tmp_path / "run"
    process = started(run, url, 2)
    wait_until(lambda: asked.total() >= random.Random(SEED).randrange(60, 200))
    begun = below(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    # Two of Ray's own helpers look for its dead server for a minute more.
    wait_until(lambda: ended({pid: name for pid, name in begun.items() if "Agent" not in name}), 30)
    assert finish(run, url, 4) == made
    assert twice(asked) <= in_flight(CONCURRENCY)
    asked.clear()
    for name in ("generate", "assess"):
        (run / name / "manifest.json").unlink()
    assert finish(run, url, 3) == made and not asked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_flight_be_kept(tmp_path: Path, calm: tuple[str, Asked, list[bytes]], number: signal.Signals) -> None:
    url, asked, made = calm
    run = tmp_path / "run"
    process = started(run, url, 2)
    wait_until(lambda: asked.total() >= 100)
    begun = below(process.pid)
    # Ctrl-C is for the whole group, as in a shell.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert said.splitlines()[0].startswith("stopping: what is in flight is still answered and kept") and len(said.splitlines()) == 2
    assert ended(begun)
    with Journal(run / "journal") as journal:
        assert sum(bill.requests for bill in journal.bills().values()) == asked.total() < 400
    assert finish(run, url, 0) == made and not twice(asked)


def test_a_second_signal_leaves_at_once_and_nothing_stays(tmp_path: Path, counting_teacher: Any) -> None:
    url, _ = counting_teacher(TeacherDials(latency=20))
    process = started(tmp_path / "run", url, 2)
    wait_until(lambda: any("ray::Worker" in name for name in below(process.pid).values()))
    time.sleep(5)
    begun = below(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr and process.stderr.readline().startswith("stopping")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    wait_until(lambda: ended(begun), 30)


def test_a_budget_stops_all_workers(tmp_path: Path, calm: tuple[str, Asked, list[bytes]]) -> None:
    url, asked, made = calm
    run = tmp_path / "run"
    process = started(run, url, 4, "budget.max_requests=150")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and re.search(r"budget\.max_requests: \d+ requests were sent; raise it", said)
    assert 150 <= asked.total() <= 150 + CONCURRENCY
    assert finish(run, url, 2) == made and not twice(asked)


def test_nothing_listens_beyond_this_host(tmp_path: Path, counting_teacher: Any) -> None:
    url, asked = counting_teacher(TeacherDials(latency=0.3))
    process = started(tmp_path / "run", url, 2)
    try:
        wait_until(lambda: asked.total() >= 10)
        sockets = {inode for pid in below(process.pid) for inode in links(pid)}
        listening = [row for row in rows() if row[9] in sockets]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert listening, "Ray's processes talk over sockets"
    assert {row[1].partition(":")[0] for row in listening} <= {"0100007F", "0000000000000000FFFF00000100007F"}


def rows() -> list[list[str]]:
    """The kernel's lists of listening sockets: local address in hex is the second column, the inode the tenth."""
    lists = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    return [row for lines in lists for row in map(str.split, lines) if row[3] == "0A"]


def links(pid: int) -> list[str]:
    """Inode numbers of a process's sockets."""
    found = []
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(path))
        except OSError:
            continue
        found += [match[1]] if match else []
    return found


MEMORY = """
import asyncio, os
from contextlib import asynccontextmanager
from insightv.config import EndpointConfig, ScaleConfig
from insightv.models.meter import Meter, Stats
from insightv.scale.spread import spread
from insightv.scale.worker import Job

@asynccontextmanager
async def open(endpoints):
    async def work(number):
        return number, "x" * 20_000
    yield Job(work, [Stats()], Meter())

async def main():
    scale, sizes = ScaleConfig(workers=2), []
    endpoint = EndpointConfig(url="http://127.0.0.1/v1")
    items = ((number, "x" * 20_000) for number in range(20_000))
    async with spread(open, [endpoint], items, lambda item: str(item[0]), scale=scale, concurrency=64, meter=Meter()) as (results, _):
        done = 0
        async for _ in results:
            done += 1
            if done % 2_000 == 0:
                sizes.append(int(__import__("pathlib").Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
    print(done, sizes[0], max(sizes))

asyncio.run(main())
"""


def test_a_driver_holds_no_more_than_what_is_in_flight() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=280, check=True)
    count, early, most = done.stdout.split()
    assert count == "20000"
    # All items and results would be 800 MB.
    assert float(most) - float(early) < 60, done.stdout
