"""Scenes of the tiny world and their pictures: a grid of objects, a bar chart with a legend, a table of digits.

Every picture is 64 x 64 pixels; whatever carries meaning fills patches of 16 x 16, so that one vision token sees one thing.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

SIZE, PATCH, COLUMNS, ROWS = 64, 16, 4, 3
UNIT = 4
"""Pixels of one unit of a bar's height; three patches hold 12 units."""
COLUMN_NAMES = "abcd"
CELLS = tuple(f"{column}{row + 1}" for row in range(ROWS) for column in COLUMN_NAMES)
"""Cell names in reading order."""
COLOURS = {"red": (214, 40, 40), "green": (40, 150, 60), "blue": (40, 80, 210), "yellow": (225, 190, 30), "purple": (150, 60, 170)}
SHAPES = ("square", "circle", "triangle", "cross")
NAMES = ("K", "L", "M", "N", "P", "R", "T", "V")
"""Letters that a chart's legend can use."""
BACKGROUND = 235.0

_GLYPHS = {
    "0": "01110 10001 10011 10101 11001 10001 01110", "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111", "3": "11111 00010 00100 00010 00001 10001 01110",
    "4": "00010 00110 01010 10010 11111 00010 00010", "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110", "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110", "9": "01110 10001 10001 01111 00001 00010 01100",
    "K": "10001 10010 10100 11000 10100 10010 10001", "L": "10000 10000 10000 10000 10000 10000 11111",
    "M": "10001 11011 10101 10101 10001 10001 10001", "N": "10001 11001 10101 10011 10001 10001 10001",
    "P": "11110 10001 10001 11110 10000 10000 10000", "R": "11110 10001 10001 11110 10100 10010 10001",
    "T": "11111 00100 00100 00100 00100 00100 00100", "V": "10001 10001 10001 10001 10001 01010 00100",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Thing:
    """An object on a grid."""

    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Grid:
    """Twelve cells in reading order, each empty or holding one thing."""

    cells: tuple[Thing | None, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """Four bars (colour, height 1..12) from column a to d, and a legend of (name, colour) in the order drawn."""

    bars: tuple[tuple[str, int], ...]
    legend: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Twelve digits in reading order."""

    digits: tuple[int, ...]


Scene = Grid | Chart | Table
Kind = Literal["grid", "chart", "table"]


@dataclass(frozen=True, slots=True)
class Style:
    """How a scene is drawn: what makes it hard to see."""

    contrast: float
    """1 is full, towards 0 everything fades into the background."""
    noise: float
    """Standard deviation of the pixel noise, in grey levels of 255."""
    hue: float
    """Standard deviation of each thing's colour shift, in grey levels."""
    jitter: int
    """Pixels by which a thing may stand off its patch's middle."""


def draw_style(rng: np.random.Generator, difficulty: float) -> Style:
    """A picture's style at a difficulty 0..1."""
    contrast = 1 - difficulty * float(rng.uniform(0.2, 0.75))
    return Style(contrast, noise=10 + 45 * difficulty, hue=5 + 25 * difficulty, jitter=1 if difficulty < 0.7 else 2)


def draw_scene(rng: np.random.Generator, kind: Kind, difficulty: float) -> Scene:
    """A random scene; grids fill up with difficulty."""
    if kind == "grid":
        count = int(rng.integers(4, 6 + round(4 * difficulty)))
        cells: list[Thing | None] = [None] * len(CELLS)
        for place in rng.permutation(len(CELLS))[:count]:
            cells[place] = Thing(str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES)))
        return Grid(tuple(cells))
    if kind == "chart":
        colours = [str(c) for c in rng.permutation(list(COLOURS))[:COLUMNS]]
        names = [str(n) for n in rng.permutation(NAMES)[:COLUMNS]]
        bars = tuple((c, int(rng.integers(1, 13))) for c in colours)
        return Chart(bars, tuple(zip(names, [str(c) for c in rng.permutation(colours)], strict=True)))
    return Table(tuple(int(d) for d in rng.integers(0, 10, len(CELLS))))


def kind_of(scene: Scene) -> Kind:
    """The name of a scene's kind."""
    return "grid" if isinstance(scene, Grid) else "chart" if isinstance(scene, Chart) else "table"


def to_json(scene: Scene) -> dict[str, Any]:
    """A scene as JSON values, with its kind."""
    if isinstance(scene, Grid):
        return {"kind": "grid", "cells": [{"colour": thing.colour, "shape": thing.shape} if thing else None for thing in scene.cells]}
    if isinstance(scene, Chart):
        return {"kind": "chart", "bars": [list(bar) for bar in scene.bars], "legend": [list(entry) for entry in scene.legend]}
    return {"kind": "table", "digits": list(scene.digits)}


def from_json(value: dict[str, Any]) -> Scene:
    """The inverse of `to_json`."""
    if value["kind"] == "grid":
        return Grid(tuple(Thing(**c) if c else None for c in value["cells"]))
    if value["kind"] == "chart":
        return Chart(tuple((c, h) for c, h in value["bars"]), tuple((n, c) for n, c in value["legend"]))
    return Table(tuple(value["digits"]))


def glyph_mask(character: str) -> np.ndarray:
    """A digit or letter as a (16, 16) mask of 0 and 1: a 5 x 7 bitmap at twice its size."""
    bits = np.array([[int(b) for b in row] for row in _GLYPHS[character].split()], dtype=np.float32)
    mask = np.zeros((PATCH, PATCH), np.float32)
    mask[1:15, 3:13] = np.kron(bits, np.ones((2, 2), np.float32))
    return mask


def shape_mask(shape: str) -> np.ndarray:
    """A shape as a (16, 16) mask of 0 and 1."""
    y, x = np.mgrid[0:PATCH, 0:PATCH] - 7.5
    if shape == "square":
        inside = (abs(x) <= 5) & (abs(y) <= 5)
    elif shape == "circle":
        inside = x**2 + y**2 <= 5.8**2
    elif shape == "triangle":
        inside = (y <= 5) & (y >= -5.5) & (abs(x) <= (y + 6) * 0.55)
    else:
        inside = ((abs(x) <= 1.8) & (abs(y) <= 6)) | ((abs(y) <= 1.8) & (abs(x) <= 6))
    mask: np.ndarray = inside.astype(np.float32)
    return mask


def bar_mask(height: int) -> np.ndarray:
    """A bar as a (48, 16) mask: 10 pixels wide, 4 pixels a unit."""
    mask = np.zeros((ROWS * PATCH, PATCH), np.float32)
    mask[ROWS * PATCH - height * UNIT :, 3:13] = 1
    return mask


def draw(scene: Scene, style: Style, rng: np.random.Generator) -> Image.Image:
    """The scene's picture, RGB, 64 x 64."""
    canvas = np.full((SIZE, SIZE, 3), BACKGROUND, np.float32)

    def paint(mask: np.ndarray, column: int, top: int, colour: tuple[int, int, int], move: bool = True) -> None:
        dy, dx = rng.integers(-style.jitter, style.jitter + 1, 2) if move else (0, 0)
        mask = np.roll(mask, (dy, dx), (0, 1))[..., None]
        shifted = np.array(colour, np.float32) + rng.normal(0, style.hue, 3)
        tone = BACKGROUND + style.contrast * (shifted - BACKGROUND)
        area = canvas[top : top + mask.shape[0], column * PATCH : (column + 1) * PATCH]
        area[:] = area * (1 - mask) + tone * mask

    if isinstance(scene, Chart):
        for column, (colour, height) in enumerate(scene.bars):
            paint(bar_mask(height), column, 0, COLOURS[colour], move=False)
        for column, (name, colour) in enumerate(scene.legend):
            paint(glyph_mask(name), column, ROWS * PATCH, COLOURS[colour])
    else:
        for place in range(len(CELLS)):
            column, top = place % COLUMNS, place // COLUMNS * PATCH
            if isinstance(scene, Table):
                paint(glyph_mask(str(scene.digits[place])), column, top, (40, 40, 40))
            elif thing := scene.cells[place]:
                paint(shape_mask(thing.shape), column, top, COLOURS[thing.colour])
    canvas += rng.normal(0, style.noise, canvas.shape)
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
