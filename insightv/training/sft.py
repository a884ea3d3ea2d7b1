"""Supervised fine-tuning of either agent (Insight-V, section 3.3): `python -m insightv.training.sft JOB.json` is one training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from insightv.config import TrainConfig
from insightv.training import job
from insightv.training.packing import answer_logprobs
from insightv.training.prepared import prepare_rows
from insightv.training.run import Report, fit
from insightv.training.start import prepare


def sft_loss(model: nn.Module, batch: Mapping[str, Any], tokens: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of the completions, averaged over their tokens.

    `tokens` is the count to divide by when the step has more batches than this one.
    """
    logprobs = answer_logprobs(model, batch)
    count = logprobs.counts.sum() if tokens is None else tokens
    return -logprobs.sums.sum() / count, {}


def train(model: Path, data: Path, out: Path, config: TrainConfig, work: Path, *, adapter: Path | None = None, report: Report | None = None) -> dict[str, Any]:
    """Fine-tune the checkpoint `model` (with `adapter` on it) on the data set in `data` and save the result in `out`.

    With `config.lora` only an adapter is trained and saved, else the whole model with its processor. `work` holds checkpoints and progress;
    a training that was killed goes on from there. Returns the summary: rows, dropped rows by reason, steps, tokens, first and last loss.
    """
    work.mkdir(parents=True, exist_ok=True)
    vlm = prepare(model, config, adapter)
    rows, dropped = prepare_rows(vlm, data, config, work, report)
    if config.trainer == "trl":
        from insightv.training import with_trl

        log = with_trl.sft(vlm, data, rows, config, work, report)
    else:
        log = fit(vlm, rows, sft_loss, config, work, count_tokens=True, report=report)
    return job.finish(vlm, log, rows, dropped, out)


if __name__ == "__main__":
    job.main(train, TrainConfig)
