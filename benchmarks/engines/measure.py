"""CPU time and memory of an engine's run: this process by the kernel's own counts, or with all its descendants by sampling. The standard library alone."""

import contextlib
import json
import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

_TICK = os.sysconf("SC_CLK_TCK")


class Meter:
    """Measures the block: `began` and `ended` (monotonic clock), `cpu` seconds (user and system), `peak_mb`, and `over_mb` of them above what was
    there when the block began, which is after the imports.

    For this process alone the peak is VmHWM, reset at the beginning. With `tree` it is the sum of PSS over this process and its descendants, sampled
    four times a second, and CPU time is the sum of theirs that are alive at a sample, so that of a short-lived one is lost in part; `samples` of
    [monotonic time, CPU seconds so far] let the driver leave out what was spent before the first request, such as the start of an actor.
    """

    def __init__(self, tree: bool = False) -> None:
        self._tree = tree
        self._end = threading.Event()
        self._peak = 0.0
        self._cpu: dict[int, float] = {}
        self._samples: list[tuple[float, float]] = []
        self.result: dict[str, Any] = {}

    def __enter__(self) -> "Meter":
        if self._tree:
            self._before = tree_memory()
            self._cpu_before = {pid: cpu_seconds(pid) for pid in family(os.getpid())}
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
            self._before = status("VmRSS")
            self._used = _own_cpu()
        self._began = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        ended = time.monotonic()
        if self._tree:
            self._end.set()
            self._sampler.join()
            self._take()
            cpu = self._samples[-1][1]
        else:
            cpu, self._peak = _own_cpu() - self._used, status("VmHWM")
        over = max(0.0, self._peak - self._before)
        self.result = {"began": self._began, "ended": ended, "cpu": cpu, "peak_mb": round(self._peak, 1), "over_mb": round(over, 1)}
        if self._tree:
            self.result["samples"] = self._samples

    def _sample(self) -> None:
        while not self._end.wait(0.25):
            self._take()

    def _take(self) -> None:
        self._peak = max(self._peak, tree_memory())
        for pid in family(os.getpid()):
            self._cpu[pid] = max(self._cpu.get(pid, 0.0), cpu_seconds(pid))
        total = sum(seconds - self._cpu_before.get(pid, 0.0) for pid, seconds in self._cpu.items())
        self._samples.append((time.monotonic(), total))


def say(**values: Any) -> None:
    """An engine's result as the last line of its output, which the driver reads."""
    print(json.dumps(values), flush=True)


def _own_cpu() -> float:
    return sum(used.ru_utime + used.ru_stime for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)))


def status(name: str, pid: int | str = "self") -> float:
    """A size of a process, this one by default, in megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def family(root: int) -> set[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def cpu_seconds(pid: int) -> float:
    """Seconds that a process used so far; 0 once it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK
    return 0.0


def tree_memory() -> float:
    """Megabytes of this process and its descendants, what they share counted once."""
    total = 0
    for pid in family(os.getpid()):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024
