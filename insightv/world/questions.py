"""Nine families of questions about scenes, their answers, and the reasoning that leads there.

A question is a family and its arguments; its text can be parsed back. `reason` writes the chain that the question asks for
(not a reading of everything), from a scene as somebody perceived it: the same function serves ground truth and teacher.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from insightv.world.scenes import CELLS, COLOURS, COLUMN_NAMES, COLUMNS, ROWS, SHAPES, Chart, Grid, Kind, Scene, Table, Thing

FAMILIES: dict[str, tuple[str, Kind]] = {
    "attribute": ("perception", "grid"),
    "height": ("perception", "chart"),
    "entry": ("perception", "table"),
    "count": ("one-hop", "grid"),
    "extreme-bar": ("one-hop", "chart"),
    "extreme-entry": ("one-hop", "table"),
    "relative": ("multi-hop", "grid"),
    "arithmetic": ("multi-hop", "chart"),
    "row-sum": ("multi-hop", "table"),
}
"""Family -> (group, kind of picture)."""

MOVES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
_PATTERNS = {
    "attribute": r"What (colour|shape) is the object at ([a-d][1-3])\?",
    "height": r"How high is the (\w+) bar\?",
    "entry": r"What number is at ([a-d][1-3])\?",
    "count": r"How many (.+) are there\?",
    "extreme-bar": r"Which bar is the (highest|lowest)\?",
    "extreme-entry": r"What is the (largest|smallest) number in row ([1-3])\?",
    "relative": r"What (colour|shape) is the object (left of|right of|above|below) the (\w+) (\w+)\?",
    "arithmetic": r"What is ([A-Z] .+)\?",
    "row-sum": r"What is the sum of row ([1-3])\?",
}


@dataclass(frozen=True, slots=True)
class Question:
    """A family and what fills its template."""

    family: str
    args: tuple[str, ...]

    @property
    def text(self) -> str:
        """The question in words."""
        template = re.sub(r"\((?:[^()]|\([^()]*\))*\)", "{}", _PATTERNS[self.family].replace(r"\?", "?"))
        return template.format(*self.args)


@dataclass(slots=True)
class Trace:
    """A reasoning: titled steps, the conclusion and the answer as a word or number."""

    steps: list[tuple[str, str]] = field(default_factory=list)
    conclusion: str = ""
    answer: str = ""


Carry = Callable[[str, str], str]
"""(what was read, the running result then) -> the running result that the reasoner goes on with."""


def parse(text: str) -> Question | None:
    """The question that a text asks, or None if it is no question of this world."""
    for family, pattern in _PATTERNS.items():
        if match := re.search(pattern, text):
            return Question(family, match.groups())
    return None


def group_words(colour: str | None, shape: str | None) -> str:
    """How a set of things is called: `red objects`, `circles`, `red circles`."""
    plural = f"{shape}{'es' if shape == 'cross' else 's'}" if shape else "objects"
    return f"{colour} {plural}" if colour else plural


GROUPS = {group_words(c, s): (c, s) for c in (None, *COLOURS) for s in (None, *SHAPES) if c or s}
"""Words for a set of things -> its colour and shape, None for any."""


def belongs(thing: Thing | None, group: str) -> bool:
    """Whether a cell's thing is one of the set."""
    colour, shape = GROUPS[group]
    return thing is not None and colour in (None, thing.colour) and shape in (None, thing.shape)


def draw_question(rng: np.random.Generator, scene: Scene, family: str, difficulty: float) -> Question | None:
    """A random question of the family about the scene; None if the scene offers none."""
    if isinstance(scene, Grid):
        return _draw_grid_question(rng, scene, family)
    if isinstance(scene, Chart):
        if family == "height":
            return Question(family, (scene.bars[rng.integers(COLUMNS)][0],))
        if family == "extreme-bar":
            heights = [h for _, h in scene.bars]
            which = str(rng.choice(["highest", "lowest"]))
            best = max(heights) if which == "highest" else min(heights)
            return Question(family, (which,)) if heights.count(best) == 1 else None
        names = [scene.legend[i][0] for i in rng.permutation(COLUMNS)]
        value = {n: dict(scene.bars)[c] for n, c in scene.legend}
        if rng.random() < 0.4 * difficulty:
            return Question(family, (" plus ".join(names[:3]),))
        if rng.random() < 0.5:
            return Question(family, (f"{names[0]} plus {names[1]}",))
        high, low = sorted(names[:2], key=lambda n: -value[n])
        return Question(family, (f"{high} minus {low}",))
    if family == "entry":
        return Question(family, (str(rng.choice(CELLS)),))
    if family == "row-sum":
        return Question(family, (str(rng.integers(1, ROWS + 1)),))
    return Question(family, (str(rng.choice(["largest", "smallest"])), str(rng.integers(1, ROWS + 1))))


def _draw_grid_question(rng: np.random.Generator, scene: Grid, family: str) -> Question | None:
    filled = [(i, t) for i, t in enumerate(scene.cells) if t]
    attribute = str(rng.choice(["colour", "shape"]))
    if family == "attribute":
        return Question(family, (attribute, CELLS[filled[rng.integers(len(filled))][0]]))
    if family == "relative":
        place, anchor = filled[rng.integers(len(filled))]
        move = str(rng.choice(list(MOVES)))
        target = beside(CELLS[place], move)
        if target is None or scene.cells[CELLS.index(target)] is None or [t for _, t in filled].count(anchor) > 1:
            return None
        return Question(family, (attribute, move, anchor.colour, anchor.shape))
    form = rng.random()
    colour = str(rng.choice(list(COLOURS))) if form < 0.6 else None
    shape = str(rng.choice(SHAPES)) if form >= 0.6 or form < 0.2 else None
    return Question(family, (group_words(colour, shape),))


def beside(cell: str, move: str) -> str | None:
    """The cell that is `move` of a cell, None outside the grid."""
    dx, dy = MOVES[move]
    column, row = COLUMN_NAMES.index(cell[0]) + dx, int(cell[1]) + dy
    return f"{COLUMN_NAMES[column]}{row}" if 0 <= column < COLUMNS and 1 <= row <= ROWS else None


def answer_space(question: Question) -> list[str]:
    """The answers that a question could have: where wrong options and wild guesses come from."""
    if question.family in ("attribute", "relative"):
        return list(COLOURS) if question.args[0] == "colour" else list(SHAPES)
    if question.family == "extreme-bar":
        return list(COLOURS)
    upper = {"count": 8, "height": 12, "entry": 9, "extreme-entry": 9, "row-sum": 36}.get(question.family, 24)
    lower = 1 if question.family == "height" else 0
    return [str(v) for v in range(lower, upper + 1)]


def reason(question: Question, scene: Scene, carry: Carry = lambda _, result: result) -> Trace:
    """The chain for a question, from the scene as perceived.

    `carry` is applied to every running result, which the reasoning goes on with. If the scene as perceived does not have what is asked about,
    the trace says so and its answer is empty.
    """
    trace = Trace()
    if isinstance(scene, Grid):
        _reason_grid(question, scene, carry, trace)
    elif isinstance(scene, Chart):
        _reason_chart(question, scene, carry, trace)
    else:
        _reason_table(question, scene, carry, trace)
    return trace


def running_word(question: Question) -> str:
    """What the question's running result is called: `sum`, `difference`, `total`, an extreme; empty if it needs none."""
    if question.family == "arithmetic":
        return "difference" if "minus" in question.args[0] else "sum"
    if question.family in ("extreme-bar", "extreme-entry"):
        return question.args[0]
    return {"count": "total", "row-sum": "sum"}.get(question.family, "")


def combine(word: str, result: str, item: str) -> str:
    """The running result after one more item: `sum`, `total` and `difference` of numbers, or the extreme of items that end in a number."""
    if word in ("sum", "total", "difference"):
        return str(int(result) - int(item) if word == "difference" else int(result) + int(item))
    first, second = (int(text.split()[-1]) for text in (result, item))
    return item if second != first and (second > first) == (word in ("highest", "largest")) else result


def describe(thing: Thing | None) -> str:
    """`red circle`, or `nothing`."""
    return f"{thing.colour} {thing.shape}" if thing else "nothing"


class _Reading(NamedTuple):
    """One step of a running result: its title, whose last word is what is read, the sentence, and the item in it."""

    title: str
    sentence: str
    item: str


def _run(readings: Sequence[_Reading], word: str, carry: Carry, trace: Trace, result: str = "") -> str:
    """Write a step for each reading, with the running result behind it; the last result. Without a first `result` the first item is it."""
    for title, sentence, item in readings:
        if result:
            result = carry(title.split()[-1], combine(word, result, item))
            sentence = f"{sentence}, {word} {result}"
        else:
            result = item
        trace.steps.append((title, f"{sentence}."))
    return result


def search_row(scene: Grid, row: int, group: str) -> tuple[str, int]:
    """What is said of the set's things in a row, counted from 1, and how many they are: `Row 1 red circles: a1 c1`."""
    found = [cell for cell, thing in zip(CELLS, scene.cells, strict=True) if cell[1] == str(row) and belongs(thing, group)]
    return f"Row {row} {group}: {' '.join(found) or 'none'}", len(found)


def go(cell: str, move: str) -> str:
    """What is said of a move: `Left of b2 is a2.`"""
    target = beside(cell, move)
    return f"{move.capitalize()} {cell} is {target}." if target else f"Nothing is {move} {cell}."


def _reason_grid(question: Question, scene: Grid, carry: Carry, trace: Trace) -> None:
    if question.family == "attribute":
        attribute, cell = question.args
        thing = scene.cells[CELLS.index(cell)]
        trace.steps = [(f"Locate {cell}", f"{cell} is in column {cell[0]} and row {cell[1]}."), (f"Look at {cell}", f"{cell} {describe(thing)}.")]
        _read_attribute(attribute, thing, trace)
    elif question.family == "relative":
        attribute, move, colour, shape = question.args
        matches = [i for i, t in enumerate(scene.cells) if t == Thing(colour, shape)]
        if not matches:
            trace.steps.append((f"Find the {colour} {shape}", f"No {colour} {shape} is there."))
            return
        cell = CELLS[matches[0]]
        trace.steps += [(f"Find the {colour} {shape}", f"{colour} {shape} {cell}."), (f"Go {move} {cell}", go(cell, move))]
        if target := beside(cell, move):
            thing = scene.cells[CELLS.index(target)]
            trace.steps.append((f"Look at {target}", f"{target} {describe(thing)}."))
            _read_attribute(attribute, thing, trace)
    else:
        found = [(row, *search_row(scene, row, question.args[0])) for row in range(1, ROWS + 1)]
        trace.answer = _run([_Reading(f"Search row {row}", said, str(count)) for row, said, count in found], running_word(question), carry, trace, "0")
        trace.conclusion = f"The count is {trace.answer}."


def _read_attribute(attribute: str, thing: Thing | None, trace: Trace) -> None:
    if thing:
        trace.answer = thing.colour if attribute == "colour" else thing.shape
        trace.conclusion = f"The {attribute} is {trace.answer}."


def _reason_chart(question: Question, scene: Chart, carry: Carry, trace: Trace) -> None:
    colours = [c for c, _ in scene.bars]
    heights = dict(scene.bars)
    if question.family == "height":
        colour = question.args[0]
        if colour not in heights:
            trace.steps.append((f"Find the {colour} bar", f"No bar is {colour}."))
            return
        column = COLUMN_NAMES[colours.index(colour)]
        trace.steps = [(f"Find the {colour} bar", f"{colour} {column}."), (f"Read {column}", f"{column} {colour} {heights[colour]}.")]
        trace.answer = str(heights[colour])
        trace.conclusion = f"The height is {trace.answer}."
    elif question.family == "extreme-bar":
        readings = [_Reading(f"Read {n}", f"{n} {c} {h}", f"{c} {h}") for n, (c, h) in zip(COLUMN_NAMES, scene.bars, strict=True)]
        trace.answer = _run(readings, running_word(question), carry, trace).split()[0]
        trace.conclusion = f"The {question.args[0]} bar is {trace.answer}."
    else:
        names, legend = re.findall(r"\b[A-Z]\b", question.args[0]), dict(scene.legend)
        missing = [n for n in names if legend.get(n) not in heights]
        if missing:
            trace.steps.append((f"Look up {missing[0]}", f"No {missing[0]} is there."))
            return
        items = [(n, legend[n], heights[legend[n]]) for n in names]
        readings = [_Reading(f"Look up {n}", f"{n} {c} {h}", str(h)) for n, c, h in items]
        trace.answer = _run(readings, running_word(question), carry, trace)
        trace.conclusion = f"The result is {trace.answer}."


def _reason_table(question: Question, scene: Table, carry: Carry, trace: Trace) -> None:
    if question.family == "entry":
        cell = question.args[0]
        digit = scene.digits[CELLS.index(cell)]
        trace.steps = [(f"Locate {cell}", f"{cell} is in column {cell[0]} and row {cell[1]}."), (f"Read {cell}", f"{cell} {digit}.")]
        trace.answer = str(digit)
        trace.conclusion = f"The number is {digit}."
        return
    row, start = question.args[-1], (int(question.args[-1]) - 1) * COLUMNS
    values = zip(COLUMN_NAMES, scene.digits[start : start + COLUMNS], strict=True)
    word = running_word(question)
    trace.answer = _run([_Reading(f"Read {n}{row}", f"{n}{row} {v}", str(v)) for n, v in values], word, carry, trace)
    trace.conclusion = f"The sum is {trace.answer}." if word == "sum" else f"The {word} number is {trace.answer}."
