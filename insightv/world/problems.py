"""Problems of the tiny world: seeded splits that share no layout, and a split of question combinations never trained on."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from insightv.images import encode_png
from insightv.records import Problem
from insightv.store import ImageStore, content_hash, derive_seed
from insightv.world.questions import FAMILIES, Question, answer_space, draw_question, reason
from insightv.world.scenes import Scene, draw, draw_scene, draw_style, to_json

BUCKETS = {
    "base": (0, 50), "train": (50, 60), "plain": (60, 70), "preference": (70, 78),
    "own": (78, 86), "development": (86, 90), "test": (90, 96), "heldout": (96, 100),
}  # fmt: skip
"""Split -> range of the layout hash modulo 100: a layout belongs to one split, whatever the seed."""

_COMBINING = ("attribute", "entry", "count", "relative", "arithmetic")
"""Families whose questions combine enough arguments for some combinations to be held out."""


def is_held_out(question: Question) -> bool:
    """Whether this combination of family and arguments is kept from all training."""
    return question.family in _COMBINING and int(content_hash([question.family, *question.args])[:6], 16) % 8 == 0


def draw_item(rng: np.random.Generator, split: str, family: str, difficulty: float) -> tuple[Scene, Question]:
    """A scene of the split's layouts and a question of the family about it."""
    low, high = BUCKETS[split]
    kind = FAMILIES[family][1]
    while True:
        scene = draw_scene(rng, kind, difficulty)
        if not low <= int(content_hash(to_json(scene))[:8], 16) % 100 < high:
            continue
        for _ in range(20):
            question = draw_question(rng, scene, family, difficulty)
            if question and is_held_out(question) == (split == "heldout"):
                return scene, question


def draw_options(rng: np.random.Generator, question: Question, answer: str) -> list[str]:
    """Four options, the answer among them, wrong numbers near the right one."""
    space = [a for a in answer_space(question) if a != answer]
    if answer.isdigit():
        space = sorted(space, key=lambda a: abs(int(a) - int(answer)))[:6]
    wrong = [str(a) for a in rng.permutation(space)[:3]]
    return [str(o) for o in rng.permutation([answer, *wrong])]


def make_problem(rng: np.random.Generator, images: ImageStore, split: str, family: str, difficulty: float, choice: bool) -> Problem:
    """One problem; its answer comes from the scene. `meta` holds the scene for measuring, which no model is shown."""
    scene, question = draw_item(rng, split, family, difficulty)
    style = draw_style(rng, difficulty)
    image = images.add(encode_png(draw(scene, style, rng)))
    answer = reason(question, scene).answer
    options = draw_options(rng, question, answer) if choice else []
    kind = "choice" if choice else "number" if answer.isdigit() else "text"
    fields: dict[str, Any] = {
        "question": question.text,
        "images": [image],
        "options": options,
        # The text comes first, and is what models learn to say: letters are beyond a language model of four layers (docs/log.md).
        "answers": [answer, "ABCD"[options.index(answer)]] if choice else [answer],
        "answer_type": kind,
        "source": f"world/{split}",
    }
    meta = {"family": family, "group": FAMILIES[family][0], "contrast": round(style.contrast, 3), "scene": to_json(scene)}
    return Problem(id=content_hash(fields), meta=meta, **fields)


def make_split(images: ImageStore, split: str, count: int, *, seed: int, difficulty: float) -> Iterator[Problem]:
    """`count` problems, families in equal parts, every second round of them multiple choice."""
    families = _COMBINING if split == "heldout" else tuple(FAMILIES)
    for index in range(count):
        rng = np.random.default_rng(derive_seed(seed, "world", split, index))
        yield make_problem(rng, images, split, families[index % len(families)], difficulty, choice=index // len(families) % 2 == 1)
