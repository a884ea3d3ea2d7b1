"""Our trainer: `python -m benchmarks.trainers.ours TASK` prints CPU seconds and floating-point operations per row, pair or group."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from torch import Tensor

from benchmarks.trainers.task import Clock, Task, flops, given
from insightv.config import DpoConfig
from insightv.models.vlm import VLM, freeze, load
from insightv.training import attention
from insightv.training.dpo import dpo_loss
from insightv.training.packing import Row, answer_logprobs, collate
from insightv.training.prepared import prepare_rows
from insightv.training.reference import log_probabilities
from insightv.training.rows import encode_row, tokenize_row
from insightv.training.run import fit
from insightv.training.sft import sft_loss
from insightv.training.start import prepare


def main() -> None:
    """Run the task."""
    task = given()
    print(json.dumps(group(task) if task.kind == "group" else training(task)))


def training(task: Task) -> dict[str, Any]:
    """SFT or DPO as the stages run it: rows are tokenised and checked, pairs scored under the reference, then the steps."""
    config = DpoConfig(dtype="float32", batch_size=task.batch, max_steps=task.warmup + task.steps, learning_rate=1e-4, save_steps=10_000, max_length=100_000)
    vlm, clock, found = prepare(Path(task.model), config), Clock(task), dict[str, Any]()
    with tempfile.TemporaryDirectory() as work:
        begun = time.process_time()
        rows, _ = prepare_rows(vlm, Path(task.data), config, Path(work))
        found["prepare"] = (time.process_time() - begun) / len(rows)
        batches = [list(range(at, at + task.batch)) for at in range(0, len(rows), task.batch)]
        if task.kind == "dpo":
            attention.choose(vlm.model, half=False)
            begun = time.process_time()
            known = {name: sums for batch in log_probabilities(vlm, rows, batches, config) for name, sums in batch.items()}
            found["reference"] = (time.process_time() - begun) / len(rows)
            found["reference_flops"] = flops(lambda: list(log_probabilities(vlm, rows, batches[:1], config))) / task.batch
        loss = dpo_loss(config, known) if task.kind == "dpo" else sft_loss

        def fitted(steps: int, place: str, report: Callable[[Any], None] | None = None) -> None:
            fit(vlm, rows, loss, config.model_copy(update={"max_steps": steps}), Path(work, place), count_tokens=task.kind == "sft", report=report)

        fitted(task.warmup + task.steps, "timed", clock.tick)
        found["step_flops"] = flops(lambda: fitted(1, "counted")) / task.batch
    return found | {"step": clock.each}


def group(task: Task) -> dict[str, Any]:
    """Forward and backward pass of N answers, sharing their prompt and as separate rows, by turns."""
    vlm = load(Path(task.model))
    freeze(vlm.model)
    attention.choose(vlm.model, half=False)
    rows = [_row(vlm, item) for file in sorted(Path(task.data).glob("*.parquet")) for item in pyarrow.parquet.read_table(file).to_pylist()]
    found: dict[str, Any] = {}
    forms = {"shared": [rows[at : at + task.batch] for at in range(0, len(rows), task.batch)]}
    forms["separate"] = [[Row(row.row_id, row.prompt_ids, row.pixels, [answer]) for row in batch for answer in row.answers] for batch in forms["shared"]]
    clocks = {form: Clock(task) for form in forms}
    for step in range(task.warmup + task.steps):
        for form, batches in forms.items():
            # Only this form's time may pass between its ticks.
            begun = time.process_time()
            _step(vlm, batches[step % len(batches)])
            clocks[form].seconds += (time.process_time() - begun) * (step >= task.warmup)
    for form, batches in forms.items():
        found[form] = clocks[form].each
        found[f"{form}_flops"] = flops(lambda batches=batches: _step(vlm, batches[0])) / task.batch  # type: ignore[misc]
    return found


def _row(vlm: VLM, item: dict[str, Any]) -> Row:
    several = [encode_row(vlm, tokenize_row(vlm, item | {"completion": completion})) for completion in item["completions"]]
    return Row(item["id"], several[0].prompt_ids, several[0].pixels, [row.answers[0] for row in several])


def _step(vlm: VLM, rows: Sequence[Row]) -> None:
    sums: Tensor = answer_logprobs(vlm.model, collate(rows, vlm.tokenizer.pad_token_id)).sums.flatten()
    (sums * torch.linspace(-1, 1, len(sums))).mean().backward()
    vlm.model.zero_grad()


if __name__ == "__main__":
    main()
