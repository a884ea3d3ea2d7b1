"""The ways in which the simulated teacher errs: it misreads facts, slips in a calculation, leaves out detail and breaks its JSON."""

import json
import re
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

from insightv.world.claims import Claim
from insightv.world.scenes import CELLS, COLOURS, COLUMN_NAMES, COLUMNS, SHAPES, Chart, Grid, Scene, Table, Thing, glyph_mask, shape_mask

_RESULT = re.compile(r"(.*, )((?:sum|total|difference|highest|lowest|largest|smallest) (?:\w+ )?)(-?\d+)\.")
"""A reading with the running result behind it."""


def misread(scene: Scene, claim: Claim, risk: float, rng: Random) -> Scene:
    """The scene with each fact that the claim reads changed to a near one with probability `risk`."""
    if isinstance(scene, Grid):
        return _misread_grid(scene, claim, risk, rng)
    if isinstance(scene, Table):
        wrong = claim.kind == "shows" and rng.random() < risk
        digits = [str(d) for d in scene.digits]
        place = CELLS.index(claim.args[0]) if wrong else 0
        digits[place] = _near(digits[place], "0123456789", rng) if wrong else digits[place]
        return Table(tuple(int(d) for d in digits))
    if rng.random() >= risk:
        return scene
    return _misread_chart(scene, claim, rng)


def _misread_grid(scene: Grid, claim: Claim, risk: float, rng: Random) -> Grid:
    cells = list(scene.cells)
    if claim.kind == "at" and rng.random() < risk:
        place = CELLS.index(claim.args[2])
        other = rng.choice([p for p in range(len(CELLS)) if abs(p % COLUMNS - place % COLUMNS) + abs(p // COLUMNS - place // COLUMNS) == 1])
        cells[place], cells[other] = cells[other], cells[place]
    elif claim.kind in ("holds", "row"):
        for place, cell in enumerate(CELLS):
            if claim.args[0] in (cell, cell[1]):
                cells[place] = _misread_thing(cells[place], risk, rng)
    return Grid(tuple(cells))


def _misread_thing(thing: Thing | None, risk: float, rng: Random) -> Thing | None:
    if rng.random() >= (risk if thing else risk / 8):
        return thing
    if thing is None:
        return Thing(rng.choice(list(COLOURS)), rng.choice(SHAPES))
    kind = rng.random()
    if kind < 0.1:
        return None
    return Thing(_near(thing.colour, tuple(COLOURS), rng), thing.shape) if kind < 0.55 else Thing(thing.colour, _near(thing.shape, SHAPES, rng))


def _misread_chart(scene: Chart, claim: Claim, rng: Random) -> Chart:
    colours, heights = ([bar[i] for bar in scene.bars] for i in (0, 1))
    legend = [list(entry) for entry in scene.legend]
    if claim.kind == "bar" or (claim.kind == "named" and rng.random() < 0.5):
        place = colours.index(claim.args[1])
        heights[place] = rng.choice([h for h in range(1, 13) if 0 < abs(h - int(heights[place])) <= rng.choice([1, 1, 1, 2])])
    elif claim.kind == "column":
        place = COLUMN_NAMES.index(claim.args[1])
        other = rng.choice([p for p in (place - 1, place + 1) if 0 <= p < len(colours)])
        colours[place], colours[other] = colours[other], colours[place]
    elif claim.kind == "named":
        first = [name for name, _ in legend].index(claim.args[0].upper())
        second = rng.choice([i for i in range(len(legend)) if i != first])
        legend[first][1], legend[second][1] = legend[second][1], legend[first][1]
    return Chart(tuple((str(c), int(h)) for c, h in zip(colours, heights, strict=True)), tuple((n, c) for n, c in legend))


def _near(name: str, names: Sequence[str], rng: Random) -> str:
    """One of the two that look most like it."""
    looks = {n: np.array(COLOURS[n]) if n in COLOURS else shape_mask(n) if n in SHAPES else glyph_mask(n) for n in names}
    return rng.choice(sorted((n for n in names if n != name), key=lambda n: float(((looks[n] - looks[name]) ** 2).sum()))[:2])


def slip(text: str, rng: Random) -> str:
    """A step's text with the sum, difference or total in it off by one or, seldom, by two; unchanged if it has none."""
    found = _RESULT.fullmatch(text)
    if not found or found[2].split()[0] not in ("sum", "total", "difference"):
        return text
    value, off = int(found[3]), rng.choice([-1, 1, -1, 1, -1, 1, -2, 2])
    return f"{found[1]}{found[2]}{value + off if value + off >= 0 else value + abs(off)}."


def thin(text: str) -> str:
    """A step's text with its result alone, where it has a result."""
    found = _RESULT.fullmatch(text)
    return f"{found[2].capitalize()}{found[3]}." if found else text


def spoil(text: str, value: dict[str, Any], rng: Random) -> str:
    """Good JSON gone wrong in one of the ways of real models."""
    key = rng.choice(sorted(value))
    return rng.choice(
        [
            f"```json\n{text}\n```",
            f"{text}\nI hope that this helps.",
            json.dumps({k: v for k, v in value.items() if k != key}),
            text[: rng.randrange(len(text) // 2, len(text) - 1)],
            json.dumps({**value, key: 7 if rng.random() < 0.5 else None}),
        ]
    )
