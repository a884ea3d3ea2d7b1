"""What a step of reasoning claims, read from its text, and the scene that somebody who believes earlier steps would go on from."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from insightv.records import Step
from insightv.world.questions import FAMILIES, MOVES, Question, Trace, group_words, reason
from insightv.world.scenes import CELLS, COLOURS, COLUMN_NAMES, SHAPES, Chart, Grid, Scene, Table, Thing, kind_of

_CELL, _COLOUR, _SHAPE, _MOVE, _N = "([a-d][1-3])", f"({'|'.join(COLOURS)})", f"({'|'.join(SHAPES)})", f"({'|'.join(MOVES)})", r"(-?\d{1,6})"
_LIST = "(none|[a-d][1-3](?:, [a-d][1-3])*)"
_SENTENCES = {
    "locate": f"{_CELL} is in column ([a-d]) and row ([1-3])",
    "holds": f"{_CELL} (?:nothing|{_COLOUR} {_SHAPE})",
    "at": f"{_COLOUR} {_SHAPE} {_CELL}",
    "absent": f"no {_COLOUR} {_SHAPE} is there",
    "go": f"{_MOVE} {_CELL} is {_CELL}",
    "edge": f"nothing is {_MOVE} {_CELL}",
    "row": f"row ([1-3]): {_LIST}",
    "makes": f"{_LIST} makes {_N}",
    "best": rf"the (highest|lowest|largest|smallest) of ({_N[1:-1]}(?:, {_N[1:-1]})*) is {_N}",
    "column": f"{_COLOUR} ([a-d])",
    "no bar": f"no bar is {_COLOUR}",
    "reaches": f"([a-d]) {_N}",
    "no name": "no ([a-z]) is there",
    "sum": f"{_N} (plus|minus) {_N} is {_N}",
    "concluded": r"((?:the (?:colour|shape|count|height|result|sum|number|(?:highest|lowest) bar|(?:largest|smallest) number) is) .+)",
    "found in all": f"found {_N}",
    "makes in all": f"that makes {_N}",
    "sum in all": f"that is {_N}",
    "best in all": f"the (highest|lowest|largest|smallest) is {_N}",
}
"""Kind of claim -> the sentence that makes it; those `in all` give a result without its detail."""
_ITEMS = {"bar": f"([a-d]) {_COLOUR} {_N}", "named": f"([a-z]) {_COLOUR}", "colour reaches": f"{_COLOUR} {_N}", "shows": f"{_CELL} {_N}"}
"""Kinds whose sentences list several claims, with commas between."""
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _SENTENCES.items()}
_ITEM_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _ITEMS.items()}
GROUPS = {group_words(c, s): (c, s) for c in (None, *COLOURS) for s in (None, *SHAPES) if c or s}
"""Words for a set of things -> its colour and shape, None for any."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing said: its kind and what fills its sentence, in lower case."""

    kind: str
    args: tuple[str, ...]


def read_claims(step: Step) -> tuple[Claim, ...]:
    """All claims of a step, in order; none if any of its sentences is no claim of this world."""
    claims: list[Claim] = []
    for sentence in re.split(r"\.(?:\s+|$)", step.reasoning.strip().casefold()):
        if sentence := sentence.strip():
            found = _read_sentence(sentence)
            if not found:
                return ()
            claims += found
    return tuple(claims)


@lru_cache(maxsize=4096)
def _read_sentence(sentence: str) -> tuple[Claim, ...]:
    for kind, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(sentence):
            return (Claim(kind, tuple(group or "" for group in match.groups())),)
    for kind, pattern in _ITEM_PATTERNS.items():
        matches = [pattern.fullmatch(item) for item in sentence.split(", ")]
        if all(matches):
            return tuple(Claim(kind, match.groups()) for match in matches if match)
    return ()


def group_of(step: Step) -> str:
    """The set of things that a step's title speaks of, such as `red objects`; empty if it names none."""
    words = step.summary.strip().rstrip(".").casefold().split(maxsplit=1)
    return words[1] if len(words) == 2 and words[0] in ("find", "count") and words[1] in GROUPS else ""


def members(scene: Grid, group: str) -> list[str]:
    """Cells of the things that belong to a set."""
    return [cell for cell, thing in zip(CELLS, scene.cells, strict=True) if _belongs(thing, group)]


def answerable(question: Question, scene: Scene) -> bool:
    """Whether `reason` can treat the question on such a picture: the right kind of picture, and words it knows."""
    groups = question.args if question.family == "count" else ()
    names = re.fullmatch(r"[A-Z](?: (?:plus|minus) [A-Z])+", question.args[0]) if question.family == "arithmetic" else True
    return FAMILIES[question.family][1] == kind_of(scene) and all(group in GROUPS for group in groups) and bool(names)


def go_on(question: Question, scene: Scene, steps: Sequence[Step]) -> Trace:
    """The reasoning of somebody who saw the scene and takes for granted whatever the steps so far say."""
    results = iter(_results(steps))
    return reason(question, believe(scene, steps), lambda value: next(results, value))


def believe(scene: Scene, steps: Iterable[Step]) -> Scene:
    """The scene changed as far as the steps state facts that differ from it."""
    for step in steps:
        for claim in read_claims(step):
            if isinstance(scene, Grid):
                scene = _believe_grid(scene, claim, group_of(step))
            elif isinstance(scene, Chart):
                scene = _believe_chart(scene, claim)
            elif claim.kind == "shows":
                place = CELLS.index(claim.args[0])
                scene = Table((*scene.digits[:place], int(claim.args[1]), *scene.digits[place + 1 :]))
    return scene


def _results(steps: Sequence[Step]) -> list[int]:
    """Counts and sums already said, in the order in which `reason` comes to them."""
    kinds = ("makes", "makes in all", "sum", "sum in all")
    return [int(claim.args[-1]) for step in steps for claim in read_claims(step) if claim.kind in kinds]


def _believe_grid(scene: Grid, claim: Claim, group: str) -> Grid:
    cells = list(scene.cells)
    if claim.kind == "holds":
        cell, colour, shape = claim.args
        cells[CELLS.index(cell)] = Thing(colour, shape) if colour else None
    elif claim.kind in ("at", "absent"):
        thing = Thing(claim.args[0], claim.args[1])
        matches = [place for place, other in enumerate(cells) if other == thing]
        place = CELLS.index(claim.args[2]) if claim.kind == "at" else None
        if place not in matches[:1]:
            for match in matches:
                cells[match] = None
            if place is not None:
                if matches:
                    cells[matches[0]] = scene.cells[place]
                cells[place] = thing
    elif claim.kind in ("row", "makes") and group:
        listed = claim.args[1] if claim.kind == "row" else claim.args[0]
        for place, cell in enumerate(CELLS):
            if claim.kind == "makes" or cell[1] == claim.args[0]:
                cells[place] = _enlist(cells[place], group, cell in listed)
    return Grid(tuple(cells))


def _belongs(thing: Thing | None, group: str) -> bool:
    colour, shape = GROUPS[group]
    return thing is not None and colour in (None, thing.colour) and shape in (None, thing.shape)


def _enlist(thing: Thing | None, group: str, wanted: bool) -> Thing | None:
    """The thing, changed just so far that it belongs to the set or does not."""
    colour, shape = GROUPS[group]
    if _belongs(thing, group) == wanted:
        return thing
    if wanted:
        return Thing(colour or (thing.colour if thing else "red"), shape or (thing.shape if thing else "circle"))
    if thing and colour:
        return Thing(next(c for c in COLOURS if c != colour), thing.shape)
    return thing and Thing(thing.colour, next(s for s in SHAPES if s != shape))


def _believe_chart(scene: Chart, claim: Claim) -> Chart:
    colours, heights = ([bar[i] for bar in scene.bars] for i in (0, 1))
    legend = dict(scene.legend)
    args = claim.args
    if claim.kind == "column":
        place = COLUMN_NAMES.index(args[1])
        if args[0] in colours:
            colours[colours.index(args[0])] = colours[place]
        colours[place] = args[0]
    elif claim.kind == "no bar":
        colours = [next(c for c in COLOURS if c not in colours) if c == args[0] else c for c in colours]
    elif claim.kind == "reaches":
        heights[COLUMN_NAMES.index(args[0])] = int(args[1])
    elif claim.kind == "bar":
        place = COLUMN_NAMES.index(args[0])
        colours[place], heights[place] = args[1], int(args[2])
    elif claim.kind == "colour reaches" and args[0] in colours:
        heights[colours.index(args[0])] = int(args[1])
    elif claim.kind == "named" and args[0].upper() in legend:
        legend[args[0].upper()] = args[1]
    return Chart(tuple((str(c), int(h)) for c, h in zip(colours, heights, strict=True)), tuple(legend.items()))
