import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from insightv.config import TrainConfig, UserError
from insightv.models.vlm import TAGS, load
from insightv.training import sft
from insightv.training.job import command


def settings(**values: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {"dtype": "float32", "max_steps": 4, "batch_size": 4, "learning_rate": 1e-3, "warmup": 0, "schedule": "constant"} | values
    )


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_vision_tower_keeps_its_bytes_and_the_rest_learns(tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    summary = sft.train(tiny_llava, save(rows(8)), tmp_path / "out", settings(), tmp_path / "work")
    before, after = (load(folder).model.state_dict() for folder in (tiny_llava, tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "vision_tower" not in name}
    assert summary["last_loss"] < summary["first_loss"]
    assert (summary["rows"], summary["steps"], summary["dropped"]) == (8, 4, {})


def test_accumulated_batches_weigh_tokens_not_batches(tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    data = save(rows(4))
    sft.train(tiny_llava, data, tmp_path / "one", settings(), tmp_path / "work1")
    parts = settings(batch_size=1, arguments={"gradient_accumulation_steps": 4})
    sft.train(tiny_llava, data, tmp_path / "four", parts, tmp_path / "work4")
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)


class Interrupted(Exception):
    pass


def test_an_interrupted_adapter_training_goes_on_bit_equal(tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    config = settings(max_steps=8, save_steps=3, lora={"r": 4, "dropout": 0.1})
    data = save(rows(12))
    sft.train(tiny_llava, data, tmp_path / "whole", config, tmp_path / "work-whole")

    def interrupt(progress: dict[str, Any]) -> None:
        if progress["step"] == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        sft.train(tiny_llava, data, tmp_path / "again", config, tmp_path / "work", report=interrupt)
    steps: list[int] = []
    sft.train(tiny_llava, data, tmp_path / "again", config, tmp_path / "work", report=lambda progress: steps.append(progress["step"]))
    assert steps == [4, 5, 6, 7, 8]
    for name in ("adapter_model.safetensors", "adapter_config.json", "log.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_killed_halfway_it_ends_bit_equal_to_an_uninterrupted_training(
    tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path
) -> None:
    config = settings(max_steps=40, save_steps=6, schedule="cosine")
    data = save(rows(12))
    sft.train(tiny_llava, data, tmp_path / "whole", config, tmp_path / "work-whole")

    work = tmp_path / "work-killed"
    job = tmp_path / "job.json"
    arguments = {"model": tiny_llava, "data": data, "out": tmp_path / "killed", "work": work}
    job.write_text(json.dumps({name: str(path) for name, path in arguments.items()} | {"config": config.model_dump()}))
    process = subprocess.Popen(command("sft", job), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (work / "checkpoint-12" / "complete").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    (work / "checkpoint-999").mkdir()

    finished = subprocess.run(command("sft", job), capture_output=True, text=True, check=True)
    assert json.loads(finished.stdout.splitlines()[-1])["steps"] == 40
    steps = [json.loads(line)["step"] for line in (work / "progress.jsonl").read_text().splitlines()]
    assert steps.count(1) == 1
    assert steps[-1] == 40
    files = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "killed").iterdir())
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_tags_become_special_tokens_with_mean_embeddings_that_are_trained_and_saved(
    tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path
) -> None:
    data = rows(4)
    for row in data:
        row["completion"][0]["content"][0]["text"] = "<thoughts>\nx\n</thoughts>"
    sft.train(tiny_llava, save(data), tmp_path / "out", settings(special_tags=True, max_steps=1), tmp_path / "work")
    base, trained = load(tiny_llava), load(tmp_path / "out")
    new = trained.tokenizer.convert_tokens_to_ids(list(TAGS))
    assert new == list(range(len(base.tokenizer), len(base.tokenizer) + 4))
    assert trained.tokenizer("<thoughts>", add_special_tokens=False)["input_ids"] == [new[0]]
    mean = base.model.get_input_embeddings().weight.mean(0)
    rows_of_tags = trained.model.get_input_embeddings().weight[new]
    assert torch.allclose(rows_of_tags, mean.expand(4, -1), atol=2e-3)
    assert not torch.equal(rows_of_tags[0], mean)
    assert torch.equal(rows_of_tags[2], mean)


def test_progress_is_reported_and_a_bfloat16_training_keeps_float32_weights(
    tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []
    data = save(rows(4))
    sft.train(tiny_llava, data, tmp_path / "out", settings(dtype="bfloat16"), tmp_path / "work", report=seen.append)
    sft.train(tiny_llava, data, tmp_path / "exact", settings(), tmp_path / "work32")
    assert [entry["step"] for entry in seen] == [1, 2, 3, 4]
    assert seen[-1]["of"] == 4
    assert seen[-1]["seconds_left"] == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}
    assert losses(tmp_path / "out") == pytest.approx(losses(tmp_path / "exact"), abs=0.05)
    assert losses(tmp_path / "out") != losses(tmp_path / "exact")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_length": 16}, "4 of 4 rows in .* cannot be trained on: row0 .* tokens, more than max_length = 16"),
        ({"max_length": 16, "too_long": "drop"}, "no rows to train on in .* all 4 are longer than max_length = 16"),
        ({"arguments": {"learning_rat": 1}}, "learning_rat"),
        ({"special_tags": True, "lora": {}}, "special_tags needs full fine-tuning"),
    ],
)
def test_a_users_mistake_is_one_clear_line(
    values: dict[str, Any], message: str, tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        sft.train(tiny_llava, save(rows(4)), tmp_path / "out", settings(**values), tmp_path / "work")
    assert "\n" not in str(caught.value)
