"""Questions and problems of the tiny world: texts that can be read back, options that hold the answer, splits that keep apart."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from insightv.answers import correct
from insightv.images import decode
from insightv.records import Problem
from insightv.store import ImageStore, content_hash
from insightv.world.problems import BUCKETS, draw_item, is_held_out, make_split
from insightv.world.questions import FAMILIES, parse
from insightv.world.scenes import Chart, Grid, Scene, Table, from_json, to_json


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    images = ImageStore(tmp_path_factory.mktemp("images"))
    return [problem for split in ("train", "test", "heldout") for problem in make_split(images, split, 90, seed=11, difficulty=0.8)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_of_a_question_gives_the_question_back(family: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        _, question = draw_item(rng, "base", family, 0.9)
        assert parse(question.text) == question
        assert parse(f"{question.text}\nA. red\nB. blue") == question


def test_a_text_that_asks_nothing_of_this_world_is_no_question() -> None:
    assert parse("Who painted this?") is None


def plural(word: str) -> str:
    return f"{word}es" if word == "cross" else f"{word}s"


def count(scene: Grid, words: str) -> int:
    wanted = words.split()
    return sum(1 for t in scene.cells if t and all(w in (t.colour, plural(t.shape), "objects") for w in wanted))


def at(scene: Grid, column: int, row: int, attribute: str) -> str:
    thing = scene.cells[row * 4 + column]
    assert thing is not None
    return str(getattr(thing, attribute))


def relative(scene: Grid, attribute: str, move: str, colour: str, shape: str) -> str:
    [place] = [i for i, t in enumerate(scene.cells) if t and (t.colour, t.shape) == (colour, shape)]
    dx, dy = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}[move]
    return at(scene, place % 4 + dx, place // 4 + dy, attribute)


def arithmetic(scene: Chart, expression: str) -> str:
    first, *rest = re.split(r" (plus|minus) ", expression)
    height = {name: next(h for c, h in scene.bars if c == colour) for name, colour in scene.legend}
    total = height[first]
    for operator, name in zip(rest[::2], rest[1::2], strict=True):
        total += height[name] if operator == "plus" else -height[name]
    return str(total)


def row(scene: Table, which: str, number: str) -> str:
    digits = sorted(scene.digits[int(number) * 4 - 4 : int(number) * 4])
    return str(digits[-1] if which == "largest" else digits[0])


READINGS: dict[str, tuple[str, Callable[..., str]]] = {
    "attribute": (r"What (\w+) is the object at ([a-d])(\d)\?", lambda s, a, c, r: at(s, "abcd".index(c), int(r) - 1, a)),
    "height": (r"How high is the (\w+) bar\?", lambda s, c: str(dict(s.bars)[c])),
    "entry": (r"What number is at ([a-d])(\d)\?", lambda s, c, r: str(s.digits[(int(r) - 1) * 4 + "abcd".index(c)])),
    "count": (r"How many (.+) are there\?", lambda s, words: str(count(s, words))),
    "extreme-bar": (r"Which bar is the (\w+)\?", lambda s, which: sorted(s.bars, key=lambda b: b[1])[-1 if which == "highest" else 0][0]),
    "extreme-entry": (r"What is the (largest|smallest) number in row (\d)\?", row),
    "relative": (r"What (\w+) is the object (left of|right of|above|below) the (\w+) (\w+)\?", relative),
    "arithmetic": (r"What is (.+)\?", arithmetic),
    "row-sum": (r"What is the sum of row (\d)\?", lambda s, r: str(sum(s.digits[int(r) * 4 - 4 : int(r) * 4]))),
}


def test_every_answer_agrees_with_a_reading_that_shares_no_code(problems: list[Problem]) -> None:
    families = set()
    for problem in problems:
        pattern, read = READINGS[problem.meta["family"]]
        match = re.fullmatch(pattern, problem.question)
        assert match, problem.question
        answer = read(from_json(problem.meta["scene"]), *match.groups())
        assert correct(answer, problem), (problem.question, problem.answers, answer)
        families.add(problem.meta["family"])
    assert families == set(FAMILIES)


def test_options_are_distinct_and_hold_the_answer(problems: list[Problem]) -> None:
    choices = [problem for problem in problems if problem.options]
    assert len(choices) * 2 == pytest.approx(len(problems), abs=40)
    for problem in choices:
        assert len(set(problem.options)) == len(problem.options) == 4
        text, letter = problem.answers
        assert problem.options["ABCD".index(letter)] == text


def test_splits_share_no_layout_and_keep_to_their_buckets(problems: list[Problem]) -> None:
    layouts: dict[str, set[str]] = {}
    for problem in problems:
        layouts.setdefault(problem.source, set()).add(content_hash(problem.meta["scene"]))
    train, test, heldout = (layouts[f"world/{split}"] for split in ("train", "test", "heldout"))
    assert not (train & test or train & heldout or test & heldout)
    ranges = sorted(BUCKETS.values())
    assert ranges[0][0] == 0 and ranges[-1][1] == 100 and all(a[1] == b[0] for a, b in pairwise(ranges))


def test_held_out_combinations_are_asked_only_in_their_split(problems: list[Problem]) -> None:
    for problem in problems:
        question = parse(problem.question)
        assert question is not None
        assert is_held_out(question) == (problem.source == "world/heldout")


def test_a_split_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    first, second = (list(make_split(ImageStore(tmp_path / name), "own", 9, seed=4, difficulty=0.5)) for name in "ab")
    assert first == second
    other = list(make_split(ImageStore(tmp_path / "a"), "own", 9, seed=5, difficulty=0.5))
    assert {p.id for p in first}.isdisjoint(p.id for p in other)
    assert decode(ImageStore(tmp_path / "a").get(first[0].images[0])).size == (64, 64)


def test_scenes_survive_json(problems: list[Problem]) -> None:
    scenes: list[Scene] = [from_json(problem.meta["scene"]) for problem in problems]
    assert all(to_json(scene) == problem.meta["scene"] for scene, problem in zip(scenes, problems, strict=True))
    assert {type(scene) for scene in scenes} == {Grid, Chart, Table}
