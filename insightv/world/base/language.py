"""The other phases of the base's training: projector and language model learn lessons, about text alone and about frozen vision features."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from insightv.training.run import processor_has_bfloat16
from insightv.world.base.lessons import Lesson, draw_lesson
from insightv.world.base.loop import GROUP, Report, train
from insightv.world.base.tiny_vlm import ASSISTANT, END, IMAGE, USER
from insightv.world.base.vision import to_pixels
from insightv.world.scenes import PATCH, SIZE

HELD = 400
"""Lessons that skills are held on."""

_Row = tuple[list[int], list[float], torch.Tensor | None]
"""Tokens, the weight of each in the loss, and the picture."""
_Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


def train_language(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    *,
    steps: int,
    text: float,
    searches: float = 0.0,
    learning_rate: float,
    seed: int,
    report: Report,
    checkpoint: Path,
    batch_size: int = 32,
) -> dict[str, float]:
    """Teach projector and language model lessons, in place: a share of `searches` alone, of the others a share of `text` in text alone, and the rest
    about frozen vision features.

    Returns the skills that they end with.
    """
    model.model.vision_tower.requires_grad_(False)
    batches: list[_Batch] = []
    known: dict[str, float] = {}

    draw_one = partial(draw_lesson, text=text, known=known, searches=searches)

    def loss_of(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        if not batches:
            batches.extend(_lesson_batches(processor.tokenizer, rng, draw_one, batch_size, GROUP))
        inputs, weights = batches.pop()
        weights = weights[:, 1:]
        with torch.autocast("cpu", torch.bfloat16, enabled=processor_has_bfloat16()):
            hidden = model.model(**inputs).last_hidden_state
            logits = model.lm_head(hidden[:, :-1][weights > 0])
        losses = functional.cross_entropy(logits.float(), inputs["input_ids"][:, 1:][weights > 0], reduction="none")
        return losses @ weights[weights > 0] / weights.sum(), {}

    train(
        model,
        loss_of,
        np.random.default_rng([seed, 2, round(100 * text), round(100 * searches)]),
        steps,
        learning_rate,
        report,
        checkpoint,
        known,
        lambda: skills(model, processor.tokenizer, seed, text),
    )
    return known


@torch.inference_mode()
def skills(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, seed: int, text: float) -> dict[str, float]:
    """The share of turns answered without an error, by skill: each turn as the first of its lesson, its answer foreseen token by token.

    What chains ask of a base is held here one by one: a base that reads but cannot find makes every chain begin with a guess.
    """
    rng = np.random.default_rng([seed, 3])
    rows: list[tuple[str, _Row]] = []
    for _ in range(HELD):
        difficulty = float(rng.random())
        lesson = draw_lesson(rng, difficulty, text)
        pixels = to_pixels(lesson.scene, rng, difficulty) if lesson.scene else None
        rows += [(turn.skill, (*_lesson_tokens(tokenizer, replace(lesson, turns=(turn,))), pixels)) for turn in lesson.turns]
    rows.sort(key=lambda row: len(row[1][0]))
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(rows), 64):
        group = rows[start : start + 64]
        inputs, weights = _collate([row for _, row in group], tokenizer.pad_token_id)
        foreseen = model(**inputs).logits[:, :-1].argmax(-1) == inputs["input_ids"][:, 1:]
        for (skill, _), exact in zip(group, (foreseen | (weights[:, 1:] == 0)).all(1).tolist(), strict=True):
            right[skill].append(exact)
    return {skill: round(sum(exact) / len(exact), 4) for skill, exact in sorted(right.items())}


def _lesson_batches(
    tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, draw_one: Callable[[np.random.Generator, float], Lesson], batch_size: int, count: int
) -> list[_Batch]:
    """`count` batches of model inputs and the weight of each token in the loss, (B, T); rows of like length together."""
    rows = []
    for _ in range(batch_size * count):
        difficulty = float(rng.random())
        lesson = draw_one(rng, difficulty)
        tokens, weights = _lesson_tokens(tokenizer, lesson)
        rows.append((tokens, weights, to_pixels(lesson.scene, rng, difficulty) if lesson.scene else None))
    rows.sort(key=lambda row: len(row[0]))
    groups = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return [_collate(groups[i], tokenizer.pad_token_id) for i in rng.permutation(len(groups))]


def _collate(rows: Sequence[_Row], pad: int) -> _Batch:
    width = max(len(tokens) for tokens, _, _ in rows)
    ids = torch.full((len(rows), width), pad)
    weights = torch.zeros((len(rows), width))
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, (tokens, weighed, _) in enumerate(rows):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        weights[i, : len(tokens)] = torch.tensor(weighed)
        mask[i, : len(tokens)] = 1
    pixels = [p for _, _, p in rows if p is not None]
    inputs = {"input_ids": ids, "attention_mask": mask}
    return (inputs | {"pixel_values": torch.stack(pixels)} if pixels else inputs), weights


def _lesson_tokens(tokenizer: PreTrainedTokenizerFast, lesson: Lesson) -> tuple[list[int], list[float]]:
    """A lesson's tokens with their weights. An answer of n tokens weighs n ** 0.75: over tokens, short ones would go unnoticed beside captions."""
    tokens: list[int] = []
    weights: list[float] = []
    picture = IMAGE * (SIZE // PATCH) ** 2 + "\n" if lesson.scene else ""
    for index, (question, answer, _) in enumerate(lesson.turns):
        asked = tokenizer(f"{USER}{picture if index == 0 else ''}{question}{END}{ASSISTANT}").input_ids
        said = tokenizer(f"{answer}{END}").input_ids
        tokens += asked + said
        weights += [0.0] * len(asked) + [len(said) ** -0.25] * len(said)
    return tokens, weights
