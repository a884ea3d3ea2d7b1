"""The first phase of the base's training: the vision tower learns to see, by a dense classifier over patches."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from insightv.world.base.loop import Report, train
from insightv.world.base.tiny_vlm import WIDTH
from insightv.world.problems import draw_item
from insightv.world.questions import FAMILIES
from insightv.world.scenes import COLOURS, COLUMNS, NAMES, ROWS, SHAPES, Chart, Scene, Table, draw, draw_style

NOISE = 0.5
"""Standard deviation of what is added to the tower's normalised features in its own training. A head can read the faintest trace, a language model
cannot: noise makes the tower say everything with strength."""


def to_pixels(scene: Scene, rng: np.random.Generator, difficulty: float) -> torch.Tensor:
    """A drawn scene as the image processor would give it: (3, 64, 64) in -1..1."""
    image = draw(scene, draw_style(rng, difficulty), rng)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


GLYPHS = ("", *map(str, range(10)), *NAMES)
_HEADS = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1, "glyph": len(GLYPHS), "height": 13, "place": (ROWS + 1) * COLUMNS}
"""What is read off each patch. Without `place` the tower forgets where a patch is, and no language model can then say where a thing was found."""


def patch_targets(scene: Scene) -> np.ndarray:
    """What each of the 16 patches shows, (16, 5): colour, shape, glyph, height of the column's bar, 0 being none; and its place."""
    targets = np.zeros((ROWS + 1, COLUMNS, len(_HEADS)), np.int64)
    targets[..., 4] = np.arange((ROWS + 1) * COLUMNS).reshape(ROWS + 1, COLUMNS)
    colours = ["", *COLOURS]
    if isinstance(scene, Chart):
        for column, (colour, height) in enumerate(scene.bars):
            targets[:ROWS, column, 0] = colours.index(colour)
            targets[:ROWS, column, 3] = height
        for column, (name, colour) in enumerate(scene.legend):
            targets[ROWS, column, [0, 2]] = colours.index(colour), GLYPHS.index(name)
    elif isinstance(scene, Table):
        targets[:ROWS, :, 2] = np.reshape([GLYPHS.index(str(d)) for d in scene.digits], (ROWS, COLUMNS))
    else:
        for place, thing in enumerate(scene.cells):
            if thing:
                targets[place // COLUMNS, place % COLUMNS, :2] = colours.index(thing.colour), ["", *SHAPES].index(thing.shape)
    return targets.reshape(-1, len(_HEADS))


def train_vision(model: LlavaForConditionalGeneration, *, steps: int, seed: int, report: Report, checkpoint: Path, batch_size: int = 64) -> None:
    """Teach the vision tower to say what every patch shows, under all difficulties; in place."""
    tower = model.model.vision_tower
    torch.manual_seed(seed)
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(WIDTH, size) for name, size in _HEADS.items()})
    learner = torch.nn.ModuleList([tower, heads])

    def loss_of(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pixels, targets = [], []
        for _ in range(batch_size):
            difficulty = float(rng.random())
            scene, _ = draw_item(rng, "base", str(rng.choice(list(FAMILIES))), difficulty)
            pixels.append(to_pixels(scene, rng, difficulty))
            targets.append(patch_targets(scene))
        wanted = torch.from_numpy(np.stack(targets))
        seen = functional.layer_norm(tower(torch.stack(pixels)).last_hidden_state[:, 1:], (WIDTH,))
        features = seen + torch.from_numpy(rng.normal(0, NOISE, seen.shape).astype(np.float32))
        outputs = [head(features) for head in heads.values()]
        losses = [functional.cross_entropy(output.flatten(0, 1), wanted[..., i].flatten()) for i, output in enumerate(outputs)]
        right = torch.stack([output.argmax(-1) == wanted[..., i] for i, output in enumerate(outputs)]).all(0).float().mean()
        return torch.stack(losses).sum(), {"patches_right": round(right.item(), 4)}

    train(learner, loss_of, np.random.default_rng([seed, 1]), steps, 0.02, report, checkpoint, {})
