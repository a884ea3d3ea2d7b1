"""Nine families of questions about scenes, their answers, and the reasoning that leads there.

A question is a family and its arguments; its text can be parsed back. `reason` writes the chain that the question asks for
(not a reading of everything), from a scene as somebody perceived it: the same function serves ground truth and teacher.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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


Slip = Callable[[int], int]
"""What a reasoner makes of a number it computed: itself, or a miscount."""


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


_GROUPS = {group_words(c, s): (c, s) for c in (None, *COLOURS) for s in (None, *SHAPES) if c or s}


def _members(scene: Grid, words: str) -> list[str]:
    colour, shape = _GROUPS[words]
    return [
        cell
        for cell, thing in zip(CELLS, scene.cells, strict=True)
        if thing and (colour is None or thing.colour == colour) and (shape is None or thing.shape == shape)
    ]


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
        target = _step(place, move)
        if target is None or scene.cells[target] is None or [t for _, t in filled].count(anchor) > 1:
            return None
        return Question(family, (attribute, move, anchor.colour, anchor.shape))
    form = rng.random()
    colour = str(rng.choice(list(COLOURS))) if form < 0.6 else None
    shape = str(rng.choice(SHAPES)) if form >= 0.6 or form < 0.2 else None
    return Question(family, (group_words(colour, shape),))


def _step(place: int, move: str) -> int | None:
    dx, dy = MOVES[move]
    column, row = place % COLUMNS + dx, place // COLUMNS + dy
    return row * COLUMNS + column if 0 <= column < COLUMNS and 0 <= row < ROWS else None


def answer_space(question: Question) -> list[str]:
    """The answers that a question could have: where wrong options and wild guesses come from."""
    if question.family in ("attribute", "relative"):
        return list(COLOURS) if question.args[0] == "colour" else list(SHAPES)
    if question.family == "extreme-bar":
        return list(COLOURS)
    upper = {"count": 8, "height": 12, "entry": 9, "extreme-entry": 9, "row-sum": 36}.get(question.family, 24)
    lower = 1 if question.family == "height" else 0
    return [str(v) for v in range(lower, upper + 1)]


def reason(question: Question, scene: Scene, slip: Slip = lambda value: value) -> Trace:
    """The chain for a question, from the scene as perceived.

    `slip` is applied to every count, sum and difference. If the scene as perceived does not have what is asked about,
    the trace says so and its answer is empty.
    """
    trace = Trace()
    if isinstance(scene, Grid):
        _reason_grid(question, scene, slip, trace)
    elif isinstance(scene, Chart):
        _reason_chart(question, scene, slip, trace)
    else:
        _reason_table(question, scene, slip, trace)
    return trace


def describe(thing: Thing | None) -> str:
    """`red circle`, or `nothing`."""
    return f"{thing.colour} {thing.shape}" if thing else "nothing"


def _reason_grid(question: Question, scene: Grid, slip: Slip, trace: Trace) -> None:
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
        place = matches[0]
        target = _step(place, move)
        trace.steps.append((f"Find the {colour} {shape}", f"{colour} {shape} {CELLS[place]}."))
        if target is None:
            trace.steps.append((f"Go {move} {CELLS[place]}", f"Nothing is {move} {CELLS[place]}."))
            return
        trace.steps.append((f"Go {move} {CELLS[place]}", f"{move.capitalize()} {CELLS[place]} is {CELLS[target]}."))
        trace.steps.append((f"Look at {CELLS[target]}", f"{CELLS[target]} {describe(scene.cells[target])}."))
        _read_attribute(attribute, scene.cells[target], trace)
    else:
        words = question.args[0]
        found = _members(scene, words)
        rows = [[c for c in found if c[1] == str(row + 1)] for row in range(ROWS)]
        trace.steps.append((f"Find {words}", " ".join(f"Row {i + 1}: {', '.join(row) or 'none'}." for i, row in enumerate(rows))))
        trace.answer = str(slip(len(found)))
        trace.steps.append((f"Count {words}", f"{', '.join(found) or 'none'} makes {trace.answer}."))
        trace.conclusion = f"The count is {trace.answer}."


def _read_attribute(attribute: str, thing: Thing | None, trace: Trace) -> None:
    if thing:
        trace.answer = thing.colour if attribute == "colour" else thing.shape
        trace.conclusion = f"The {attribute} is {trace.answer}."


def _reason_chart(question: Question, scene: Chart, slip: Slip, trace: Trace) -> None:
    colours = [c for c, _ in scene.bars]
    heights = dict(scene.bars)
    if question.family == "height":
        colour = question.args[0]
        if colour not in heights:
            trace.steps.append((f"Find the {colour} bar", f"No bar is {colour}."))
            return
        column = COLUMN_NAMES[colours.index(colour)]
        trace.steps = [
            (f"Find the {colour} bar", f"{colour} {column}."),
            (f"Read column {column}", f"{column} {heights[colour]}."),
        ]
        trace.answer = str(heights[colour])
        trace.conclusion = f"The height is {trace.answer}."
    elif question.family == "extreme-bar":
        values = [h for _, h in scene.bars]
        best = max(values) if question.args[0] == "highest" else min(values)
        listed = ", ".join(f"{n} {c} {h}" for n, (c, h) in zip(COLUMN_NAMES, scene.bars, strict=True))
        trace.steps.append(("Read the bars", f"{listed}."))
        trace.steps.append(("Compare", f"The {question.args[0]} of {', '.join(map(str, values))} is {best}."))
        trace.answer = colours[values.index(best)]
        trace.conclusion = f"The {question.args[0]} bar is {trace.answer}."
    else:
        _reason_arithmetic(question.args[0], scene, slip, trace)


def _reason_arithmetic(expression: str, scene: Chart, slip: Slip, trace: Trace) -> None:
    names = re.findall(r"\b[A-Z]\b", expression)
    legend, heights = dict(scene.legend), dict(scene.bars)
    missing = [n for n in names if legend.get(n) not in heights]
    if missing:
        trace.steps.append(("Use the legend", f"No {missing[0]} is there."))
        return
    colours = [legend[n] for n in names]
    values = [heights[c] for c in colours]
    trace.steps.append(("Use the legend", f"{', '.join(f'{n} {c}' for n, c in zip(names, colours, strict=True))}."))
    trace.steps.append(("Read the bars", f"{', '.join(f'{c} {v}' for c, v in zip(colours, values, strict=True))}."))
    trace.answer = str(_add_up(values, "minus" if "minus" in expression else "plus", slip, trace))
    trace.conclusion = f"The result is {trace.answer}."


def _add_up(values: Sequence[int], operator: str, slip: Slip, trace: Trace) -> int:
    total = values[0]
    for value in values[1:]:
        result = slip(total - value if operator == "minus" else total + value)
        trace.steps.append(("Subtract" if operator == "minus" else "Add", f"{total} {operator} {value} is {result}."))
        total = result
    return total


def _reason_table(question: Question, scene: Table, slip: Slip, trace: Trace) -> None:
    if question.family == "entry":
        cell = question.args[0]
        digit = scene.digits[CELLS.index(cell)]
        trace.steps = [(f"Locate {cell}", f"{cell} is in column {cell[0]} and row {cell[1]}."), (f"Read {cell}", f"{cell} {digit}.")]
        trace.answer = str(digit)
        trace.conclusion = f"The number is {digit}."
        return
    row = question.args[-1]
    start = (int(row) - 1) * COLUMNS
    values = scene.digits[start : start + COLUMNS]
    trace.steps.append((f"Read row {row}", f"{', '.join(f'{n}{row} {v}' for n, v in zip(COLUMN_NAMES, values, strict=True))}."))
    if question.family == "row-sum":
        trace.answer = str(_add_up(values, "plus", slip, trace))
        trace.conclusion = f"The sum is {trace.answer}."
        return
    which = question.args[0]
    best = max(values) if which == "largest" else min(values)
    trace.steps.append(("Compare", f"The {which} of {', '.join(map(str, values))} is {best}."))
    trace.answer = str(best)
    trace.conclusion = f"The {which} number is {best}."
