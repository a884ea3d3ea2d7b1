"""The loop in which every phase of the base's training learns: Muon beside AdamW, and checkpoints that a killed training goes on from."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from insightv.files import replacing
from insightv.world.base.muon import Muon

Report = Callable[[dict[str, Any]], None]
Loss = Callable[[np.random.Generator], tuple[torch.Tensor, dict[str, float]]]
"""A batch's loss, and figures worth reporting."""

GROUP = 8
"""Batches that a phase may draw at once, so that rows of like length come together."""
SAVE_EVERY = 400
"""Steps between checkpoints: a multiple of `GROUP`, since batches that are drawn and not yet used are in no checkpoint."""


def train(
    learner: torch.nn.Module,
    loss_of: Loss,
    rng: np.random.Generator,
    steps: int,
    learning_rate: float,
    report: Report,
    checkpoint: Path,
    known: dict[str, float],
    look: Callable[[], dict[str, float]] = dict,
) -> None:
    """Muon for matrices, AdamW for the rest, 5% warm-up and a straight line to nothing, in place.

    A checkpoint is written every `SAVE_EVERY` steps, and a killed training goes on from it. What `look` sees then is reported and put into `known`.
    """
    optimizers = _optimizers(learner, learning_rate)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    parameters = [p for p in learner.parameters() if p.requires_grad]
    warmup = max(1, steps // 20)
    for step in range(_load_state(checkpoint, learner, optimizers, rng, known) + 1, steps + 1):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * min(step / warmup, (steps + 1 - step) / (steps + 1 - warmup))
        loss, figures = loss_of(rng)
        learner.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if step % SAVE_EVERY == 0 or step == steps:
            known.update(look())
            figures = figures | known
            save_state(checkpoint, step, learner, optimizers, rng, known)
        if step % 50 == 0 or step == steps:
            report({"step": step, "of": steps, "loss": round(loss.item(), 4), **figures})


def _optimizers(learner: torch.nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Matrices inside the layers go to Muon; embeddings, heads, biases and norms to AdamW at a tenth of its rate."""
    matrices: list[torch.Tensor] = []
    rest: list[torch.Tensor] = []
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            inner = parameter.ndim == 2 and ("layers." in name or "projector" in name)
            (matrices if inner else rest).append(parameter)
    return [Muon(matrices, lr=learning_rate), torch.optim.AdamW(rest, lr=learning_rate / 10, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]


def save_state(
    path: Path, step: int, learner: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], rng: np.random.Generator, known: dict[str, float]
) -> None:
    states = [optimizer.state_dict() for optimizer in optimizers]
    state = {"step": step, "learner": learner.state_dict(), "optimizers": states, "rng": json.dumps(rng.bit_generator.state), "known": known}
    with replacing(path) as file:
        torch.save(state, file)


def _load_state(path: Path, learner: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], rng: np.random.Generator, known: dict[str, float]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    learner.load_state_dict(state["learner"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    rng.bit_generator.state = json.loads(state["rng"])
    known.update(state["known"])
    return int(state["step"])
