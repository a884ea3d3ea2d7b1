"""Train the tiny base in the order of the real recipe (compare LLaVA, arXiv 2304.08485, section 4.2).

First the vision tower learns to see (a dense classifier over patches) and the language model learns from text; then, with the tower frozen,
projector and language model learn captions, grounding and direct answers, beside more text, and last to find what is named.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from insightv.files import replacing
from insightv.training.run import processor_has_bfloat16
from insightv.world.lessons import Lesson, draw_lesson
from insightv.world.muon import Muon
from insightv.world.problems import draw_item
from insightv.world.questions import FAMILIES
from insightv.world.scenes import COLOURS, COLUMNS, NAMES, PATCH, ROWS, SHAPES, SIZE, Chart, Scene, Table, draw, draw_style
from insightv.world.tiny_vlm import ASSISTANT, END, IMAGE, USER, WIDTH, build_model, build_processor

Report = Callable[[dict[str, Any]], None]

NOISE = 0.5
"""Standard deviation of what is added to the tower's normalised features in its own training. A head can read the faintest trace, a language model
cannot: noise makes the tower say everything with strength."""


def to_pixels(scene: Scene, rng: np.random.Generator, difficulty: float) -> torch.Tensor:
    """A drawn scene as the image processor would give it: (3, 64, 64) in -1..1."""
    image = draw(scene, draw_style(rng, difficulty), rng)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


GLYPHS = ("", *map(str, range(10)), *NAMES)
_HEADS = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1, "glyph": len(GLYPHS), "height": 13, "place": (ROWS + 1) * COLUMNS}
"""What is read off each patch. Without `place` the tower forgets where a patch is, and no language model can then say where a thing was found."""


def patch_targets(scene: Scene) -> np.ndarray:
    """What each of the 16 patches shows, (16, 5): colour, shape, glyph, height of the column's bar, 0 being none; and its place."""
    targets = np.zeros((ROWS + 1, COLUMNS, len(_HEADS)), np.int64)
    targets[..., 4] = np.arange((ROWS + 1) * COLUMNS).reshape(ROWS + 1, COLUMNS)
    colours = ["", *COLOURS]
    if isinstance(scene, Chart):
        for column, (colour, height) in enumerate(scene.bars):
            targets[:ROWS, column, 0] = colours.index(colour)
            targets[:ROWS, column, 3] = height
        for column, (name, colour) in enumerate(scene.legend):
            targets[ROWS, column, [0, 2]] = colours.index(colour), GLYPHS.index(name)
    elif isinstance(scene, Table):
        targets[:ROWS, :, 2] = np.reshape([GLYPHS.index(str(d)) for d in scene.digits], (ROWS, COLUMNS))
    else:
        for place, thing in enumerate(scene.cells):
            if thing:
                targets[place // COLUMNS, place % COLUMNS, :2] = colours.index(thing.colour), ["", *SHAPES].index(thing.shape)
    return targets.reshape(-1, len(_HEADS))


STEPS = {"vision": 600, "text": 800, "language": 4400, "search": 800}
"""Updates of the four phases."""


def train_base(out: Path, scratch: Path, seed: int, steps: dict[str, int], report: Report) -> dict[str, float]:
    """Train the base from nothing and save it in transformers' layout, bfloat16, under 10 MB; goes on from the last checkpoint in `scratch`.

    Returns the share of turns that it answers exactly, by skill.
    """
    steps = STEPS | steps
    scratch.mkdir(parents=True, exist_ok=True)
    # Whatever else the run does waits for the base.
    torch.set_num_threads(os.cpu_count() or 1)
    processor = build_processor()
    model = build_model(processor, seed)
    if processor_has_bfloat16():
        # The backward pass of the fused attention is slow in bfloat16 on a processor: a step of lessons takes 1.3 times as long (docs/benchmarks.md).
        model.set_attn_implementation("eager")
    train_vision(model, steps=steps["vision"], seed=seed, report=report, checkpoint=scratch / "vision")
    rest: dict[str, Any] = {"seed": seed, "report": report}
    train_language(model, processor, steps=steps["text"], text=1.0, learning_rate=0.02, checkpoint=scratch / "text", **rest)
    # Slower: at the rate at which much is learnt from nothing, what the text taught is shaken off.
    train_language(model, processor, steps=steps["language"], text=0.2, learning_rate=0.007, checkpoint=scratch / "language", **rest)
    known = train_language(model, processor, steps=steps["search"], text=0.2, searches=0.6, learning_rate=0.006, checkpoint=scratch / "search", **rest)
    model.bfloat16().save_pretrained(out)
    processor.save_pretrained(out)
    return known


def train_vision(model: LlavaForConditionalGeneration, *, steps: int, seed: int, report: Report, checkpoint: Path, batch_size: int = 64) -> None:
    """Teach the vision tower to say what every patch shows, under all difficulties; in place."""
    tower = model.model.vision_tower
    torch.manual_seed(seed)
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(WIDTH, size) for name, size in _HEADS.items()})
    learner = torch.nn.ModuleList([tower, heads])

    def loss_of(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pixels, targets = [], []
        for _ in range(batch_size):
            difficulty = float(rng.random())
            scene, _ = draw_item(rng, "base", str(rng.choice(list(FAMILIES))), difficulty)
            pixels.append(to_pixels(scene, rng, difficulty))
            targets.append(patch_targets(scene))
        wanted = torch.from_numpy(np.stack(targets))
        seen = functional.layer_norm(tower(torch.stack(pixels)).last_hidden_state[:, 1:], (WIDTH,))
        features = seen + torch.from_numpy(rng.normal(0, NOISE, seen.shape).astype(np.float32))
        outputs = [head(features) for head in heads.values()]
        losses = [functional.cross_entropy(output.flatten(0, 1), wanted[..., i].flatten()) for i, output in enumerate(outputs)]
        right = torch.stack([output.argmax(-1) == wanted[..., i] for i, output in enumerate(outputs)]).all(0).float().mean()
        return torch.stack(losses).sum(), {"patches_right": round(right.item(), 4)}

    _train(learner, loss_of, np.random.default_rng([seed, 1]), steps, 0.02, report, checkpoint, {})


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
            batches.extend(_lesson_batches(processor.tokenizer, rng, draw_one, batch_size, _GROUP))
        inputs, weights = batches.pop()
        weights = weights[:, 1:]
        with torch.autocast("cpu", torch.bfloat16, enabled=processor_has_bfloat16()):
            hidden = model.model(**inputs).last_hidden_state
            logits = model.lm_head(hidden[:, :-1][weights > 0])
        losses = functional.cross_entropy(logits.float(), inputs["input_ids"][:, 1:][weights > 0], reduction="none")
        return losses @ weights[weights > 0] / weights.sum(), {}

    _train(
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


_Row = tuple[list[int], list[float], torch.Tensor | None]
"""Tokens, the weight of each in the loss, and the picture."""
_Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
_GROUP = 8
"""Batches drawn at once, so that rows of like length come together."""
HELD = 400
"""Lessons that skills are held on."""
SAVE_EVERY = 400
"""Steps between checkpoints: a multiple of `_GROUP`, since batches that are drawn and not yet used are in no checkpoint."""

Loss = Callable[[np.random.Generator], tuple[torch.Tensor, dict[str, float]]]


def _train(
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
            _save_state(checkpoint, step, learner, optimizers, rng, known)
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


def _save_state(
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
