"""Negative controls: who gets whose chain, and what is seen of a picture that is not shown."""

import asyncio
from collections import defaultdict
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from insightv import negative
from insightv.images import encode_png
from insightv.records import Problem
from insightv.store import ImageStore


def problem(number: int, family: str = "", images: tuple[str, ...] = ()) -> Problem:
    return Problem(id=f"p{number}", question="?", images=images, answers=("1",), meta={"family": family} if family else {})


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=30), st.integers(0, 5))
def test_everybody_gets_anothers_chain_of_the_same_family(families: list[str], seed: int) -> None:
    problems = [problem(number, name) for number, name in enumerate(families)]
    others = negative.derangement(problems, seed)
    assert sorted(others) == sorted(other.id for other in others.values()) == sorted(p.id for p in problems)
    assert all(others[p.id].id != p.id for p in problems)
    sizes: dict[str, int] = defaultdict(int)
    for name in families:
        sizes[name] += 1
    strangers = [p for p in problems if others[p.id].meta["family"] != p.meta["family"]]
    alone = sum(size == 1 for size in sizes.values())
    assert len(strangers) == (alone if alone != 1 else 2)
    assert others == negative.derangement(problems[::-1], seed)


def test_the_seed_decides_who_gets_which() -> None:
    problems = [problem(number, "a") for number in range(40)]
    assert negative.derangement(problems, 0) != negative.derangement(problems, 1)
    assert negative.derangement(problems[:1], 0) == {"p0": problems[0]}


def test_a_picture_that_is_not_shown_is_grey_and_of_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageStore(tmp_path)
    names = tuple(images.add(encode_png(Image.new("RGB", size, "red"))) for size in ((8, 6), (3, 9)))
    shown: list[Problem] = []

    async def solve(seen: Problem, *_: Any) -> None:
        shown.append(seen)

    monkeypatch.setattr(negative, "solve", solve)
    asked = problem(0, images=names)
    asyncio.run(negative.blind([asked], images, 0)(asked))  # type: ignore[arg-type] # a coroutine, as any awaitable may be
    [seen] = shown
    assert seen.model_copy(update={"images": names}) == asked and not {*seen.images} & {*names}
    pictures = [Image.open(BytesIO(images.get(name))) for name in seen.images]
    assert [(picture.size, picture.getcolors()) for picture in pictures] == [((8, 6), [(48, negative.GREY)]), ((3, 9), [(27, negative.GREY)])]
