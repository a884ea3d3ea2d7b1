"""Direct preference optimisation of the reasoner (Insight-V, section 3.4): `python -m insightv.training.dpo JOB.json` is one round."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from insightv.config import DpoConfig, UserError
from insightv.models.vlm import VLM, load
from insightv.training import job
from insightv.training.packing import Row, answer_logprobs, collate
from insightv.training.rows import encode_rows, read_data
from insightv.training.run import Loss, Report, fit, in_bfloat16
from insightv.training.start import prepare

Reference = Mapping[str, Sequence[float]]
"""By row id: the reference's log-probabilities of the chosen and of the rejected completion."""

_PATIENCE = timedelta(days=7)
"""How long processes wait for each other. The library's ten minutes end a training whose scoring takes one of them longer than the others."""


def dpo_loss(config: DpoConfig, reference: Reference) -> Loss:
    """The loss of arXiv 2305.18290, equation 7, averaged over pairs, with label smoothing and a negative log-likelihood term as settings."""

    def loss(model: nn.Module, batch: Mapping[str, Any], _: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        policy = answer_logprobs(model, batch)
        ratios = policy.sums - torch.tensor([reference[row_id] for row_id in batch["row_ids"]], device=policy.sums.device)
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
    reference: Path | None = None,
    reference_adapter: Path | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train the checkpoint `model` (with `adapter` on it) on the preference pairs in `data` and save the result in `out`.

    The reference is the checkpoint `reference` with `reference_adapter` on it; without `reference` it is the very weights that this training
    starts from. `work` holds checkpoints, progress and the reference's log-probabilities; a training or a scoring that was killed goes on from there.
    """
    work.mkdir(parents=True, exist_ok=True)
    vlm = prepare(model, config, adapter)
    rows, dropped = encode_rows(vlm, read_data(data), config.max_length)
    if not rows:
        raise UserError(f"no pairs to train on in {data}: {len(dropped)} were dropped, see max_length = {config.max_length}")
    known = _reference(vlm, rows, config, work, reference, reference_adapter)
    log = fit(vlm, rows, dpo_loss(config, known), config, work, count_tokens=False, report=report)
    return job.finish(vlm, log, rows, dropped, out)


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


def _reference(vlm: VLM, rows: Sequence[Row], config: DpoConfig, work: Path, base: Path | None, adapter: Path | None) -> Reference:
    """The reference's log-probabilities: every process computes its share of the batches, each once, and keeps them in a file in `work`."""
    together = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
    ordered = sorted(rows, key=lambda row: row.width)
    batches = [ordered[start : start + config.batch_size] for start in range(0, len(ordered), config.batch_size)]
    known = _scored(work)
    owed = [batch for batch in batches[together.process_index :: together.num_processes] if batch[0].row_id not in known]
    if owed:
        frozen = vlm if base is None else load(base, adapter=adapter)
        if frozen.tokenizer.get_vocab() != vlm.tokenizer.get_vocab():
            raise UserError(f"reference {base} has another vocabulary than the policy; take one of the same tokenizer")
        # Unbuffered: a batch counts once its line is written.
        with (work / f"reference-{together.process_index}.jsonl").open("ab", buffering=0) as file:
            for sums in _score(frozen, owed, config):
                # The leading line break ends a line that a kill left half-written.
                file.write(b"\n" + json.dumps(sums).encode())
    together.wait_for_everyone()
    return _scored(work)


def _scored(work: Path) -> dict[str, list[float]]:
    known: dict[str, list[float]] = {}
    for path in work.glob("reference-*.jsonl"):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                known |= json.loads(line)
    return known


@torch.no_grad()
def _score(vlm: VLM, batches: Sequence[Sequence[Row]], config: DpoConfig) -> Iterator[dict[str, list[float]]]:
    vlm.model.eval()
    for rows in batches:
        batch = collate(rows, vlm.tokenizer.pad_token_id)
        moved = {name: value.to(vlm.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        moved["pixels"] = {name: value.to(vlm.device) for name, value in batch["pixels"].items()}
        with torch.autocast(vlm.device.type, torch.bfloat16, enabled=in_bfloat16(config)):
            sums = answer_logprobs(vlm.model, moved).sums
        yield dict(zip(batch["row_ids"], sums.tolist(), strict=True))


if __name__ == "__main__":
    job.main(train, DpoConfig)
