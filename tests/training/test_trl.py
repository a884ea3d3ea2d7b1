"""Six optimizer steps of our SFT and DPO beside TRL's own, which runs prompt and image again for each answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.models import KINDS
from benchmarks.trainers.trl import trainer
from insightv.config import DpoConfig, TrainConfig
from insightv.training import dpo, sft

OURS = {"dtype": "float32", "max_steps": 6, "batch_size": 4, "learning_rate": 1e-3, "warmup": 0, "schedule": "constant"}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Path:
    return tiny(request.param)


def logged(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "log.jsonl").read_text().splitlines()]


def trained_by_trl(kind: str, model: Path, data: list[dict[str, Any]], folder: Path) -> Callable[[str], list[float]]:
    """What TRL logs of each step, by name."""
    settings = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "logging_steps": 1}
    training = trainer(kind, model, data, folder, **settings)
    training.train()
    return lambda name: [entry[name] for entry in training.state.log_history if "loss" in entry]


def test_sft(model: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    data = rows(4)
    sft.train(model, save(data), tmp_path / "ours", TrainConfig.model_validate(OURS), tmp_path / "work")
    expected = trained_by_trl("sft", model, data, tmp_path / "trl")("loss")
    assert logged(tmp_path / "ours", "loss") == pytest.approx(expected, abs=1e-4)
    assert len(expected) == 6 and expected[-1] < expected[0] - 0.1


def test_dpo(model: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    data = rows(4, pairs=True)
    dpo.train(model, save(data), tmp_path / "ours", DpoConfig.model_validate(OURS), tmp_path / "work")
    expected = trained_by_trl("dpo", model, data, tmp_path / "trl")
    assert logged(tmp_path / "ours", "loss") == pytest.approx(expected("loss"), abs=1e-4)
    assert logged(tmp_path / "ours", "margin") == pytest.approx(expected("rewards/margins"), abs=1e-4)
    assert logged(tmp_path / "ours", "accuracy") == pytest.approx(expected("rewards/accuracies"))
    losses = expected("loss")
    assert len(losses) == 6 and losses[-1] < losses[0] - 0.05
