"""Trainings whose weights lie in parts in several processes, by the launcher and stages that users run, on processors."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from benchmarks.models import KINDS
from insightv.config import LoraConfig, TrainConfig, UserError
from insightv.training import job, sft
from insightv.training.sharded import completed, keep_sums_precise

STEADY: dict[str, Any] = {"dtype": "float32", "max_steps": 4, "learning_rate": 1e-3, "warmup": 0, "schedule": "constant"}
ROOT = Path(__file__).parents[2]
ZERO = {
    "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True, "stage3_param_persistence_threshold": 0},
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
}
ENGINES = [
    pytest.param({"fsdp": True, "gradient_checkpointing": True}, id="fsdp2"),
    pytest.param({"deepspeed": ZERO}, id="zero3", marks=pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed")),
]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def alone(folder: Path, settings: Mapping[str, Any], **paths: Path) -> None:
    sft.train(out=folder, config=TrainConfig.model_validate(STEADY | {"batch_size": 4} | settings), work=folder.with_suffix(".work"), **paths)


def together(folder: Path, settings: Mapping[str, Any], processes: int = 2, **paths: Path) -> None:
    """The same training in several processes, each with its share of a batch of four."""
    folder.mkdir(exist_ok=True)
    file = folder.with_suffix(".json")
    config = TrainConfig.model_validate(STEADY | {"batch_size": 4 // processes, "processes": processes} | settings).model_dump()
    file.write_text(json.dumps({"out": str(folder), "work": str(folder.with_suffix(".work"))} | {n: str(p) for n, p in paths.items()} | {"config": config}))
    command = job.command("sft", file, processes)
    place = command.index("insightv.training.sft") - 1
    command[place : place + 1] = [str(Path(__file__).with_name("on_processors.py"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert finished.returncode == 0, finished.stderr[-5000:]


def assert_trained_alike(one: Path, two: Path, file: str) -> None:
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    expected, found = load_file(one / file), load_file(two / file)
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=2e-4, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["llava_next", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "llava_next")])
def test_sharded_weights_train_as_whole_ones_though_a_process_has_no_image(
    kind: str, engine: dict[str, Any], tiny: Callable[[str], Path], mixed: Path, tmp_path: Path
) -> None:
    paths = {"model": tiny(kind), "data": mixed}
    alone(tmp_path / "one", {}, **paths)
    together(tmp_path / "two", {"arguments": engine}, **paths)
    assert_trained_alike(tmp_path / "one", tmp_path / "two", "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_adapter_on_sharded_weights_is_the_one_that_whole_weights_give(engine: dict[str, Any], tiny_llava_next: Path, mixed: Path, tmp_path: Path) -> None:
    paths, lora = {"model": tiny_llava_next, "data": mixed}, {"lora": LoraConfig(r=2)}
    alone(tmp_path / "one", lora, **paths)
    together(tmp_path / "two", lora | {"arguments": engine}, **paths)
    assert_trained_alike(tmp_path / "one", tmp_path / "two", "adapter_model.safetensors")


@pytest.mark.slow
def test_a_sharded_training_goes_on_with_another_number_of_processes(tiny_llava_next: Path, mixed: Path, tmp_path: Path) -> None:
    paths, sharded = {"model": tiny_llava_next, "data": mixed}, {"arguments": {"fsdp": True}, "save_steps": 1}
    alone(tmp_path / "one", {}, **paths)
    together(tmp_path / "two", sharded | {"max_steps": 2}, **paths)
    together(tmp_path / "two", sharded, processes=4, **paths)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


@pytest.mark.slow
def test_it_trains_in_bfloat16(tiny_llava_next: Path, mixed: Path, tmp_path: Path) -> None:
    paths, half = {"model": tiny_llava_next, "data": mixed}, {"dtype": "bfloat16"}
    alone(tmp_path / "one", {}, **paths)
    together(tmp_path / "two", half | {"arguments": {"fsdp": True}}, **paths)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=5e-3)


def test_bfloat16_rounds_neither_log_probabilities_nor_sums_of_gradients() -> None:
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    assert plugin.mixed_precision_policy.output_dtype == torch.bfloat16, "or there is nothing left to mend"
    keep_sums_precise(plugin)
    found = plugin.mixed_precision_policy
    assert (found.param_dtype, found.reduce_dtype, found.output_dtype) == (torch.bfloat16, torch.float32, None)


def test_fsdp_of_one_process_is_refused_in_a_sentence(tiny_llava_next: Path, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this training is one: set processes"):
        alone(tmp_path / "out", {"arguments": {"fsdp": True}}, model=tiny_llava_next, data=mixed)


@pytest.mark.slow
def test_fsdp_on_processors_is_refused_in_a_sentence(tiny_llava_next: Path, mixed: Path, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    config = TrainConfig.model_validate(STEADY | {"processes": 2, "arguments": {"fsdp": True}}).model_dump()
    file.write_text(
        json.dumps({"model": str(tiny_llava_next), "data": str(mixed), "out": str(tmp_path / "out"), "work": str(tmp_path / "work")} | {"config": config})
    )
    finished = subprocess.run(job.command("sft", file, 2), capture_output=True, text=True, timeout=120)
    assert finished.returncode and "fsdp needs GPUs" in finished.stderr and "Traceback" not in finished.stderr.split("fsdp needs GPUs")[0]


def test_what_a_user_says_of_fsdp_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    file = tmp_path / "fsdp.json"
    file.write_text('{"fsdp_transformer_layer_cls_to_wrap": ["Block"], "cpu_offload": true}')
    assert completed({"fsdp": True, "gradient_checkpointing": True}, torch.nn.Linear(2, 2))["fsdp_config"]["activation_checkpointing"]
    for given in (str(file), json.loads(file.read_text())):
        found = completed({"fsdp": True, "fsdp_config": given, "bf16": True}, torch.nn.Linear(2, 2))
        assert found["bf16"] and found["fsdp_config"]["transformer_layer_cls_to_wrap"] == ["Block"] and found["fsdp_config"]["cpu_offload"]
        assert found["fsdp_config"]["state_dict_type"] == "SHARDED_STATE_DICT"
    assert completed({"bf16": True}, torch.nn.Linear(2, 2)) == {"bf16": True}
    with pytest.raises(UserError, match=r"fsdp_config: .*none\.json: .*No such file"):
        completed({"fsdp": True, "fsdp_config": str(tmp_path / "none.json")}, torch.nn.Linear(2, 2))
