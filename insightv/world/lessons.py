"""What the tiny base model learns before it meets a chain: captions, grounding, facts of language and arithmetic, direct answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np

from insightv.chain_text import render_chain
from insightv.records import Chain, Step
from insightv.world.problems import draw_item, draw_options, is_held_out
from insightv.world.questions import FAMILIES, MOVES, Question, describe, draw_question, group_words, reason
from insightv.world.scenes import CELLS, COLOURS, COLUMN_NAMES, COLUMNS, NAMES, ROWS, SHAPES, Chart, Grid, Scene, Table, kind_of

DIRECT = "\nAnswer directly."
"""How direct answers are asked for in the base's training."""


T = TypeVar("T")


class Turn(NamedTuple):
    """A question with its answer, and the skill that it asks for."""

    question: str
    answer: str
    skill: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """Turns about one scene, or about none (text alone)."""

    scene: Scene | None
    turns: tuple[Turn, ...]


_TEXT, _DOCUMENTS, _DIRECT, _TURNS = 0.35, 0.25, 0.3, 6
"""Share of lessons that are text alone, and of documents among these; share of direct questions among turns about pictures, the rest being captions
and grounding; turns of a lesson at most."""


def draw_lesson(rng: np.random.Generator, difficulty: float, known: Mapping[str, float] = MappingProxyType({})) -> Lesson:
    """A random lesson. `known` is the share of turns of a skill that are answered already: the better known, the less it is asked for."""
    if rng.random() < _TEXT:
        if rng.random() < _DOCUMENTS:
            return Lesson(None, (_document_turn(rng, difficulty),))
        return Lesson(None, tuple(_wanted(rng, known, lambda: _text_turn(rng, difficulty)) for _ in range(_TURNS)))
    scene, question = draw_item(rng, "base", _wanted_family(rng, known), difficulty)
    turns = [_direct_turn(rng, scene, question)] if rng.random() < _DIRECT else []
    for _ in range(int(rng.integers(1, _TURNS + 1)) - len(turns)):
        if rng.random() < _DIRECT:
            turns.append(_wanted(rng, known, lambda: _direct_turn(rng, scene, _another(rng, scene, question, difficulty))))
        else:
            turns.append(_wanted(rng, known, lambda: _grounding_turn(rng, scene)))
    return Lesson(scene, tuple(dict.fromkeys(turns)))


def _wanted(rng: np.random.Generator, known: Mapping[str, float], draw: Callable[[], Turn]) -> Turn:
    """A turn, one that is known well being put back nine times in ten at most."""
    turn = draw()
    while rng.random() < 0.9 * known.get(turn.skill, 0.0) ** 2:
        turn = draw()
    return turn


def _wanted_family(rng: np.random.Generator, known: Mapping[str, float]) -> str:
    family = str(rng.choice(list(FAMILIES)))
    while rng.random() < 0.5 * known.get(family, 0.0) ** 2:
        family = str(rng.choice(list(FAMILIES)))
    return family


def _another(rng: np.random.Generator, scene: Scene, question: Question, difficulty: float) -> Question:
    """Another question about the scene that may be asked, or the same if none comes up."""
    families = [family for family, (_, kind) in FAMILIES.items() if kind == kind_of(scene)]
    other = draw_question(rng, scene, str(rng.choice(families)), difficulty)
    return other if other and not is_held_out(other) else question


def _direct_turn(rng: np.random.Generator, scene: Scene, question: Question) -> Turn:
    answer = reason(question, scene).answer
    if rng.random() < 0.5:
        return Turn(question.text + DIRECT, answer, question.family)
    options = draw_options(rng, question, answer)
    shown = "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", options, strict=False))
    return Turn(question.text + shown + DIRECT, answer, question.family)


def _grounding_turn(rng: np.random.Generator, scene: Scene) -> Turn:
    """A caption, or the naming of a part: each in the words that reasoning about such a picture uses."""
    if rng.random() < 0.05:
        return Turn("Describe the picture.", caption(scene), "describe")
    if isinstance(scene, Grid):
        return _grid_turn(rng, scene)
    return _chart_turn(rng, scene) if isinstance(scene, Chart) else _table_turn(rng, scene)


# To find what has a property is harder than to say what is in a place, and most chains begin with it: so it is what these mostly ask for.


def _grid_turn(rng: np.random.Generator, scene: Grid) -> Turn:
    form = rng.random()
    filled = [(cell, t) for cell, t in zip(CELLS, scene.cells, strict=True) if t]
    if form < 0.25:
        cells = _some(rng, CELLS)
        seen = " ".join(f"{cell} {describe(scene.cells[CELLS.index(cell)])}." for cell in cells)
        return Turn(f"Look at {', '.join(cells)}.", seen, "look")
    single = [(cell, f"{t.colour} {t.shape}") for cell, t in filled if [other for _, other in filled].count(t) == 1]
    if form < 0.6 and single:
        things = _some(rng, single)
        if form < 0.35:
            return Turn(f"Where is the {things[0][1]}?", things[0][0], "where")
        found = " ".join(f"{thing} {cell}." for cell, thing in things)
        return Turn(f"Find the {', the '.join(thing for _, thing in things)}.", found, "find one")
    kind = rng.random()
    colour = str(rng.choice(list(COLOURS))) if kind < 0.6 else None
    shape = str(rng.choice(SHAPES)) if kind >= 0.6 or kind < 0.2 else None
    members = [c for c, t in filled if (colour is None or t.colour == colour) and (shape is None or t.shape == shape)]
    rows = [", ".join(c for c in members if c[1] == str(row + 1)) or "none" for row in range(ROWS)]
    return Turn(f"Find {group_words(colour, shape)}.", " ".join(f"Row {i + 1}: {row}." for i, row in enumerate(rows)), "find all")


def _chart_turn(rng: np.random.Generator, scene: Chart) -> Turn:
    bars = _some(rng, [(column, *bar) for column, bar in zip(COLUMN_NAMES, scene.bars, strict=True)])
    names, heights = _some(rng, scene.legend), dict(scene.bars)
    turns = (
        Turn(f"Find the {', '.join(c for _, c, _ in bars)} bar.", " ".join(f"{c} {n}." for n, c, _ in bars), "find bar"),
        Turn(f"In which column is the {bars[0][1]} bar?", bars[0][0], "which column"),
        Turn(f"Which colour is {names[0][0]}?", names[0][1], "which colour"),
        Turn(f"Use the legend for {', '.join(n for n, _ in names)}.", f"{', '.join(f'{n} {c}' for n, c in names)}.", "use legend"),
        Turn(f"Read the bars {', '.join(c for _, c in names)}.", f"{', '.join(f'{c} {heights[c]}' for _, c in names)}.", "read some bars"),
        Turn(f"Read column {', '.join(n for n, _, _ in bars)}.", " ".join(f"{n} {h}." for n, _, h in bars), "read column"),
        Turn("Read the bars.", f"{', '.join(f'{n} {c} {h}' for n, (c, h) in zip(COLUMN_NAMES, scene.bars, strict=True))}.", "read bars"),
    )
    return turns[int(rng.choice(len(turns), p=(0.2, 0.1, 0.1, 0.2, 0.2, 0.1, 0.1)))]


def _table_turn(rng: np.random.Generator, scene: Table) -> Turn:
    row = int(rng.integers(ROWS))
    whole = rng.random() < 0.5
    cells = [f"{column}{row + 1}" for column in COLUMN_NAMES] if whole else _some(rng, CELLS)
    read = f"{', '.join(f'{cell} {scene.digits[CELLS.index(cell)]}' for cell in cells)}."
    return Turn(f"Read row {row + 1}.", read, "read row") if whole else Turn(f"Read {', '.join(cells)}.", read, "read cell")


def _some(rng: np.random.Generator, things: Sequence[T]) -> list[T]:
    """One to six of them, in any order: several look-ups in one answer teach more a token than one."""
    return [things[i] for i in rng.permutation(len(things))[: int(rng.integers(1, 7))]]


def caption(scene: Scene) -> str:
    """Everything a picture shows, in reading order."""
    if isinstance(scene, Grid):
        return " ".join(f"{cell} {describe(t)}." for cell, t in zip(CELLS, scene.cells, strict=True) if t)
    if isinstance(scene, Table):
        return " ".join(f"Row {row + 1}: {', '.join(map(str, scene.digits[row * COLUMNS : (row + 1) * COLUMNS]))}." for row in range(ROWS))
    bars = ", ".join(f"{n} {c} {h}" for n, (c, h) in zip(COLUMN_NAMES, scene.bars, strict=True))
    return f"{bars}. {', '.join(f'{n} {c}' for n, c in scene.legend)}."


def _text_turn(rng: np.random.Generator, difficulty: float) -> Turn:
    """What needs no picture: sums, extremes, counting a list, the cell next to a cell; what follows from notes; what a question is about."""
    form = rng.random()
    if form < 0.5:
        scene, question = draw_item(rng, "base", str(rng.choice(list(FAMILIES))), difficulty)
        if form < 0.2:
            return Turn(f"{question.text}\nName what matters.", ", ".join(question.args), "name")
        steps = reason(question, scene).steps
        inferred = [place for place, (title, _) in enumerate(steps) if title.split()[0] in ("Go", "Count", "Compare", "Add", "Subtract")]
        if inferred:
            place = int(rng.choice(inferred))
            return Turn(f"{' '.join(text for _, text in steps[:place])}\n{steps[place][0]}.", steps[place][1], "infer")
    skill, draw = (("add", _sum), ("add", _sum), ("extreme", _extreme), ("count list", _count), ("go", _move))[int(rng.integers(5))]
    facts = [draw(rng) for _ in range(int(rng.integers(1, 5)))]
    return Turn("; ".join(asked for asked, _ in facts), " ".join(said for _, said in facts), skill)


def _sum(rng: np.random.Generator) -> tuple[str, str]:
    first, second = int(rng.integers(0, 29)), int(rng.integers(0, 13))
    if rng.random() < 0.35 and first >= second:
        return f"{first} minus {second}", f"{first} minus {second} is {first - second}."
    return f"{first} plus {second}", f"{first} plus {second} is {first + second}."


def _extreme(rng: np.random.Generator) -> tuple[str, str]:
    values = [int(v) for v in rng.integers(0, 13, COLUMNS)]
    which = str(rng.choice(["largest", "smallest", "highest", "lowest"]))
    listed = f"The {which} of {', '.join(map(str, values))}"
    return listed, f"{listed} is {max(values) if which in ('largest', 'highest') else min(values)}."


def _count(rng: np.random.Generator) -> tuple[str, str]:
    cells = [CELLS[i] for i in sorted(rng.permutation(len(CELLS))[: int(rng.integers(0, 6))])]
    listed = ", ".join(cells) or "none"
    return f"Count {listed}", f"{listed} makes {len(cells)}."


def _move(rng: np.random.Generator) -> tuple[str, str]:
    cell, move = str(rng.choice(CELLS)), str(rng.choice(list(MOVES)))
    column, row = COLUMN_NAMES.index(cell[0]) + MOVES[move][0], int(cell[1]) - 1 + MOVES[move][1]
    if 0 <= column < COLUMNS and 0 <= row < ROWS:
        return f"Go {move} {cell}", f"{move.capitalize()} {cell} is {COLUMN_NAMES[column]}{row + 1}."
    return f"Go {move} {cell}", f"Nothing is {move} {cell}."


def _document_turn(rng: np.random.Generator, difficulty: float) -> Turn:
    """Write given notes as a structured text, or read the answer off one: what any language model can do before it sees a picture."""
    scene, question = draw_item(rng, "base", str(rng.choice(list(FAMILIES))), difficulty)
    trace = reason(question, scene)
    steps = tuple(Step(summary=title, reasoning=text) for title, text in trace.steps)
    chain = Chain(id="", problem_id="", model="", mode="single", index=0, steps=steps, conclusion=trace.conclusion, answer=trace.answer)
    if rng.random() < 0.3:
        return Turn(f"{question.text}\n{render_chain(chain)}{DIRECT}", trace.answer, "read answer")
    notes = " ".join(f"{title}: {text}" for title, text in trace.steps)
    return Turn(f"{question.text}\n{notes} {trace.conclusion}\nWrite as steps.", render_chain(chain), "write steps")


def vocabulary_corpus() -> Iterator[str]:
    """Text from which the tokenizer learns its words: lessons, questions and chains of the base's layouts, and every name and number."""
    rng = np.random.default_rng(0)
    for index in range(4000):
        for question, answer, _ in draw_lesson(rng, 0.5).turns:
            yield question
            yield answer
        family = list(FAMILIES)[index % len(FAMILIES)]
        scene, asked = draw_item(rng, "base", family, 0.5)
        trace = reason(asked, scene)
        yield "\n".join(f"### {title}\n{text}" for title, text in trace.steps) + f"\n### Conclusion\n{trace.conclusion}\nAnswer: {trace.answer}\n"
    for _ in range(50):
        yield " ".join((*NAMES, *CELLS, *map(str, range(42)), "A B C D"))
        yield "<thoughts>\n</thoughts>\n<output></output> Reason step by step. Reason, then answer." + (
            " Judge the reasoning, then answer directly. Now answer directly."
        )
