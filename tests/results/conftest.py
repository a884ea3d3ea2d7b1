"""Made-up seeds of the tiny world: problems with known scenes, chains that are right or wrong in a named way."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from insightv.records import Chain, Problem, Solution, Step
from insightv.results.faults import chain_faults
from insightv.results.seeds import Seed
from insightv.world.questions import parse, reason
from insightv.world.scenes import Table, to_json

TABLE = Table((1, 2, 3, 4, 9, 0, 5, 5, 7, 7, 8, 6))
QUESTIONS = {"entry": ("What number is at b3?", "perception"), "extreme-entry": ("What is the largest number in row 2?", "one-hop")}


def make_problem(name: str, family: str) -> Problem:
    text, group = QUESTIONS[family]
    question = parse(text)
    assert question is not None
    meta = {"family": family, "group": group, "scene": to_json(TABLE)}
    return Problem(id=name, question=text, answers=(reason(question, TABLE).answer,), answer_type="number", meta=meta)


def make_chain(problem: Problem, change: tuple[str, str] | None = None, answer: str | None = None) -> Chain:
    """The right chain, or one with a replacement in its text or another answer."""
    question = parse(problem.question)
    assert question is not None
    trace = reason(question, TABLE)
    old, new = change or ("", "")
    steps = tuple(Step(summary=title, reasoning=text.replace(old, new, 1) if old else text) for title, text in trace.steps)
    assert not change or any(new in step.reasoning for step in steps)
    given = trace.answer if answer is None else answer
    return Chain(id=f"c-{problem.id}", problem_id=problem.id, model="m", mode="single", index=0, steps=steps, conclusion=trace.conclusion, answer=given)


def make_solution(problem: Problem, right: bool | None, chain: Chain | None = None) -> Solution:
    answer = problem.answers[0] if right else "99"
    status = "failed" if right is None else "ok"
    return Solution(problem_id=problem.id, system="whatever", answer=answer, text=answer, chain=chain, correct=right, status=status)


def make_seed(number: int, names: list[str], systems: dict[str, Callable[[int, Problem], Solution]]) -> Seed:
    """A seed on the named problems, families by turns."""
    problems = {name: make_problem(name, list(QUESTIONS)[place % 2]) for place, name in enumerate(names)}
    solutions = {row: [solve(place, problem) for place, problem in enumerate(problems.values())] for row, solve in systems.items()}
    faults = {row: chain_faults(problems, those) for row, those in solutions.items()}
    return Seed(number, problems, solutions, dict.fromkeys(systems, 100), faults)


def pair_solution(place: int, problem: Problem) -> Solution:
    """By turns of eight: right chains of which one misled, a misreading that was corrected, one that was followed, one right by luck."""
    wrong = ("b3 7", "b3 1") if problem.meta["family"] == "entry" else ("a2 9", "a2 8")
    if place % 8 < 4:
        return make_solution(problem, place % 8 != 0, make_chain(problem))
    if place % 8 < 6:
        return make_solution(problem, place % 8 == 4, make_chain(problem, wrong, answer="1"))
    return make_solution(problem, place % 8 == 6, make_chain(problem, wrong))


@pytest.fixture
def made() -> SimpleNamespace:
    """The makers of one problem, chain and solution."""
    return SimpleNamespace(problem=make_problem, chain=make_chain, solution=make_solution)


@pytest.fixture
def shared_seeds() -> list[Seed]:
    """Three seeds that share their 80 problems."""
    return [_trained(number, [f"p{place}" for place in range(80)]) for number in range(3)]


@pytest.fixture
def own_seeds() -> list[Seed]:
    """Three seeds with 80 problems of their own each."""
    return [_trained(number, [f"s{number}-{place}" for place in range(80)]) for number in range(3)]


def _trained(number: int, names: list[str]) -> Seed:
    def base(place: int, problem: Problem) -> Solution:
        return make_solution(problem, place % 4 == 1)

    def single(place: int, problem: Problem) -> Solution:
        return make_solution(problem, (place + number) % 4 != 0)

    return make_seed(number, names, {"base": base, "single-fair": single, "pair": pair_solution})
