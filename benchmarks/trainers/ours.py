"""Our trainer: `python -m benchmarks.trainers.ours TASK FD` takes its turns on the connection FD."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from torch import Tensor

from benchmarks.trainers.task import Task, Turns, flops, given
from insightv.config import DpoConfig
from insightv.models.vlm import VLM, freeze, load
from insightv.training import attention
from insightv.training.dpo import dpo_loss
from insightv.training.packing import Row, answer_logprobs, collate
from insightv.training.prepared import Rows, prepare_rows
from insightv.training.reference import log_probabilities
from insightv.training.rows import encode_row, tokenize_row
from insightv.training.run import fit
from insightv.training.sft import sft_loss
from insightv.training.start import prepare


def main() -> None:
    """Run the task."""
    task, turns = given()
    {"group": group, "reference": reference, "sft": training, "dpo": training}[task.kind](task, turns)


def training(task: Task, turns: Turns) -> None:
    """SFT or DPO as the stages run it: rows are tokenised and checked, then the steps; the reference's scores are there already."""
    config = _config(task)
    with tempfile.TemporaryDirectory() as work:
        vlm, rows, seconds = _rows(task, config, Path(work))
        # They come from a file, and a step costs the same whatever they are.
        known = dict.fromkeys(rows.ids, (-100.0, -100.0))
        loss = dpo_loss(config, known) if task.kind == "dpo" else sft_loss

        def fitted(steps: int, place: str, report: Callable[[Any], None] | None = None) -> None:
            fit(vlm, rows, loss, config.model_copy(update={"max_steps": steps}), Path(work, place), count_tokens=task.kind == "sft", report=report)

        turns.wait()
        fitted(task.turns, "timed", lambda _: turns.end("step"))
        turns.close({"prepare": seconds, "step flops": flops(lambda: fitted(1, "counted")) / task.batch})


def reference(task: Task, turns: Turns) -> None:
    """Scores of the reference, a batch a turn."""
    config = _config(task)
    with tempfile.TemporaryDirectory() as work:
        vlm, rows, _ = _rows(task, config, Path(work))
        attention.choose(vlm.model, half=False)
        batches = [list(range(at, at + task.batch)) for at in range(0, len(rows), task.batch)]
        turns.wait()
        for _ in log_probabilities(vlm, rows, batches, config):
            turns.end("reference")
        turns.close({"reference flops": flops(lambda: list(log_probabilities(vlm, rows, batches[:1], config))) / task.batch})


def group(task: Task, turns: Turns) -> None:
    """Forward and backward pass of N answers, sharing their prompt and as separate rows, both in each turn."""
    vlm = load(Path(task.model))
    freeze(vlm.model)
    attention.choose(vlm.model, half=False)
    rows = [_row(vlm, item) for file in sorted(Path(task.data).glob("*.parquet")) for item in pyarrow.parquet.read_table(file).to_pylist()]
    forms = {"shared": [rows[at : at + task.batch] for at in range(0, len(rows), task.batch)]}
    forms["separate"] = [[Row(row.row_id, row.prompt_ids, row.pixels, [answer]) for row in batch for answer in row.answers] for batch in forms["shared"]]
    turns.wait()
    for turn in range(task.turns):
        for form, batches in forms.items():
            _step(vlm, batches[turn])
            turns.spent(form)
        turns.end()
    counted = {f"{form} flops": flops(lambda batches=batches: _step(vlm, batches[0])) / task.batch for form, batches in forms.items()}  # type: ignore[misc]
    turns.close(counted)


def _config(task: Task) -> DpoConfig:
    return DpoConfig(dtype="float32", batch_size=task.batch, max_steps=task.turns, learning_rate=1e-4, save_steps=10_000, max_length=100_000)


def _rows(task: Task, config: DpoConfig, work: Path) -> tuple[VLM, Rows, float]:
    """The model, the rows, and the CPU seconds that tokenising and checking one of them took."""
    vlm = prepare(Path(task.model), config)
    begun = time.process_time()
    rows, _ = prepare_rows(vlm, Path(task.data), config, work)
    return vlm, rows, (time.process_time() - begun) / len(rows)


def _row(vlm: VLM, item: dict[str, Any]) -> Row:
    several = [encode_row(vlm, tokenize_row(vlm, item | {"completion": completion})) for completion in item["completions"]]
    return Row(item["id"], several[0].prompt_ids, several[0].pixels, [row.answers[0] for row in several])


def _step(vlm: VLM, rows: Sequence[Row]) -> None:
    sums: Tensor = answer_logprobs(vlm.model, collate(rows, vlm.tokenizer.pad_token_id)).sums.flatten()
    (sums * torch.linspace(-1, 1, len(sums))).mean().backward()
    vlm.model.zero_grad()


if __name__ == "__main__":
    main()
