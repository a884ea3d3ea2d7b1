"""TRL: `python -m benchmarks.trainers.trl TASK FD` takes its turns on the connection FD."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import trl
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback

from benchmarks.trainers.task import Turning, flops, given
from insightv.models.vlm import freeze, load


def main() -> None:
    """Run the task as TRL's documentation has it: for DPO with a reference model of its own, for the trainer has no stored log-probabilities of images."""
    task, turns = given()
    rows = [row for file in sorted(Path(task.data).glob("*.parquet")) for row in pyarrow.parquet.read_table(file).to_pylist()]

    def made(steps: int, folder: str, *callbacks: TrainerCallback) -> Any:
        settings = {"max_steps": steps, "per_device_train_batch_size": task.batch, "learning_rate": 1e-4}
        return trainer(task.kind, Path(task.model), rows, Path(folder), callbacks=callbacks, **settings)

    with tempfile.TemporaryDirectory() as folder:
        made(task.turns, folder, Turning(turns)).train()
        turns.close({"step flops": flops(made(1, folder).train) / task.batch})


def trainer(kind: str, model: Path, rows: list[dict[str, Any]], folder: Path, callbacks: Sequence[TrainerCallback] = (), **settings: Any) -> Any:
    """TRL's trainer by SFT or DPO of a checkpoint, its vision tower frozen, on rows whose images are encoded bytes, in float32 on the CPU."""
    vlm, name = load(model), kind.upper()
    freeze(vlm.model)
    always = {"max_length": None, "report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no"}
    arguments = getattr(trl, f"{name}Config")(output_dir=str(folder), disable_tqdm=True, **always, **settings)
    dataset = Dataset.from_list([row | {"images": [Image.open(io.BytesIO(image["bytes"])) for image in row["images"]]} for row in rows])
    more = {"ref_model": load(model).model} if name == "DPO" else {}
    return getattr(trl, f"{name}Trainer")(vlm.model, args=arguments, train_dataset=dataset, processing_class=vlm.processor, callbacks=list(callbacks), **more)


if __name__ == "__main__":
    main()
