"""Read a picture of the tiny world back into a scene by least squares: every mask of `scenes` at every shift against every patch."""

from functools import cache
from itertools import combinations, permutations

import numpy as np
from PIL import Image

from insightv.world.scenes import (
    BACKGROUND,
    COLOURS,
    COLUMNS,
    NAMES,
    PATCH,
    ROWS,
    SHAPES,
    SIZE,
    UNIT,
    Chart,
    Grid,
    Scene,
    Table,
    Thing,
    glyph_mask,
    shape_mask,
)

Array = np.ndarray
_INK = np.array(list(COLOURS.values()), np.float32) - np.float32(BACKGROUND)
_GREY = np.float32(BACKGROUND - 40)
_CONTRASTS = np.linspace(0.2, 1.05, 35, dtype=np.float32)
_SEEN = 5.4
"""Standard deviations of noise above which a patch is not empty; noise alone, at the best of all masks, comes to about 4."""
_CELLS = ROWS * COLUMNS


def perceive(image: Image.Image) -> tuple[Scene, float]:
    """The scene that a picture shows most likely, and its contrast 0..1; a picture of another size is resized first."""
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    patches = pixels.reshape(ROWS + 1, PATCH, COLUMNS, PATCH, 3).transpose(0, 2, 4, 1, 3)
    # The margins of patches are background, whose mean lies below its level where noise is clipped at white.
    margin = np.concatenate([patches[..., 0], patches[..., -1]], axis=-1)
    patches = patches - np.median(margin.mean(-1, dtype=np.float32), axis=(0, 1))[:, None, None]
    middle, low = np.percentile(margin, [50, 15.87])
    noise = float(middle - low) + 1e-3
    flat = patches.reshape(-1, PATCH * PATCH)
    letters, digits, shapes = (_match(flat, kind) for kind in ("letter", "digit", "shape"))
    if letters[0].max(1)[_CELLS:].mean() > (_SEEN * noise) ** 2:
        return _chart(patches[:ROWS], letters)
    if digits[0].max(1)[:_CELLS].sum() > shapes[0].max(1)[:_CELLS].sum():
        return _table(digits)
    return _grid(shapes, noise)


@cache
def _bank(kind: str) -> tuple[Array, Array]:
    """Masks of a kind at all shifts, (256, names * 25), of unit length; and their lengths."""
    drawn = [shape_mask(s) for s in SHAPES] if kind == "shape" else [glyph_mask(c) for c in (NAMES if kind == "letter" else "0123456789")]
    moves = range(-2, 3)
    masks = np.stack([np.roll(mask, (dy, dx), (0, 1)).ravel() for mask in drawn for dy in moves for dx in moves])
    lengths = np.linalg.norm(masks, axis=1)
    return (masks / lengths[:, None]).T.copy(), lengths


def _match(flat: Array, kind: str) -> tuple[Array, Array]:
    """For 16 patches: the squared length that each name's best shift explains, (16, names), and its colour, (16, names, 3)."""
    masks, lengths = _bank(kind)
    fitted = (flat @ masks).reshape(len(flat) // 3, 3, -1, 25)
    gains = (fitted**2).sum(1)
    best = gains.argmax(-1)[..., None]
    amplitudes = np.take_along_axis(fitted / lengths.reshape(-1, 25), best[:, None], -1)[..., 0]
    return np.take_along_axis(gains, best, -1)[..., 0], amplitudes.transpose(0, 2, 1)


def _distances(inks: Array) -> tuple[Array, float]:
    """Squared distance of each fitted colour (K, 3) to each of the palette, (K, 5), at the contrast that fits them all best; and that."""
    apart = ((inks[None, :, None] - _CONTRASTS[:, None, None, None] * _INK) ** 2).sum(-1)
    best = int(apart.min(-1).sum(-1).argmin())
    return apart[best], float(min(1.0, _CONTRASTS[best]))


def _grid(shapes: tuple[Array, Array], noise: float) -> tuple[Grid, float]:
    gains, amplitudes = shapes[0][:_CELLS], shapes[1][:_CELLS]
    form = gains.argmax(1)
    places = np.flatnonzero(gains.max(1) > (_SEEN * noise) ** 2)
    if not len(places):
        return Grid((None,) * _CELLS), 0.2
    apart, contrast = _distances(amplitudes[places, form[places]])
    cells: list[Thing | None] = [None] * _CELLS
    for place, colour in zip(places, apart.argmin(1), strict=True):
        cells[place] = Thing(list(COLOURS)[colour], SHAPES[form[place]])
    return Grid(tuple(cells)), contrast


def _table(digits: tuple[Array, Array]) -> tuple[Table, float]:
    read = digits[0][:_CELLS].argmax(1)
    grey = -digits[1][np.arange(_CELLS), read].mean() / _GREY
    return Table(tuple(int(d) for d in read)), float(np.clip(grey, 0.0, 1.0))


@cache
def _orders() -> Array:
    """All ways to give the columns different colours, set by set: (5 sets, 24 orders, 4)."""
    return np.array([list(permutations(chosen)) for chosen in combinations(range(len(COLOURS)), COLUMNS)])


def _chart(patches: Array, letters: tuple[Array, Array]) -> tuple[Chart, float]:
    """Bars and legend together: both use the same four colours, each once."""
    strips = patches.transpose(1, 2, 0, 3, 4).reshape(COLUMNS, 3, ROWS * PATCH, PATCH)[..., 3:13].mean(-1)
    sums = strips[..., ::-1].cumsum(-1)[..., UNIT - 1 :: UNIT]
    sizes = np.arange(1, sums.shape[-1] + 1) * UNIT
    height = (sums**2 / sizes).sum(1).argmax(-1)
    columns = np.arange(COLUMNS)
    tones = (sums / sizes)[columns, :, height]
    names = letters[0][_CELLS:].argmax(1)
    apart, contrast = _distances(np.concatenate([tones, letters[1][_CELLS + columns, names]]))
    of_bars = apart[columns, _orders()].sum(-1)
    of_names = apart[COLUMNS + columns, _orders()].sum(-1)
    chosen = int((of_bars.min(1) + of_names.min(1)).argmin())
    palette = list(COLOURS)
    bars = [palette[c] for c in _orders()[chosen, of_bars[chosen].argmin()]]
    named = [palette[c] for c in _orders()[chosen, of_names[chosen].argmin()]]
    return Chart(tuple((c, int(h) + 1) for c, h in zip(bars, height, strict=True)), tuple((NAMES[n], c) for n, c in zip(names, named, strict=True))), contrast
