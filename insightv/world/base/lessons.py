"""What the tiny base model learns before it meets a chain: captions, grounding, facts of language and arithmetic, direct answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np

from insightv.chain_text import render_chain
from insightv.records import Chain, Step
from insightv.world.problems import draw_item, draw_options, is_held_out
from insightv.world.questions import FAMILIES, GROUPS, MOVES, Question, combine, describe, draw_question, go, group_words, reason, search_row
from insightv.world.scenes import CELLS, COLOURS, COLUMN_NAMES, COLUMNS, NAMES, ROWS, SHAPES, Chart, Grid, Scene, Table, Thing, kind_of

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


_DOCUMENTS, _DIRECT, _TURNS = 0.25, 0.4, 6
"""Share of documents among lessons in text alone; share of direct questions among turns about pictures, the rest being captions and grounding; turns
of a lesson at most."""


_WORDS = (*CELLS, *COLOURS, *SHAPES, *NAMES, *map(str, range(25)), *GROUPS)
"""What may stand anywhere in a text that is to be repeated or looked up in: any text teaches a language model to copy."""


SEARCHES = ("find one", "where", "search rows", "search rows, total")
"""Skills that name a thing and want its place. They come last and all at once, and only where they are asked for thickly (docs/log.md)."""


def draw_lesson(
    rng: np.random.Generator, difficulty: float, text: float = 0.35, known: Mapping[str, float] = MappingProxyType({}), searches: float = 0.0
) -> Lesson:
    """A random lesson: of searches alone with probability `searches`; of the others, in text alone with probability `text`.

    `known` is the share of turns of a skill that are answered already: the better known, the less it is asked for.
    """
    if searches and rng.random() < searches:
        return _search_lesson(rng, difficulty)
    if rng.random() < text:
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


def _search_lesson(rng: np.random.Generator, difficulty: float) -> Lesson:
    """A grid of which nothing but places is asked."""
    scene, _ = draw_item(rng, "base", str(rng.choice([family for family, (_, kind) in FAMILIES.items() if kind == "grid"])), difficulty)
    assert isinstance(scene, Grid)
    turns: list[Turn] = []
    while len(turns) < _TURNS:
        turn = _grid_turn(rng, scene)
        if turn.skill in SEARCHES:
            turns.append(turn)
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
# A running result behind what is read (`a2 5. b2 3, sum 8.`) is asked for of any places in any order, not as a question about a picture goes.


def _grid_turn(rng: np.random.Generator, scene: Grid) -> Turn:
    form = rng.random()
    filled = [(cell, t) for cell, t in zip(CELLS, scene.cells, strict=True) if t]
    if form < 0.2:
        cells = _some(rng, CELLS)
        seen = " ".join(f"{cell} {describe(scene.cells[CELLS.index(cell)])}." for cell in cells)
        return Turn(f"Look at {', '.join(cells)}.", seen, "look")
    single = [(cell, f"{t.colour} {t.shape}") for cell, t in filled if [other for _, other in filled].count(t) == 1]
    if form < 0.5 and single:
        things = _some(rng, single)
        if form < 0.25:
            return Turn(f"Where is the {things[0][1]}?", things[0][0], "where")
        found = " ".join(f"{thing} {cell}." for cell, thing in things)
        return Turn(f"Find the {', the '.join(thing for _, thing in things)}.", found, "find one")
    # Mostly sets that the picture has: where most rows have none, "none" is all that is learnt.
    there = filled[rng.integers(len(filled))][1] if filled and rng.random() < 0.8 else Thing(str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES)))
    kind = rng.random()
    group = group_words(there.colour if kind < 0.6 else None, there.shape if kind >= 0.6 or kind < 0.2 else None)
    rows = [int(row) + 1 for row in rng.permutation(ROWS)[: int(rng.integers(1, ROWS + 1))]]
    rows_found = [search_row(scene, row, group) for row in rows]
    asked = f"Search row {', '.join(map(str, rows))} for {group}"
    if form < 0.8:
        return Turn(f"{asked}.", " ".join(f"{said}." for said, _ in rows_found), "search rows")
    return Turn(f"{asked}, with the total.", _running([(said, str(count)) for said, count in rows_found], "total", "0"), "search rows, total")


def _chart_turn(rng: np.random.Generator, scene: Chart) -> Turn:
    bars = _some(rng, [(column, *bar) for column, bar in zip(COLUMN_NAMES, scene.bars, strict=True)])
    names, heights = _some(rng, scene.legend), dict(scene.bars)
    high_first = sorted(names[:2], key=lambda entry: -heights[entry[1]])
    read, looked_up = [f"{n} {c} {h}" for n, c, h in bars], [f"{n} {c} {heights[c]}" for n, c in names]
    extreme, word = str(rng.choice(["highest", "lowest"])), str(rng.choice(["sum", "difference"]))
    best = _running([(said, f"{c} {h}") for said, (_, c, h) in zip(read, bars, strict=True)], extreme)
    operands = high_first if word == "difference" else names
    some = [(f"{n} {c} {heights[c]}", str(heights[c])) for n, c in operands]
    turns = (
        Turn(f"Find the {', '.join(c for _, c, _ in bars)} bar.", " ".join(f"{c} {n}." for n, c, _ in bars), "find bar"),
        Turn(f"In which column is the {bars[0][1]} bar?", bars[0][0], "which column"),
        Turn(f"Which colour is {names[0][0]}?", names[0][1], "which colour"),
        Turn(f"Look up {', '.join(n for n, _ in names)}.", " ".join(f"{said}." for said in looked_up), "look up"),
        Turn(f"Look up {', '.join(n for n, _ in operands)}, with the {word}.", _running(some, word), f"look up, {word}"),
        Turn(f"Read {', '.join(n for n, _, _ in bars)}.", " ".join(f"{said}." for said in read), "read bars"),
        Turn(f"Read {', '.join(n for n, _, _ in bars)}, with the {extreme}.", best, "read bars, extreme"),
    )
    return turns[int(rng.choice(len(turns), p=(0.2, 0.05, 0.05, 0.2, 0.2, 0.1, 0.2)))]


def _table_turn(rng: np.random.Generator, scene: Table) -> Turn:
    row = int(rng.integers(ROWS)) + 1
    cells = [f"{column}{row}" for column in COLUMN_NAMES] if rng.random() < 0.5 else _some(rng, CELLS)
    read = [(f"{cell} {digit}", str(digit)) for cell in cells for digit in (scene.digits[CELLS.index(cell)],)]
    word = str(rng.choice(["", "sum", "sum", "largest", "smallest"]))
    if not word:
        return Turn(f"Read {', '.join(cells)}.", " ".join(f"{said}." for said, _ in read), "read cells")
    return Turn(f"Read {', '.join(cells)}, with the {word}.", _running(read, word), "read cells, sum" if word == "sum" else "read cells, extreme")


def _running(readings: Sequence[tuple[str, str]], word: str, result: str = "") -> str:
    """Sentences, each with the running result of the items behind it, but for the first where no result is given."""
    sentences = []
    for said, item in readings:
        said, result = (f"{said}, {word} {combine(word, result, item)}", combine(word, result, item)) if result else (said, item)
        sentences.append(f"{said}.")
    return " ".join(sentences)


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
    """What needs no picture: running results of a list, the cell next to a cell, what a question is about, words repeated, a value looked up in notes."""
    form = rng.random()
    if form < 0.2:
        _, question = draw_item(rng, "base", str(rng.choice(list(FAMILIES))), difficulty)
        return Turn(f"{question.text}\nName what matters.", ", ".join(question.args), "name")
    if form < 0.4:
        words = [str(rng.choice(_WORDS)) for _ in range(int(rng.integers(3, 25)))]
        return Turn(f"Repeat {' '.join(words)}.", f"{' '.join(words)}.", "repeat")
    if form < 0.6:
        keys = rng.permutation(_WORDS)[: int(rng.integers(2, 9))]
        notes = {str(key): f"{key} {value}." for key, value in zip(keys, rng.choice(_WORDS, 8), strict=False)}
        wanted = _some(rng, list(notes))
        if rng.random() < 0.5:
            return Turn(f"{' '.join(notes.values())}\nWhat follows {wanted[0]}?{DIRECT}", notes[wanted[0]].removeprefix(wanted[0])[1:-1], "recall one")
        return Turn(f"{' '.join(notes.values())}\nRecall {', '.join(wanted)}.", " ".join(notes[key] for key in wanted), "recall")
    if form < 0.75:
        moves = [_move(rng) for _ in range(int(rng.integers(1, 5)))]
        return Turn("; ".join(asked for asked, _ in moves), " ".join(said for _, said in moves), "go")
    word = str(rng.choice(["sum", "sum", "difference", "largest", "smallest", "highest", "lowest"]))
    extreme = word not in ("sum", "difference")
    values = [int(v) for v in rng.integers(0, 13, int(rng.integers(2, 6)))]
    if word == "difference":
        values = sorted(values[:2], reverse=True)
    items = [f"{rng.choice(list(COLOURS))} {value}" for value in values] if word in ("highest", "lowest") else [str(value) for value in values]
    return Turn(f"The {word} of {', '.join(items)}", _running([(item, item) for item in items], word), "list extreme" if extreme else f"list {word}")


def _move(rng: np.random.Generator) -> tuple[str, str]:
    cell, move = str(rng.choice(CELLS)), str(rng.choice(list(MOVES)))
    return f"Go {move} {cell}", go(cell, move)


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
        yield "\n".join(
            word for group in GROUPS for word in (group, group.removesuffix("s").removesuffix("e") if "cross" in group else group.removesuffix("s"))
        )
        yield "<thoughts>\n</thoughts>\n<output></output> Reason step by step. Reason, then answer." + (
            " Judge the reasoning, then answer directly. Now answer directly."
        )
