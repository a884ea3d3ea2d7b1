"""Direct preference optimisation of the reasoner (Insight-V, section 3.4): `python -m insightv.training.dpo JOB.json` is one round."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from insightv.config import DpoConfig
from insightv.training import job, reference
from insightv.training.packing import answer_logprobs
from insightv.training.prepared import prepare_rows
from insightv.training.reference import Reference
from insightv.training.run import Loss, Report, fit
from insightv.training.start import prepare


def dpo_loss(config: DpoConfig, known: Reference) -> Loss:
    """The loss of arXiv 2305.18290, equation 7, averaged over pairs, with label smoothing and a negative log-likelihood term as settings."""

    def loss(model: nn.Module, batch: Mapping[str, Any], _: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        policy = answer_logprobs(model, batch)
        ratios = policy.sums - torch.tensor([known[row_id] for row_id in batch["row_ids"]], device=policy.sums.device)
        rewards = config.beta * ratios
        margins = rewards[:, 0] - rewards[:, 1]
        smooth = config.label_smoothing
        total = -((1 - smooth) * logsigmoid(margins) + smooth * logsigmoid(-margins)).mean()
        if config.sft_weight:
            total = total - config.sft_weight * policy.sums[:, 0].sum() / policy.counts[:, 0].sum()
        return total, _metrics(policy.sums, policy.counts, ratios, rewards, margins)

    return loss


def train(
    model: Path,
    data: Path,
    out: Path,
    config: DpoConfig,
    work: Path,
    *,
    adapter: Path | None = None,
    reference_model: Path | None = None,
    reference_adapter: Path | None = None,
    scores: Path | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train the checkpoint `model` (with `adapter` on it) on the preference pairs in `data` and save the result in `out`.

    The reference is the checkpoint `reference_model` with `reference_adapter` on it; without it, the very weights that this training starts from.
    `scores` is the folder where `reference.score` left its log-probabilities, which are refused if they are another model's; without it the pairs are
    scored first. `work` holds checkpoints and progress; a training or a scoring that was killed goes on from there.
    """
    if reference_model is None:
        reference_model, reference_adapter = model, adapter
    if scores is None and config.trainer == "insightv":
        scores = work / "reference"
        reference.score(reference_model, data, scores, config, scores, adapter=reference_adapter, report=report)
    vlm = prepare(model, config, adapter)
    rows, dropped = prepare_rows(vlm, data, config, work, report)
    if config.trainer == "trl":
        from insightv.training import with_trl

        log = with_trl.dpo(vlm, data, rows, config, work, report, reference_model, reference_adapter)
    else:
        assert scores
        known = reference.read(scores, reference.identity(reference_model, reference_adapter, config), rows)
        log = fit(vlm, rows, dpo_loss(config, known), config, work, count_tokens=False, report=report)
    return job.finish(vlm, log, rows, dropped, out) | length_bias(rows.loss_tokens)


def length_bias(tokens: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Any]:
    """How much of the pairs [n, 2] a rule that only counts tokens would get right: what a policy may learn instead of reasoning.

    `chosen_longer` is the share of pairs, of those whose sides differ in length, whose chosen side is the longer one; `length_bias` says whether its
    95% interval (Wilson) leaves a half out: `longer`, `shorter`, or `none seen`.
    """
    longer, differing = int((tokens[:, 0] > tokens[:, 1]).sum()), int((tokens[:, 0] != tokens[:, 1]).sum())
    if not differing:
        return {"length_bias": "none seen"}
    low, high = map(float, binomtest(longer, differing).proportion_ci(method="wilson"))
    seen = "longer" if low > 0.5 else "shorter" if high < 0.5 else "none seen"
    return {"length_bias": seen, "chosen_longer": {"share": longer / differing, "low": low, "high": high}}


def _metrics(sums: Tensor, counts: Tensor, ratios: Tensor, rewards: Tensor, margins: Tensor) -> dict[str, Tensor]:
    lengths = counts.float().mean(0)
    return {
        "margin": margins.detach().mean(),
        "accuracy": (margins > 0).float().mean(),
        "reward_chosen": rewards[:, 0].detach().mean(),
        "reward_rejected": rewards[:, 1].detach().mean(),
        "logp_chosen": sums[:, 0].detach().mean(),
        "logp_rejected": sums[:, 1].detach().mean(),
        # E[log reference - log policy] over the pairs' completions, which the reference sampled in iterative DPO.
        "kl": -ratios.detach().mean(),
        "length_chosen": lengths[0],
        "length_rejected": lengths[1],
    }


if __name__ == "__main__":
    job.main(train, DpoConfig)
