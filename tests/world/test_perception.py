"""The teacher's eyes: pictures of seeded scenes are read back, with their contrast, at every difficulty."""

import time

import numpy as np
import pytest
from PIL import Image

from insightv.world.perception import perceive
from insightv.world.scenes import Chart, Grid, Kind, Scene, Table, draw, draw_scene, draw_style, kind_of


def facts(scene: Scene) -> list[object]:
    if isinstance(scene, Grid):
        return list(scene.cells)
    return list(scene.digits) if isinstance(scene, Table) else [*scene.bars, *scene.legend]


def drawn(kind: Kind, difficulty: float, count: int) -> list[tuple[Scene, float, Image.Image]]:
    rng = np.random.default_rng([7, round(difficulty * 10)])
    items = []
    for _ in range(count):
        scene, style = draw_scene(rng, kind, difficulty), draw_style(rng, difficulty)
        items.append((scene, style.contrast, draw(scene, style, rng)))
    return items


@pytest.mark.parametrize("kind", ["grid", "chart", "table"])
@pytest.mark.parametrize(("difficulty", "least"), [(0.0, 1.0), (0.5, 0.99), (0.9, 0.97)])
def test_patches_are_read_back(kind: Kind, difficulty: float, least: float) -> None:
    right = []
    for scene, contrast, image in drawn(kind, difficulty, 60):
        seen, estimate = perceive(image)
        assert kind_of(seen) == kind
        right += [a == b for a, b in zip(facts(scene), facts(seen), strict=True)]
        assert abs(estimate - contrast) < 0.05 + 0.35 * difficulty
    assert np.mean(right) >= least


def test_contrast_of_a_faint_picture_is_estimated_below_that_of_a_clear_one() -> None:
    items = drawn("grid", 0.9, 60)
    estimates = [perceive(image)[1] for _, _, image in items]
    assert np.corrcoef([contrast for _, contrast, _ in items], estimates)[0, 1] > 0.9


def test_a_picture_of_nothing_is_an_empty_grid_and_one_of_another_size_is_read_all_the_same() -> None:
    assert perceive(Image.new("RGB", (64, 64), (235, 235, 235)))[0] == Grid((None,) * 12)
    [(scene, _, image)] = drawn("chart", 0.0, 1)
    assert isinstance(scene, Chart)
    assert perceive(image.resize((192, 192), Image.Resampling.NEAREST))[0] == scene


def test_reading_a_picture_takes_few_milliseconds() -> None:
    images = [image for _, _, image in drawn("grid", 0.5, 20)]
    perceive(images[0])
    begun = time.process_time()
    for image in images:
        perceive(image)
    # 1.5 ms on the machine of record; the bound leaves room for a slower one.
    assert (time.process_time() - begun) / len(images) < 0.02
