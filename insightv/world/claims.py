"""What a step of reasoning claims, read from its text, and the scene that somebody who believes earlier steps would go on from."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from insightv.records import Step
from insightv.world.questions import FAMILIES, GROUPS, MOVES, Question, Trace, belongs, reason, running_word
from insightv.world.scenes import CELLS, COLOURS, COLUMN_NAMES, NAMES, SHAPES, Chart, Grid, Scene, Table, Thing, kind_of

_CELL, _COLOUR, _SHAPE, _MOVE, _N = "([a-d][1-3])", f"({'|'.join(COLOURS)})", f"({'|'.join(SHAPES)})", f"({'|'.join(MOVES)})", r"(-?\d{1,6})"
_PATTERNS = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "locate": f"{_CELL} is in column ([a-d]) and row ([1-3])",
        "holds": f"{_CELL} (?:nothing|{_COLOUR} {_SHAPE})",
        "at": f"{_COLOUR} {_SHAPE} {_CELL}",
        "absent": f"no {_COLOUR} {_SHAPE} is there",
        "go": f"{_MOVE} {_CELL} is {_CELL}",
        "edge": f"nothing is {_MOVE} {_CELL}",
        "row": f"row ([1-3]) ({'|'.join(GROUPS)}): (none|[a-d][1-3](?: [a-d][1-3])*)",
        "column": f"{_COLOUR} ([a-d])",
        "no bar": f"no bar is {_COLOUR}",
        "bar": f"([a-d]) {_COLOUR} {_N}",
        "named": f"({'|'.join(NAMES).casefold()}) {_COLOUR} {_N}",
        "no name": "no ([a-z]) is there",
        "shows": f"{_CELL} {_N}",
        "result": f"(sum|total|difference|largest|smallest) {_N}",
        "best": f"(highest|lowest) {_COLOUR} {_N}",
        "concluded": r"((?:the (?:colour|shape|count|height|result|sum|number|(?:highest|lowest) bar|(?:largest|smallest) number) is) .+)",
    }.items()
}
"""Kind of claim -> what says so. A sentence makes one claim or, with commas between, several."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing said: its kind and what fills its sentence, in lower case."""

    kind: str
    args: tuple[str, ...]


def read_claims(step: Step) -> tuple[Claim, ...]:
    """All claims of a step, in order; none if any part of it is no claim of this world."""
    claims: list[Claim] = []
    for sentence in re.split(r"\.(?:\s+|$)", step.reasoning.strip().casefold()):
        for part in sentence.strip().split(", ") if sentence.strip() else ():
            claim = _read(part)
            if not claim:
                return ()
            claims.append(claim)
    return tuple(claims)


@lru_cache(maxsize=4096)
def _read(part: str) -> Claim | None:
    for kind, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(part):
            return Claim(kind, tuple(group or "" for group in match.groups()))
    return None


def answerable(question: Question, scene: Scene) -> bool:
    """Whether `reason` can treat the question on such a picture: the right kind of picture, and words it knows."""
    groups = question.args if question.family == "count" else ()
    names = re.fullmatch(r"[A-Z](?: (?:plus|minus) [A-Z])+", question.args[0]) if question.family == "arithmetic" else True
    return FAMILIES[question.family][1] == kind_of(scene) and all(group in GROUPS for group in groups) and bool(names)


def item_of(claims: Iterable[Claim], word: str) -> str:
    """What a step reads for the running result of that kind: a number, a bar's colour and height, or how many are listed; empty if nothing."""
    for kind, args in ((claim.kind, claim.args) for claim in claims):
        if kind == "row":
            return str(args[2].count(" ") + 1 if args[2] != "none" else 0)
        if kind in ("shows", "named", "bar"):
            return f"{args[1]} {args[2]}" if kind == "bar" and word in ("highest", "lowest") else args[-1]
    return ""


def result_of(claims: Iterable[Claim], word: str) -> str:
    """The running result of the kind that a step ends with, such as `17` of `sum`, or `red 5` of `highest`; empty if it has none."""
    return next((" ".join(claim.args[1:]) for claim in claims if claim.kind in ("result", "best") and claim.args[0] == word), "")


def is_thin(claims: Sequence[Claim]) -> bool:
    """Whether a step gives a result alone, without what was read for it."""
    return bool(claims) and claims[0].kind in ("result", "best")


def go_on(question: Question, scene: Scene, steps: Sequence[Step]) -> Trace:
    """The reasoning of somebody who saw the scene and takes for granted whatever the steps so far say."""
    results = {}
    for step in steps:
        claims = read_claims(step)
        if result := result_of(claims, running_word(question)):
            subject = step.summary.rpartition(" ")[2] if is_thin(claims) else claims[0].args[0]
            results[subject.casefold()] = result
    return reason(question, believe(scene, steps), lambda subject, result: results.get(subject.casefold(), result))


def believe(scene: Scene, steps: Iterable[Step]) -> Scene:
    """The scene changed as far as the steps state facts that differ from it."""
    for step in steps:
        for claim in read_claims(step):
            if isinstance(scene, Grid):
                scene = _believe_grid(scene, claim)
            elif isinstance(scene, Chart):
                scene = _believe_chart(scene, claim)
            elif claim.kind == "shows":
                place = CELLS.index(claim.args[0])
                scene = Table((*scene.digits[:place], int(claim.args[1]), *scene.digits[place + 1 :]))
    return scene


def _believe_grid(scene: Grid, claim: Claim) -> Grid:
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
    elif claim.kind == "row":
        row, group, listed = claim.args
        for place, cell in enumerate(CELLS):
            if cell[1] == row:
                cells[place] = _enlist(cells[place], group, cell in listed)
    return Grid(tuple(cells))


def _enlist(thing: Thing | None, group: str, wanted: bool) -> Thing | None:
    """The thing, changed just so far that it belongs to the set or does not."""
    colour, shape = GROUPS[group]
    if belongs(thing, group) == wanted:
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
    elif claim.kind == "bar":
        place = COLUMN_NAMES.index(args[0])
        colours[place], heights[place] = args[1], int(args[2])
    elif claim.kind == "named" and args[0].upper() in legend:
        legend[args[0].upper()] = args[1]
        if args[1] in colours:
            heights[colours.index(args[1])] = int(args[2])
    return Chart(tuple((str(c), int(h)) for c, h in zip(colours, heights, strict=True)), tuple(legend.items()))
