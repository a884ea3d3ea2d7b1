"""What a run shows of a stage under way: a bar with its rate, or a line now and then."""

import contextlib
import re
import time
from pathlib import Path
from typing import Any

import pytest

from insightv import progress
from insightv.config import Config
from insightv.plan import Plan
from insightv.processes import execute
from insightv.stages.context import Context


def run_slow(folder: Path, *, steps: int = 40, seconds: float = 0.05) -> None:
    """A run of one stage that reports its steps."""

    def slow(context: Context, work: Path) -> dict[str, Any]:
        for step in range(1, steps + 1):
            time.sleep(seconds)
            context.report({"step": step, "of": steps, "loss": 0.5})
        return {}

    def plan(config: Config, _: int) -> Plan:
        steps = Plan(config)
        steps.add("slow", (), slow, [])
        return steps

    execute(Config(run=folder), plan, {"slow"}, contextlib.nullcontext, False)


def test_a_progress_bar_shows_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    run_slow(tmp_path)
    said = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", capsys.readouterr().out)
    rates = [float(rate) for rate in re.findall(r"slow .* \d+/40 (\S+)/s \d:\d\d:\d\d .*loss 0\.5", said)]
    assert rates and all(0 < rate < 21 for rate in rates)


def test_without_a_terminal_a_long_stage_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_slow(tmp_path / "short", steps=2)
    assert "/2" not in capsys.readouterr().out, "a stage of less than a minute needs no line"
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.5)
    run_slow(tmp_path / "long")
    *lines, end = capsys.readouterr().out.splitlines()
    assert end.startswith("✓ slow") and 1 <= len(lines) <= 10
    steps = [int(re.fullmatch(r"slow  (\d+)/40  \d+(?:\.\d+)?/s  0:00:\d\d left  loss 0\.5", line)[1]) for line in lines]  # type: ignore[index]
    assert steps == sorted(set(steps))


def test_a_stage_that_reports_nothing_is_said_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.4)
    run_slow(tmp_path, steps=1, seconds=1)
    assert capsys.readouterr().out.startswith("slow  runs for 0:00:00\n")
