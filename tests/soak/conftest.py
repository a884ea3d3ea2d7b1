"""A run of the engine that is ended and started again over one folder, for the soaks of the engine."""

import contextlib
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.engines.process import Server, environment

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
    slots: int
    workers: int = 0
    lost: list[set[Part]] = field(default_factory=list)
    """At each end: what had been asked for and was not kept."""
    unanswered: list[int] = field(default_factory=list)
    """How many of these had no answer yet."""

    def start(self) -> "subprocess.Popen[str]":
        arguments = [self.server.url, str(self.folder), *map(str, (self.rows, self.steps, self.slots, self.workers))]
        command = [sys.executable, str(Path(__file__).parent / "engine_run.py"), *arguments]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "begun\n"
        return process

    def finish(self, process: "subprocess.Popen[str] | None" = None) -> None:
        """Let a run come to its end, a new one unless one is given."""
        process = process or self.start()
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
        held = self.kept()
        gone = [entry for entry in asked if (entry[0], entry[1]) not in held]
        self.lost.append({(entry[0], entry[1]) for entry in gone})
        self.unanswered.append(sum(entry[5] is None or entry[5] >= at for entry in gone))
        # An answer is on its way to the disk for a moment, no longer.
        assert all(entry[5] is None or entry[5] > at - 0.5 for entry in gone)

    def kept(self) -> set[Part]:
        return kept(self.folder, self.steps)

    def made(self) -> tuple[dict[str, dict[str, Any]], bytes]:
        """The journal's rows and the file of outcomes."""
        return stored(self.folder), (self.folder / "outcomes.jsonl").read_bytes()

    def log(self) -> list[list[Any]]:
        log: list[list[Any]] = self.server.report()["log"]
        return log

    def twice(self) -> Counter[Part]:
        """Parts that were asked for more than once, with the times beyond the first; all of them had been lost at an end, as often."""
        again = Counter((row, step) for row, step, *_ in self.log())
        again = Counter({part: times - 1 for part, times in again.items() if times > 1})
        assert not again - Counter(part for lost in self.lost for part in lost), "what is in the journal was asked for again"
        return again


@pytest.fixture
def soaking() -> type[Soak]:
    """The class, since test modules cannot import each other."""
    return Soak
