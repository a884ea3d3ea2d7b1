import json
import math
import sys
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, models, training
from benchmarks.trainers import ours
from benchmarks.trainers.task import Turns


def test_the_gpus_benchmark_runs_on_a_cpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", "--tiny", "--repeats", "1", "--forms", "shared_prefix"])
    gpu.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["answers"] for line in lines if "times as fast" in line] == [1, 2, 8]
    assert [line["form"] for line in lines if "form" in line] == ["shared", "separate"] * 3
    assert all(line["tokens_per_second"] > 0 for line in lines if "form" in line)


@pytest.fixture
def task(tmp_path: Path) -> Any:
    return lambda kind: training._task(models.save("llava_next", tmp_path / "model"), tmp_path / kind, kind, steps=2, prompt=80, answer=10, answers=4)


class Alone(Turns):
    """Turns that are always one's own."""

    def __init__(self) -> None:
        here, self.driver = Pipe()
        super().__init__(here)
        self.driver.send(None)

    def end(self, part: str | None = None) -> None:
        self.driver.send(None)
        super().end(part)

    def told(self) -> list[dict[str, float]]:
        return [self.driver.recv() for _ in iter(self.driver.poll, False)]


def test_prompts_and_answers_have_the_lengths_that_were_asked_for(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(ours, "_step", lambda _, rows: seen.append(rows))
    turns = Alone()
    ours.group(task("group"), turns)
    *steps, known = turns.told()
    assert [step.keys() for step in steps] == [{"shared", "separate"}] * (2 + training.WARMUP) and known.keys() == {"shared flops", "separate flops"}
    rows = seen[0]
    assert all(len(row.prompt_ids) == 80 and len(row.answers) == 4 for row in rows)
    assert all(8 <= len(answer.ids) <= 13 for row in rows for answer in row.answers)
    assert [len(row.answers) for row in seen[1]] == [1] * 8


def test_trainers_take_turns_and_tell_what_their_steps_cost(task: Any) -> None:
    dpo = task("dpo")
    running = {"ours": ("ours", sys.executable, dpo), "scores": ("ours", sys.executable, replace(dpo, kind="reference")), "trl": ("trl", sys.executable, dpo)}
    found = training.by_turns(running)
    assert found.keys() == {"ours step", "ours prepare", "ours step flops", "scores reference", "scores reference flops", "trl step", "trl step flops"}
    assert min(found.values()) > 0
    # Forward and backward pass, the vision tower frozen.
    assert 2.5 < found["ours step flops"] / found["scores reference flops"] < 3.2
    # Prompts of 80 tokens with answers of 10, twice over and with a reference, against once.
    assert 1.9 < found["trl step flops"] / found["ours step flops"] < 2.7


def test_a_trainer_that_fails_is_told_with_its_words(task: Any) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)trl ended with 1.*no-such-model"):
        training.by_turns({"trl": ("trl", sys.executable, replace(task("dpo"), model="no-such-model"))})


def test_the_bound_is_that_of_the_mean_of_logarithms() -> None:
    assert training.bound([2.0, 2.0, 2.0]) == pytest.approx(2.0)
    assert training.bound([1.0, 4.0]) < 2.0 and math.isnan(training.bound([2.0]))
    assert training.bound([1.9, 2.0, 2.1, 2.0]) == pytest.approx(math.exp(0.6923 - 2.353 * 0.04090 / 2), abs=2e-3)


def test_the_section_has_a_row_for_each_claim_and_each_ratio() -> None:
    text = training.section([training.Line("a: DPO, TRL", [2.0, 2.2, 2.1], 1.75)], [(1, 2, 1.5, 1.6), (4, 2, 1.8, 1.9)], Path("docs/training.svg"))
    assert "| a: DPO, TRL | 2.10 | " in text and "| 1.75 | 1.20 |" in text
    assert "| 4:1 | 1.80 (1.90) |" in text and "](training.svg)" in text
