"""TRL: `python -m benchmarks.trainers.trl TASK` prints CPU seconds and floating-point operations per row or pair."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet
import trl
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback

from benchmarks.trainers.task import Clock, Task, flops, given
from insightv.models.vlm import freeze, load


class _Ticking(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._clock.tick()


def main() -> None:
    """Run the task as TRL's documentation has it: for DPO with a reference model of its own, for the trainer has no stored log-probabilities of images."""
    task = given()
    clock = Clock(task)
    _trainer(task, task.warmup + task.steps, clock).train()
    print(json.dumps({"step": clock.each, "step_flops": flops(_trainer(task, 1, Clock(task)).train) / task.batch}))


def _trainer(task: Task, steps: int, clock: Clock) -> Any:
    vlm = load(Path(task.model))
    freeze(vlm.model)
    name = task.kind.upper()
    with tempfile.TemporaryDirectory() as folder:
        arguments = getattr(trl, f"{name}Config")(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=task.batch,
            learning_rate=1e-4,
            max_length=None,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            disable_tqdm=True,
        )
    rows = [row for file in sorted(Path(task.data).glob("*.parquet")) for row in pyarrow.parquet.read_table(file).to_pylist()]
    dataset = Dataset.from_list([row | {"images": [Image.open(io.BytesIO(image["bytes"])) for image in row["images"]]} for row in rows])
    more = {"ref_model": load(Path(task.model)).model} if task.kind == "dpo" else {}
    trainer = getattr(trl, f"{name}Trainer")(
        vlm.model, args=arguments, train_dataset=dataset, processing_class=vlm.processor, callbacks=[_Ticking(clock)], **more
    )
    return trainer


if __name__ == "__main__":
    main()
