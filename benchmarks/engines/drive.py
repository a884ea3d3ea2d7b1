"""One run of one engine against a fresh stub, and what is to be said of it."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.engines.ideal import ideal_seconds
from benchmarks.engines.process import cores, environment, serving
from benchmarks.engines.weather import Settings

ENGINES = {"floor": "benchmarks.engines.floor", "ours": "benchmarks.engines.ours", "evaluate": "benchmarks.engines.evaluate"}
PEERS = {
    "ray": ("benchmarks.engines.peers.ray_data", ("ray[data]==2.60.0", "aiohttp", "orjson")),
    "datatrove": ("benchmarks.engines.peers.datatrove_runner", ("datatrove[io]==0.10.1", "httpx", "aiosqlite", "aiofiles", "xxhash")),
    "curator": ("benchmarks.engines.peers.curator_llm", ("bespokelabs-curator==0.1.31",)),
}
"""Peer -> (module, what its environment holds besides the standard library)."""
LABELS = {
    "floor": "floor: bare aiohttp",
    "ours": "insightv",
    "evaluate": "insightv evaluate generate",
    "ray": "Ray Data 2.60 map_batches",
    "datatrove": "datatrove 0.10.1",
    "curator": "curator 0.1.31",
}
Result = dict[str, Any]


class Case(NamedTuple):
    """A load: rows of so many steps, and the requests wanted in flight."""

    rows: int
    steps: int
    slots: int

    @property
    def name(self) -> str:
        """For results and headings."""
        return f"{'single' if self.steps == 1 else 'chains'}-{self.slots}"


CASES = (Case(6000, 1, 64), Case(4000, 1, 256), Case(200, 5, 64), Case(800, 5, 256))


class EngineFailed(RuntimeError):
    """An engine that ended without a result."""


def run(engine: str, case: Case, settings: Settings, *, peers: Path | None = None, pinned: bool = True, extra: Sequence[str] = ()) -> Result:
    """Run an engine over a case and return its figures; `EngineFailed` with the end of what it said.

    Seconds count from the arrival of the first request to the end of the engine's work, the last commit included; for a peer, which does more before
    it returns, to the last answer. A peer's CPU time counts from the first arrival where it was sampled.
    """
    server_core, engine_core = cores(pinned)
    with serving(settings, server_core) as server:
        # Ray is several processes, which one core would not do justice.
        said = _finish(_start(engine, case, server.url, peers, engine_core if engine != "ray" else None, extra))
        report = server.report()
    log = [entry for entry in report["log"] if entry[0] >= 0]
    began, answered = min(entry[4] for entry in log), max(entry[5] for entry in log if entry[5])
    seconds = (answered if engine in PEERS else said["ended"]) - began
    ideal = ideal_seconds(settings, case.rows, case.steps, case.slots)
    return said | {
        "engine": engine,
        "case": case.name,
        "requests": len(log),
        "seconds": seconds,
        "rate": len(log) / seconds,
        "ideal_seconds": ideal,
        "good_seconds": max((entry[5] for entry in log if entry[3] == "ok" and entry[5]), default=began) - began,
        "of_ideal": ideal / seconds,
        "cpu_per_1000": 1000 * (said["cpu"] - _cpu_before(said.pop("samples", []), began)) / len(log),
        "stub_cpu_per_1000": 1000 * report["cpu"] / len(log),
        "most_in_flight": report["most"],
        "paid_twice": paid_twice(log),
        "kinds": dict(Counter(entry[3] for entry in log)),
        "attempts": dict(Counter(Counter((entry[0], entry[1]) for entry in log).values())),
    }


def run_killed(engine: str, case: Case, settings: Settings, folder: Path, after: int, *, pinned: bool = True) -> Result:
    """Kill -9 once so many requests are answered, start again over the same folder, and count what was asked for twice."""
    server_core, engine_core = cores(pinned)
    with serving(settings, server_core) as server:
        first = _start(engine, case, server.url, None, engine_core, ("--folder", str(folder)))
        while len(log := server.report()["log"]) < after + case.slots and first.poll() is None:
            time.sleep(0.2)
        first.kill()
        first.communicate()
        said = _finish(_start(engine, case, server.url, None, engine_core, ("--folder", str(folder))))
        again = server.report()["log"]
    return said | {"engine": engine, "case": case.name, "before_kill": len(log), "requests": len(again), "paid_twice": paid_twice(again)}


def paid_twice(log: list[list[Any]]) -> int:
    """Good replies that were asked for though the same row and step had one before."""
    good = Counter((row, step) for row, step, _, kind, *_ in log if kind == "ok")
    return sum(good.values()) - len(good)


def install(folder: Path) -> list[str]:
    """Make each peer's environment in a folder; returns a line for each that did not come about."""
    failures = []
    for name, (_, packages) in PEERS.items():
        python = folder / name / "bin" / "python"
        steps = [[sys.executable, "-m", "venv", str(folder / name)], [str(python), "-m", "pip", "install", "--quiet", *packages]]
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                failures.append(f"{name}: {_last_line(done.stderr)}")
                break
    return failures


def _start(engine: str, case: Case, url: str, peers: Path | None, core: int | None, extra: Sequence[str]) -> "subprocess.Popen[str]":
    python = sys.executable if engine in ENGINES else str((peers or Path()) / engine / "bin" / "python")
    if not Path(python).exists():
        raise EngineFailed(f"{engine} has no environment at {python}; make it by --install-peers")
    module = ENGINES.get(engine) or PEERS[engine][0]
    command = [python, "-m", module, "--url", url, "--rows", str(case.rows), "--steps", str(case.steps), "--slots", str(case.slots), *extra]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    return process


def _finish(process: "subprocess.Popen[str]", limit: float = 900) -> Result:
    try:
        out, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise EngineFailed(f"did not end in {limit:g} s") from None
    lines = out.strip().splitlines()
    if process.returncode or not lines or not lines[-1].startswith("{"):
        raise EngineFailed(_last_line(errors) or f"exit code {process.returncode}")
    found: Result = json.loads(lines[-1])
    return found


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _cpu_before(samples: list[list[float]], began: float) -> float:
    """CPU seconds spent before the first arrival, by the last sample ahead of it."""
    return max((cpu for at, cpu in samples if at <= began), default=0.0)
