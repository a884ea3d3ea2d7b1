"""Negative controls: the pair as it is, given what cannot help it. What it still gets right is not owed to the chain, or not to the picture."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

from PIL import Image

from insightv.agents import solve
from insightv.images import decode, encode_png
from insightv.records import Problem, Solution
from insightv.store import ImageStore, derive_seed

GREY = (128, 128, 128)

Solver = Callable[..., Awaitable[Solution]]
"""A system of `agents`: the problem, its models, their settings and prompts, a seed, and the row's name."""


def shuffled(problems: Sequence[Problem], images: ImageStore, seed: int) -> Solver:
    """The pair whose summary agent is shown the chain of another problem of the split, one of the same family wherever there is one."""
    others = derangement(problems, seed)

    async def solve_shuffled(problem: Problem, *given: Any) -> Solution:
        return await solve(problem, *given, reasoned=others[problem.id])

    return solve_shuffled


def blind(problems: Sequence[Problem], images: ImageStore, seed: int) -> Solver:
    """The pair that sees a uniform grey picture of the same size instead of each of a problem's: its input keeps its form."""
    grey = {name: _grey(name, images) for problem in problems for name in problem.images}

    async def solve_blind(problem: Problem, *given: Any) -> Solution:
        return await solve(problem.model_copy(update={"images": tuple(grey[name] for name in problem.images)}), *given)

    return solve_blind


def derangement(problems: Sequence[Problem], seed: int) -> dict[str, Problem]:
    """By problem id another problem, none for two and none for itself: a cycle, by a seeded shuffle, within each family of at least two.

    Problems that are alone in their family go round among themselves, with the first of all others where there is but one. A single problem of all
    is its own.
    """
    families: dict[str, list[Problem]] = defaultdict(list)
    for problem in sorted(problems, key=lambda problem: problem.id):
        families[str(problem.meta.get("family", ""))].append(problem)
    circles = [members for members in families.values() if len(members) > 1]
    alone = [problem for members in families.values() if len(members) == 1 for problem in members]
    if len(alone) == 1 and circles:
        circles[0].append(alone.pop())
    found: dict[str, Problem] = {}
    for members in [*circles, alone]:
        order = sorted(members, key=lambda problem: problem.id)
        Random(derive_seed(seed, "derangement", [problem.id for problem in order])).shuffle(order)
        found |= {problem.id: other for problem, other in zip(order, [*order[1:], *order[:1]], strict=True)}
    return found


def _grey(name: str, images: ImageStore) -> str:
    return images.add(encode_png(Image.new("RGB", decode(images.get(name)).size, GREY)))
