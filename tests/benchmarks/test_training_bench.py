import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, models, training
from benchmarks.trainers import ours
from benchmarks.trainers.task import Task


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


def test_prompts_and_answers_have_the_lengths_that_were_asked_for(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: Task = task("group")
    seen: list[Any] = []
    monkeypatch.setattr(ours, "_step", lambda _, rows: seen.append(rows))
    found = ours.group(given)
    assert found.keys() == {"shared", "separate", "shared_flops", "separate_flops"}
    rows = seen[0]
    assert all(len(row.prompt_ids) == 80 and len(row.answers) == 4 for row in rows)
    assert all(8 <= len(answer.ids) <= 13 for row in rows for answer in row.answers)
    assert [len(row.answers) for row in seen[1]] == [1] * 8


def test_a_training_is_measured_with_all_that_belongs_to_it(task: Any) -> None:
    found = ours.training(task("dpo"))
    assert found.keys() == {"prepare", "reference", "reference_flops", "step", "step_flops"} and min(found.values()) > 0
    # Forward and backward pass, the vision tower frozen.
    assert 2.5 < found["step_flops"] / found["reference_flops"] < 3.2


def test_the_bound_is_that_of_the_mean_of_logarithms() -> None:
    assert training.bound([2.0, 2.0, 2.0]) == pytest.approx(2.0)
    assert training.bound([1.0, 4.0]) < 2.0 and math.isnan(training.bound([2.0]))
    assert training.bound([1.9, 2.0, 2.1, 2.0]) == pytest.approx(math.exp(0.6923 - 2.353 * 0.04090 / 2), abs=2e-3)


def test_the_section_has_a_row_for_each_claim_and_each_ratio() -> None:
    text = training.section([training.Line("a: DPO, TRL", [2.0, 2.2, 2.1], 1.75)], [(1, 2, 1.5, 1.6), (4, 2, 1.8, 1.9)], Path("docs/training.svg"))
    assert "| a: DPO, TRL | 2.10 | " in text and "| 1.75 | 1.20 |" in text
    assert "| 4:1 | 1.80 (1.90) |" in text and "](training.svg)" in text
