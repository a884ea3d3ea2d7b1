"""Kill -9 at random moments, start again each time: the data sets are the bytes of an undisturbed run, and nothing journalled is paid again.

`make test` kills a run of the small config three times; `make soak` one of SOAK_CONFIG (the demo's, or the small one) SOAK_KILLS times.
"""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from insightv import verbs
from insightv.config import TeacherDials
from insightv.config_file import load_config

SMALL = Path(__file__).parents[1] / "small.yaml"
CONFIG = Path(os.environ.get("SOAK_CONFIG", Path(__file__).parents[2] / "configs" / "demo.yaml")).resolve()
KILLS = int(os.environ.get("SOAK_KILLS", "20"))
SEED = int(os.environ.get("SOAK_SEED", "0"))

Asked = Counter[str]
Teach = Callable[[TeacherDials], tuple[str, Asked]]


def journalled(run: Path) -> int:
    """Rows of all journals in which a reply of the teacher's lies."""
    count = 0
    for path in (run / "journal").glob("*.sqlite"):
        with sqlite3.connect(path) as connection:
            count += sum('"finish_reason"' in row.decode() for (row,) in connection.execute("SELECT row FROM replies"))
    return count


def digests(run: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every finished stage's data sets and manifests."""
    files = [path for suffix in ("*.parquet", "manifest.json", "manifest.jsonl") for path in run.rglob(suffix)]
    names = {str(path.relative_to(run)): path for path in files if not any(part.startswith(".") for part in path.relative_to(run).parts)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items()}


@dataclass
class Storm:
    """A run that is killed and started again, and what its trainings said of their steps meanwhile."""

    config: Path
    run: Path
    overrides: list[str]
    verb: str = "run"
    steps: dict[Path, list[int]] = field(default_factory=dict)
    """Progress file of a training -> the steps that it logged, over all starts."""
    expected: list[tuple[Path, int, int]] = field(default_factory=list)
    """At a kill: progress file, its length, and the step of the last complete checkpoint."""

    def start(self) -> "subprocess.Popen[bytes]":
        code = "from insightv.cli import main; main()"
        arguments = [word for override in (f"run={self.run}", *self.overrides) for word in ("-o", override)]
        return subprocess.Popen([sys.executable, "-c", code, self.verb, str(self.config), *arguments], start_new_session=True)

    def finish(self) -> float:
        """Seconds of a run to its end."""
        began = time.monotonic()
        process = self.start()
        self._watch(process, lambda: False)
        assert process.returncode == 0
        return time.monotonic() - began

    def kill(self, moment: Callable[[], bool]) -> bool:
        """Start the run and kill it with all its processes at the moment; False if it ended by itself before."""
        process = self.start()
        if not self._watch(process, moment):
            assert process.returncode == 0
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # the stages' own processes end with their parent
        self._read_steps()
        for path, steps in self.steps.items():
            if path.exists():
                complete = [int(mark.parent.name.rpartition("-")[2]) for mark in path.parent.glob("checkpoint-*/complete")]
                self.expected.append((path, len(steps), max(complete, default=0)))
        return True

    def after_steps(self, count: int) -> Callable[[], bool]:
        """The moment when trainings logged so many steps more than when it was first looked for."""
        seen: list[int] = []

        def reached() -> bool:
            seen.append(sum(map(len, self.steps.values())))
            return seen[-1] >= seen[0] + count

        return reached

    def resumed(self) -> int:
        """Trainings that went on, all of them from the checkpoint that they had."""
        followed = [(self.steps[path][length], step) for path, length, step in self.expected if len(self.steps[path]) > length]
        assert all(after == step + 1 for after, step in followed), followed
        return sum(step > 0 for _, step in followed)

    def _watch(self, process: "subprocess.Popen[bytes]", moment: Callable[[], bool]) -> bool:
        """Follow the process to its end, or up to the moment: then True."""
        try:
            while process.poll() is None:
                if moment():
                    return True
                self._read_steps()
                time.sleep(0.02)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return False

    def _read_steps(self) -> None:
        for path in self.run.glob(".work/*/scratch/progress.jsonl"):
            try:
                lines = path.read_text().splitlines(keepends=True)
            except FileNotFoundError:  # the stage was finished meanwhile
                continue
            self.steps[path] = [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def after(seconds: float) -> Callable[[], bool]:
    """The moment so many seconds from now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def compare(storm: Storm, calm: Path, asked: Asked, kills: int) -> str:
    """Check the storm's end against the calm run; one line of what was compared."""
    expected = digests(calm)
    assert any(name.endswith(".parquet") for name in expected)
    assert digests(storm.run) == expected
    rows, again = journalled(storm.run), asked.total() - len(asked)
    assert len(asked) == rows == journalled(calm)
    # Nothing that was committed is paid again. What is in flight at a kill is, and what was answered and waits for its commit: of each open chain one
    # request at most, since the next waits for that commit, and of each problem a scoring.
    config = load_config(storm.config, storm.overrides)
    assert config.world
    assert again <= kills * min(config.generate.open_problems, config.world.train) * (config.generate.n + 1)
    return f"{len(expected)} files equal, {rows} requests journalled, {again} in flight paid again, {storm.resumed()} trainings resumed"


def settings(config: Path, base: Path, teach: Teach, *more: str) -> tuple[list[str], Asked]:
    """Overrides that send all roles to a counting teacher and give the small config its base."""
    world = load_config(config).world
    assert world
    url, asked = teach(world.teacher)
    roles = [f"models.{role}.url={url}" for role in ("generator", "judge", "scorer")]
    return [*roles, *([f"models.base={base}"] if config == SMALL else []), *more], asked


def test_three_kills(tmp_path: Path, tiny_llava: Path, counting_teacher: Teach, in_this_process: None) -> None:
    chance = random.Random(SEED)
    # Loading the libraries is most of it, so only the reasoner is trained here, and the undisturbed run has its stages in this process.
    overrides, asked = settings(SMALL, tiny_llava, counting_teacher, "systems.rows=[reasoner]", "systems.baseline=reasoner", "reasoner.max_steps=12")
    storm = Storm(SMALL, tmp_path / "storm", overrides, "train")
    requests, seconds, steps = chance.randrange(10, 100), chance.uniform(0.5, 5), chance.randrange(2, 9)
    moments = [lambda: lambda: asked.total() >= requests, lambda: after(seconds), lambda: storm.after_steps(steps)]
    kills = sum(storm.kill(moment()) for moment in moments)
    storm.finish()
    served = Counter(asked)
    asked.clear()
    verbs.run(load_config(SMALL, [*overrides, f"run={tmp_path / 'calm'}"]), {"train"})
    assert set(asked.values()) == {1}
    compare(storm, tmp_path / "calm", served, kills)
    assert kills == 3 and storm.resumed() >= 1


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bytes(tmp_path: Path, tiny_llava: Path, counting_teacher: Teach) -> None:
    rows = ("systems.rows=[pair+dpo]", "systems.baseline=pair+dpo")
    small = ("reasoner.max_steps=60", "summarizer.max_steps=60", "dpo.max_steps=30", *rows) if CONFIG == SMALL else ()
    often = [f"{training}.save_steps=2" for training in ("reasoner", "summarizer", "single", "dpo")]
    overrides, asked = settings(CONFIG, tiny_llava, counting_teacher, *often, *small)
    calm = tmp_path / "calm"
    whole = Storm(CONFIG, calm, overrides).finish()
    assert set(asked.values()) == {1}
    asked.clear()
    storm = Storm(CONFIG, tmp_path / "storm", overrides)
    chance = random.Random(SEED)
    kills = 0
    for number in range(KILLS):
        # Summed up, the mean is one undisturbed run: what starting again costs keeps it from ending before the last kill. On a slow machine
        # that leaves little time to train, so some kills wait for a few steps of a training.
        seconds, steps = chance.uniform(0.5, 2 * whole / KILLS), chance.randrange(2, 8)
        kills += storm.kill(storm.after_steps(steps) if number % 4 == 3 else after(seconds))
    storm.finish()
    print(f"{kills} kills (seed {SEED}), {compare(storm, calm, asked, kills)}; undisturbed {whole:.0f} s")
    assert kills == KILLS, "the run ended before the last kill: take another SOAK_SEED"
    assert storm.resumed() >= 1
