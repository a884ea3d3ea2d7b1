"""`trainer: trl`: the same settings and outputs, and where the order of rows is no matter the same numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from insightv.config import DpoConfig, TrainConfig, UserError
from insightv.models.vlm import load
from insightv.training import dpo, sft, with_trl

VALUES: dict[str, Any] = {"dtype": "float32", "max_steps": 3, "batch_size": 4, "learning_rate": 1e-3, "warmup": 0, "schedule": "constant"}


@pytest.fixture
def shards(save: Callable[..., Path]) -> Callable[[Any], Path]:
    """Rows under the names that a stage gives its files."""

    def write(data: Any) -> Path:
        folder = save(data)
        (folder / "train.parquet").rename(folder / "train-00000.parquet")
        return folder

    return write


def logged(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_sft(tiny_llava_next: Path, rows: Callable[..., Any], shards: Callable[..., Path], tmp_path: Path) -> None:
    data, told = shards(rows(4)), {}
    for trainer in ("insightv", "trl"):
        config = TrainConfig.model_validate(VALUES | {"trainer": trainer})
        told[trainer] = sft.train(tiny_llava_next, data, tmp_path / trainer, config, tmp_path / f"work-{trainer}")
    assert logged(tmp_path / "trl", "loss") == pytest.approx(logged(tmp_path / "insightv", "loss"), abs=1e-4)
    theirs, ours = ({name: value for name, value in told[trainer].items() if value} for trainer in ("trl", "insightv"))
    assert theirs == pytest.approx(ours, abs=1e-4)
    assert logged(tmp_path / "trl", "step") == [1, 2, 3]
    load(tmp_path / "trl")


@pytest.mark.parametrize("sft_weight", [0.0, 0.3])
def test_dpo(sft_weight: float, tiny_llava_next: Path, rows: Callable[..., Any], shards: Callable[..., Path], tmp_path: Path) -> None:
    data = shards(rows(4, pairs=True))
    for trainer in ("insightv", "trl"):
        config = DpoConfig.model_validate(VALUES | {"trainer": trainer, "sft_weight": sft_weight})
        dpo.train(tiny_llava_next, data, tmp_path / trainer, config, tmp_path / f"work-{trainer}")
    for name in ("margin", "accuracy", "logp_chosen") if sft_weight else ("loss", "margin", "accuracy", "logp_chosen"):
        assert logged(tmp_path / "trl", name) == pytest.approx(logged(tmp_path / "insightv", name), abs=1e-3), name
    smoothed = DpoConfig.model_validate(VALUES | {"trainer": "trl", "label_smoothing": 0.1})
    with pytest.raises(UserError, match="TRL's sigmoid loss has none"):
        dpo.train(tiny_llava_next, data, tmp_path / "smoothed", smoothed, tmp_path / "work-smoothed")


def test_an_adapter_and_rows_that_are_left_out(tiny_llava: Path, rows: Callable[..., Any], shards: Callable[..., Path], tmp_path: Path) -> None:
    data = rows(5)
    data[2]["completion"][0]["content"][0]["text"] = "indeed " * 80
    config = TrainConfig.model_validate(VALUES | {"trainer": "trl", "lora": {"r": 2}, "max_length": 120, "too_long": "drop"})
    told = sft.train(tiny_llava, shards(data), tmp_path / "out", config, tmp_path / "work")
    assert (told["rows"], told["dropped"], told["steps"]) == (4, {"too_long": 1}, 3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter_config.json", "adapter_model.safetensors", "log.jsonl"]


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trl", None)
    with pytest.raises(UserError, match=r"pip install 'insightv\[trl\]'"):
        with_trl._library()
