import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from insightv.config import TrainConfig
from insightv.training import sft
from insightv.training.job import command, main
from insightv.training.run import _order, in_bfloat16


def made(count: int) -> list[int]:
    draw = Random(count)
    return [draw.randrange(5, 100) for _ in range(count)]


@pytest.mark.parametrize(("count", "epochs", "batch"), [(100, 1, 8), (100, 2.5, 8), (7, 3, 4), (3, 2, 8)])
def test_every_epoch_gives_every_row_once(count: int, epochs: float, batch: int) -> None:
    order = _order(made(count), TrainConfig(epochs=epochs, batch_size=batch), 1)
    assert len(order) == epochs * count
    times = Counter(order)
    assert set(times) == set(range(count))
    assert max(times.values()) - min(times.values()) <= 1


def test_the_order_depends_on_the_seed_alone_and_counts_the_rows_of_all_steps() -> None:
    widths = made(50)
    config = TrainConfig(max_steps=5, batch_size=4, seed=1, arguments={"gradient_accumulation_steps": 3})
    order = _order(widths, config, 2)
    assert len(order) == 5 * 4 * 3 * 2
    assert _order(widths, config, 2) == order
    assert _order(widths, config.model_copy(update={"seed": 2}), 2) != order


def test_batches_hold_rows_of_like_width() -> None:
    widths = made(800)
    order = [widths[place] for place in _order(widths, TrainConfig(batch_size=8), 1)]
    batches = [order[at : at + 8] for at in range(0, 800, 8)]
    padded = sum(len(batch) * max(batch) for batch in batches)
    assert padded < 1.1 * sum(widths)
    # They do not come sorted: a short batch may follow a long one.
    widest = [batch[-1] for batch in batches]
    assert widest != sorted(widest)


STEADY: dict[str, Any] = {"dtype": "float32", "max_steps": 4, "batch_size": 4, "learning_rate": 1e-3, "warmup": 0, "schedule": "constant"}


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def run_two(folder: Path, values: dict[str, Any], **paths: Path) -> dict[str, Any]:
    """A training by SFT in two processes, each with half of the batch."""
    folder.mkdir(exist_ok=True)
    job = folder / "job.json"
    halved = TrainConfig.model_validate(values | {"batch_size": values["batch_size"] // 2, "processes": 2}).model_dump()
    job.write_text(json.dumps({name: str(path) for name, path in paths.items()} | {"config": halved}))
    finished = subprocess.run(command("sft", job, processes=2), capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    told: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return told


def test_two_processes_with_half_the_batch_each_train_as_one_though_one_of_them_has_no_image(tiny_llava_next: Path, mixed: Path, tmp_path: Path) -> None:
    paths = {"model": tiny_llava_next, "data": mixed}
    sft.train(out=tmp_path / "one", config=TrainConfig.model_validate(STEADY), work=tmp_path / "work1", **paths)
    told = run_two(tmp_path / "two", STEADY, out=tmp_path / "two", work=tmp_path / "work2", **paths)
    assert told["steps"] == 4
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)


def test_a_training_goes_on_with_another_number_of_processes(tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    paths = {"model": tiny_llava, "data": save(rows(8))}
    sft.train(out=tmp_path / "one", config=TrainConfig.model_validate(STEADY), work=tmp_path / "work1", **paths)
    run_two(tmp_path / "two", STEADY | {"max_steps": 2, "save_steps": 1}, out=tmp_path / "two", work=tmp_path / "work2", **paths)
    told = sft.train(out=tmp_path / "two", config=TrainConfig.model_validate(STEADY), work=tmp_path / "work2", **paths)
    assert told["steps"] == 4 and losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)


class Gpus:
    """Stands in for the driver of a machine with two GPUs: what was made the current one, and when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[Any] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", self.events.append)

    def train(self, **_: Any) -> dict[str, Any]:
        self.events.append("train")
        return {}


def test_a_process_takes_the_gpu_of_its_rank_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"config": {}}))
    monkeypatch.setattr("sys.argv", ["sft", str(job)])
    gpus = Gpus(monkeypatch)
    main(gpus.train, TrainConfig)
    monkeypatch.setenv("LOCAL_RANK", "1")
    main(gpus.train, TrainConfig)
    assert gpus.events == [0, "train", 1, "train"]


def test_more_processes_than_gpus_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(SystemExit) as end:
        main(Gpus(monkeypatch).train, TrainConfig)
    assert end.value.code == 2
    assert capsys.readouterr().err == "processes is 3, but this machine has 2 GPUs; start one for each at most\n"


def test_a_job_file_that_is_wrong_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"model": "m", "config": {"batchsize": 3}}))
    finished = subprocess.run(command("dpo", job), capture_output=True, text=True)
    assert finished.returncode == 2
    assert finished.stderr.strip().startswith(f"job file {job}")
    assert len(finished.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("able", "expected"), [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx2": True, "amx_bf16": False}, False), ({}, False)]
)
def test_bfloat16_is_used_where_the_processor_computes_with_it(able: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert in_bfloat16(TrainConfig()) is expected
    assert in_bfloat16(TrainConfig(dtype="bfloat16")) and not in_bfloat16(TrainConfig(dtype="float32"))
