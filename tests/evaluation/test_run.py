"""Evaluation over real files: scoring, resuming, failures that are owed."""

import asyncio
import math
from pathlib import Path

import pytest

from insightv.config import UserError
from insightv.evaluation.run import System, accuracy, chain_correctness, evaluate, score
from insightv.records import Chain, Problem, Solution, Usage
from insightv.store import read_records


def problem(number: int, family: str = "count") -> Problem:
    group = "perception" if family == "attribute" else "one-hop"
    return Problem(id=f"p{number:02}", question=f"{number}?", answers=(str(number),), answer_type="number", meta={"family": family, "group": group})


def solution(number: int, answer: str, **rest: object) -> Solution:
    return Solution.model_validate({"problem_id": f"p{number:02}", "system": "s", "answer": answer, "text": answer, **rest})


def counting(calls: list[str], failing: set[str] | None = None, crash_after: int | None = None) -> System:
    """A system that knows every even answer, notes what it was asked and may fail or crash."""

    async def system(asked: Problem) -> Solution:
        await asyncio.sleep(0)
        if crash_after is not None and len(calls) >= crash_after:
            raise ConnectionError("gone")
        calls.append(asked.id)
        if asked.id in (failing or set()):
            return Solution(problem_id=asked.id, system="s", answer="", text="", status="failed", reason="HTTP 400")
        number = int(asked.id[1:])
        return Solution(problem_id=asked.id, system="s", answer=str(number + number % 2), text="", usage=Usage(completion=10))

    return system


def test_solutions_are_scored_and_saved_in_the_problems_order(tmp_path: Path) -> None:
    problems = [problem(n) for n in (3, 0, 2, 1)]
    path = tmp_path / "new" / "solutions.jsonl"
    solutions = asyncio.run(evaluate(counting([]), problems, path, concurrency=2))
    assert [(s.problem_id, s.correct) for s in solutions] == [("p03", False), ("p00", True), ("p02", True), ("p01", False)]
    assert list(read_records(path, Solution)) == solutions
    assert [p.name for p in path.parent.iterdir()] == ["solutions.jsonl"]


def test_a_killed_evaluation_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    problems = [problem(n) for n in range(10)]
    asyncio.run(evaluate(counting([]), problems, tmp_path / "whole.jsonl"))
    path = tmp_path / "killed.jsonl"
    first: list[str] = []
    with pytest.raises(ConnectionError):
        asyncio.run(evaluate(counting(first, crash_after=4), problems, path, concurrency=1))
    progress = tmp_path / "killed.jsonl.progress"
    progress.write_bytes(progress.read_bytes() + b'\n{"problem_id": "p09", "sys')
    second: list[str] = []
    with pytest.raises(ConnectionError):
        asyncio.run(evaluate(counting(second, crash_after=2), problems, path, concurrency=1))
    third: list[str] = []
    asyncio.run(evaluate(counting(third), problems, path))
    assert sorted(first + second + third) == [p.id for p in problems]
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not progress.exists()


def test_failures_are_never_scored_and_asked_again(tmp_path: Path) -> None:
    problems = [problem(n) for n in range(4)]
    path = tmp_path / "solutions.jsonl"
    solutions = asyncio.run(evaluate(counting([], failing={"p02"}), problems, path))
    assert [s.correct for s in solutions] == [True, False, None, False]
    figures = accuracy(solutions, problems)
    assert (figures.owed, figures.micro.n) == (1, 3)
    assert accuracy([solutions[2]], problems).families["count"].n == 0
    calls: list[str] = []
    again = asyncio.run(evaluate(counting(calls), problems, path))
    assert calls == ["p02"] and [s.correct for s in again] == [True, False, True, False]


def test_an_unusable_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        asyncio.run(evaluate(counting([]), [problem(1)], tmp_path / "file" / "below" / "s.jsonl"))


def test_nothing_to_do_asks_nothing_and_heard_solutions_are_only_new_ones(tmp_path: Path) -> None:
    problems = [problem(n) for n in range(3)]
    heard: list[Solution] = []
    first = asyncio.run(evaluate(counting([]), problems, tmp_path / "s.jsonl", on_done=heard.append))
    assert len(heard) == 3
    calls: list[str] = []
    assert asyncio.run(evaluate(counting(calls), problems, tmp_path / "s.jsonl", on_done=heard.append)) == first
    assert calls == [] and len(heard) == 3


def test_a_missing_answer_is_wrong() -> None:
    assert score(problem(1), solution(1, "", parsed=False)).correct is False
    assert score(problem(1), solution(1, "1.0")).correct is True


def test_accuracy_by_family_and_group() -> None:
    problems = [*(problem(n, "attribute") for n in range(4)), *(problem(n, "count") for n in range(4, 6))]
    solutions = [score(p, solution(int(p.id[1:]), str(n) if n < 5 else "", usage={"completion": 7}, parsed=n < 5)) for n, p in enumerate(problems)]
    figures = accuracy(solutions, problems)
    assert figures.macro.value == pytest.approx(0.75) and figures.micro.value == pytest.approx(5 / 6)
    assert {name: (rate.value, rate.n) for name, rate in figures.families.items()} == {"attribute": (1.0, 4), "count": (0.5, 2)}
    assert list(figures.groups) == ["perception", "one-hop"]
    assert (figures.unparsed, figures.tokens, figures.owed) == (1, 7.0, 0)
    assert figures.macro.low < 0.75 < figures.macro.high


def test_accuracy_of_nothing() -> None:
    figures = accuracy([], [])
    assert math.isnan(figures.macro.value) and math.isnan(figures.tokens) and figures.families == {}


def test_chain_correctness_reads_the_chains_own_answer() -> None:
    def with_chain(number: int, answer: str, status: str = "ok") -> Solution:
        chain = Chain.model_validate({"id": "c", "problem_id": f"p{number:02}", "model": "m", "mode": "single", "index": 0, "answer": answer, "status": status})
        return solution(number, "0", chain=chain)

    solutions = [
        with_chain(1, "1"),
        with_chain(2, "3"),
        with_chain(3, "", "defect"),
        with_chain(4, "4", "failed"),
        solution(5, "5"),
        with_chain(6, "I see 6 here"),
    ]
    assert chain_correctness([problem(n) for n in range(7)], solutions) == {"p01": True, "p02": False, "p03": False, "p06": True}
