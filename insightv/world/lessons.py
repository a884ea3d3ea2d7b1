"""What the tiny base model learns before it meets a chain: captions, grounding, facts of language and arithmetic, direct answers."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from insightv.chain_text import render_chain
from insightv.records import Chain, Step
from insightv.world.problems import draw_item, draw_options, is_held_out
from insightv.world.questions import FAMILIES, MOVES, Question, describe, draw_question, group_words, reason
from insightv.world.scenes import CELLS, COLOURS, COLUMN_NAMES, COLUMNS, NAMES, ROWS, SHAPES, Chart, Grid, Scene, Table

DIRECT = "\nAnswer directly."
"""How direct answers are asked for in the base's training."""

Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Lesson:
    """Turns of question and answer about one scene, or about none (text alone)."""

    scene: Scene | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Course:
    """A mixture of lessons."""

    text: float
    """Share of lessons that are text alone."""
    documents: float
    """Share of these that are about documents: notes to be written as a structured text, or a text whose answer is to be read off."""
    direct: float
    """Share of the other lessons' turns that are direct questions, the rest being captions and grounding."""
    turns: int
    """Turns of a lesson at most."""
    balance: float
    """An answer of n tokens weighs n ** -balance a token: 0 is a loss over tokens, 1 one over answers."""


ALIGNMENT = Course(text=0.125, documents=0, direct=0.5, turns=3, balance=0)
"""First: what is where, in words."""
INSTRUCTION = Course(text=0.15, documents=0.5, direct=0.3, turns=10, balance=0.5)
"""Then: short answers to questions, which a loss over tokens would hardly notice beside long captions."""


def draw_lesson(rng: np.random.Generator, difficulty: float, course: Course = ALIGNMENT) -> Lesson:
    """A random lesson of a course."""
    if rng.random() < course.text:
        if course.documents and rng.random() < course.documents:
            return Lesson(None, (_document_turn(rng, difficulty),))
        return Lesson(None, tuple(_text_turn(rng) for _ in range(course.turns)))
    family = str(rng.choice(list(FAMILIES)))
    scene, question = draw_item(rng, "base", family, difficulty)
    turns: list[Turn] = []
    for index in range(int(rng.integers(1, course.turns + 1))):
        if rng.random() < course.direct:
            if index:
                families = [f for f, (_, kind) in FAMILIES.items() if kind == FAMILIES[family][1]]
                other = draw_question(rng, scene, str(rng.choice(families)), difficulty)
                question = other if other and not is_held_out(other) else question
            turns.append(_direct_turn(rng, scene, question))
        else:
            turns.append(_grounding_turn(rng, scene))
    return Lesson(scene, tuple(dict.fromkeys(turns)))


def _direct_turn(rng: np.random.Generator, scene: Scene, question: Question) -> Turn:
    answer = reason(question, scene).answer
    if rng.random() < 0.5:
        return question.text + DIRECT, answer
    options = draw_options(rng, question, answer)
    shown = "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", options, strict=False))
    return question.text + shown + DIRECT, answer


def _grounding_turn(rng: np.random.Generator, scene: Scene) -> Turn:
    """A caption, or the naming of a part: each in the words that reasoning about such a picture uses."""
    if rng.random() < 0.1:
        return "Describe the picture.", caption(scene)
    if isinstance(scene, Grid):
        return _grid_turn(rng, scene)
    if isinstance(scene, Chart):
        colour, height = scene.bars[place := int(rng.integers(COLUMNS))]
        name, named = scene.legend[int(rng.integers(COLUMNS))]
        turns = (
            (f"Find the {colour} bar.", f"The {colour} bar is in column {COLUMN_NAMES[place]}."),
            (f"What is {name} in the legend?", f"{name} is {named}."),
            (f"In which column is the {colour} bar?", COLUMN_NAMES[place]),
            (f"Which colour is {name}?", named),
            (f"Read column {COLUMN_NAMES[place]}.", f"Column {COLUMN_NAMES[place]} reaches {height}."),
            (f"Read the {colour} bar.", f"{colour} reaches {height}."),
            ("Use the legend.", f"{', '.join(f'{n} is {c}' for n, c in scene.legend)}."),
            ("Read the bars.", f"{', '.join(f'{n} is {c} {h}' for n, (c, h) in zip(COLUMN_NAMES, scene.bars, strict=True))}."),
        )
        # To find what has a property is harder than to say what is in a place, and every chain begins with it.
        return turns[int(rng.choice(len(turns), p=(0.2, 0.2, 0.2, 0.2, 0.05, 0.05, 0.05, 0.05)))]
    cell = str(rng.choice(CELLS))
    row = int(rng.integers(ROWS))
    digits = scene.digits[row * COLUMNS : (row + 1) * COLUMNS]
    return (
        (f"Read {cell}.", f"{cell} shows {scene.digits[CELLS.index(cell)]}."),
        (f"Read row {row + 1}.", f"{', '.join(f'{n}{row + 1} shows {d}' for n, d in zip(COLUMN_NAMES, digits, strict=True))}."),
    )[int(rng.integers(2))]


def _grid_turn(rng: np.random.Generator, scene: Grid) -> Turn:
    form = rng.random()
    if form < 0.15:
        cell = str(rng.choice(CELLS))
        return f"Look at {cell}.", f"{cell} holds {describe(scene.cells[CELLS.index(cell)])}."
    filled = [(cell, t) for cell, t in zip(CELLS, scene.cells, strict=True) if t]
    if form < 0.45:
        cell, thing = filled[int(rng.integers(len(filled)))]
        if [t for _, t in filled].count(thing) == 1:
            if form < 0.3:
                return f"Where is the {thing.colour} {thing.shape}?", cell
            return f"Find the {thing.colour} {thing.shape}.", f"The {thing.colour} {thing.shape} is at {cell}."
    kind = rng.random()
    colour = str(rng.choice(list(COLOURS))) if kind < 0.55 else None
    shape = str(rng.choice(SHAPES)) if kind >= 0.55 or kind < 0.1 else None
    found = [c for c, t in filled if (colour is None or t.colour == colour) and (shape is None or t.shape == shape)]
    rows = [", ".join(c for c in found if c[1] == str(row + 1)) or "none" for row in range(ROWS)]
    return f"Find {group_words(colour, shape)}.", " ".join(f"Row {i + 1}: {row}." for i, row in enumerate(rows))


def caption(scene: Scene) -> str:
    """Everything a picture shows, in reading order."""
    if isinstance(scene, Grid):
        return " ".join(f"{cell} holds {describe(t)}." for cell, t in zip(CELLS, scene.cells, strict=True) if t)
    if isinstance(scene, Table):
        return " ".join(f"Row {row + 1}: {', '.join(map(str, scene.digits[row * COLUMNS : (row + 1) * COLUMNS]))}." for row in range(ROWS))
    bars = ", ".join(f"{n} is {c} {h}" for n, (c, h) in zip(COLUMN_NAMES, scene.bars, strict=True))
    return f"{bars}. {', '.join(f'{n} is {c}' for n, c in scene.legend)}."


def _text_turn(rng: np.random.Generator) -> Turn:
    """A fact that needs no picture: sums, comparisons, counting a list, the cell next to a cell."""
    form = int(rng.integers(5))
    if form == 0:
        first, second = int(rng.integers(0, 25)), int(rng.integers(0, 13))
        if rng.random() < 0.5 and first >= second:
            return f"{first} minus {second}", f"{first} minus {second} is {first - second}."
        return f"{first} plus {second}", f"{first} plus {second} is {first + second}."
    if form == 1:
        values = [int(v) for v in rng.integers(0, 13, COLUMNS)]
        which = str(rng.choice(["largest", "smallest", "highest", "lowest"]))
        best = max(values) if which in ("largest", "highest") else min(values)
        return f"The {which} of {', '.join(map(str, values))}", f"The {which} of {', '.join(map(str, values))} is {best}."
    if form == 2:
        cells = [CELLS[i] for i in sorted(rng.permutation(len(CELLS))[: int(rng.integers(0, 6))])]
        listed = ", ".join(cells) or "none"
        return f"Count {listed}", f"{listed} makes {len(cells)}."
    if form == 3:
        first, second = (int(v) for v in rng.integers(0, 7, 2))
        return f"Is {first} more than {second}?", f"{first} is {'more' if first > second else 'not more'} than {second}."
    cell = str(rng.choice(CELLS))
    move = str(rng.choice(list(MOVES)))
    column, row = COLUMN_NAMES.index(cell[0]) + MOVES[move][0], int(cell[1]) - 1 + MOVES[move][1]
    if 0 <= column < COLUMNS and 0 <= row < ROWS:
        return f"Go {move} {cell}.", f"{move.capitalize()} {cell} is {COLUMN_NAMES[column]}{row + 1}."
    return f"Go {move} {cell}.", f"Nothing is {move} {cell}."


def _document_turn(rng: np.random.Generator, difficulty: float) -> Turn:
    """Write given notes as a structured text, or read the answer off one: what any language model can do before it sees a picture."""
    scene, question = draw_item(rng, "base", str(rng.choice(list(FAMILIES))), difficulty)
    trace = reason(question, scene)
    steps = tuple(Step(summary=title, reasoning=text) for title, text in trace.steps)
    chain = Chain(id="", problem_id="", model="", mode="single", index=0, steps=steps, conclusion=trace.conclusion, answer=trace.answer)
    if rng.random() < 0.3:
        return f"{question.text}\n{render_chain(chain)}{DIRECT}", trace.answer
    notes = " ".join(f"{title}: {text}" for title, text in trace.steps)
    return f"{question.text}\n{notes} {trace.conclusion}\nWrite as steps.", render_chain(chain)


def vocabulary_corpus() -> Iterator[str]:
    """Text from which the tokenizer learns its words: lessons, questions and chains of the base's layouts, and every name and number."""
    rng = np.random.default_rng(0)
    for index in range(4000):
        for question, answer in draw_lesson(rng, 0.5).turns:
            yield question
            yield answer
        family = list(FAMILIES)[index % len(FAMILIES)]
        scene, asked = draw_item(rng, "base", family, 0.5)
        trace = reason(asked, scene)
        yield "\n".join(f"### {title}\n{text}" for title, text in trace.steps) + f"\n### Conclusion\n{trace.conclusion}\nAnswer: {trace.answer}\n"
    for _ in range(50):
        yield " ".join((*NAMES, *CELLS, *map(str, range(25)), "A B C D"))
        yield "<thoughts>\n</thoughts>\n<output></output> Reason step by step. Reason, then answer." + (
            " Judge the reasoning, then answer directly. Now answer directly."
        )
