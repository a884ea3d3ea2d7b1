"""LLaMA-Factory: `python -m benchmarks.trainers.llama_factory TASK FD` takes its turns on the connection FD, in an environment of its own."""

import os
import sys
import tempfile
import time
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from transformers import AutoConfig, ProcessorMixin, TrainerCallback

from benchmarks.trainers.task import Task, Turning, flops, given

TEMPLATES = {"llava_next": "llava_next_mistral", "qwen2_5_vl": "qwen2_vl"}
"""Class -> its template whose prompts are as short as the checkpoint's own."""


def main() -> None:
    """Run the task as its documentation has it: for DPO with a reference model of its own, which is scored in every step."""
    task, turns = given()
    import_for_images_alone()
    spent = _timed_tokenising(task)
    _train(task, task.turns, Turning(turns))
    turns.close({"prepare": spent[0] / task.turns / task.batch, "step flops": flops(lambda: _train(task, 1)) / task.batch})


def _train(task: Task, steps: int, *callbacks: TrainerCallback) -> None:
    from llamafactory.train.tuner import run_exp  # type: ignore[import-not-found] # of another environment

    # The data is there in its own layout, under the name that our export gives it.
    data = {"dataset_dir": f"{task.data}-llama-factory", "dataset": "insightv", "cutoff_len": 100_000, "default_system": "", "overwrite_cache": True}
    kind = AutoConfig.from_pretrained(task.model).model_type
    model = {"model_name_or_path": task.model, "template": TEMPLATES[kind], "flash_attn": "sdpa", "disable_gradient_checkpointing": True}
    method = {"stage": task.kind, "do_train": True, "finetuning_type": "full", "freeze_vision_tower": True, "freeze_multi_modal_projector": False}
    preference = {"pref_loss": "sigmoid", "pref_beta": 0.1, "ref_model": task.model} if task.kind == "dpo" else {}
    loop = {"max_steps": steps, "per_device_train_batch_size": task.batch, "learning_rate": 1e-4, "save_strategy": "no", "logging_steps": 1}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as folder:
        run_exp({**data, **model, **method, **preference, **loop, **quiet, "output_dir": folder}, list(callbacks))


def _timed_tokenising(task: Task) -> list[float]:
    """The CPU seconds that it will take to read and tokenise the data set are put into this list."""
    workflow, spent = import_module(f"llamafactory.train.{task.kind}.workflow"), []
    plain = workflow.get_dataset

    def timed(*given: Any, **more: Any) -> Any:
        begun = time.process_time()
        found = plain(*given, **more)
        spent.append(time.process_time() - begun)
        return found

    workflow.get_dataset = timed
    return spent


def import_for_images_alone() -> None:
    """Let it run without torchaudio and torchvision, of which there is no build for this torch; only sounds and videos need them."""
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)
    mixin: Any = ProcessorMixin
    named = mixin.get_attributes.__func__
    mixin.get_attributes = classmethod(lambda cls: [name for name in named(cls) if "video" not in name])


if __name__ == "__main__":
    main()
