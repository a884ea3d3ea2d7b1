"""Run one system over problems, score its answers by rule, and sum up its accuracy with intervals."""

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from insightv.answers import correct, settle
from insightv.evaluation.statistics import Rate, macro, wilson
from insightv.files import explained
from insightv.records import Problem, Solution
from insightv.scale.local import map_records
from insightv.store import read_records, write_records

System = Callable[[Problem], Awaitable[Solution]]
"""Anything that answers a problem: one model, or the pair."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy of one system on one set of problems."""

    system: str
    macro: Rate
    """Average over families, bootstrap interval."""
    micro: Rate
    """Share of all items, Wilson interval."""
    families: dict[str, Rate]
    """Wilson intervals, in the order of the solutions, as for `groups`; NaN where all is owed."""
    groups: dict[str, Rate]
    owed: int
    """Problems without a scored answer because a request failed; in no rate."""
    unparsed: int
    """Answers in which no rule found an answer; they count as wrong."""
    tokens: float
    """Mean completion tokens per scored answer, the chain's included."""


async def evaluate(
    system: System, problems: Iterable[Problem], path: Path, *, concurrency: int = 256, on_done: Callable[[Solution], None] | None = None
) -> list[Solution]:
    """Answer and score every problem; returns the solutions in the problems' order and writes them to `path` as JSON lines.

    Resumable: each solution is appended to `path` + `.progress` as it comes, and a later call goes on from there and from an older `path`.
    Solutions that failed are owed: they are kept as unscored rows and asked again by the next call.
    """
    wanted = {problem.id: problem for problem in problems}
    progress = path.with_name(path.name + ".progress")
    solved = {s.problem_id: s for s in [*_earlier(path), *_unfinished(progress)] if s.status == "ok" and s.problem_id in wanted}
    if solved:
        log.info("%s: %d of %d solutions were there already", path, len(solved), len(wanted))

    async def solve(problem: Problem) -> Solution:
        return score(problem, await system(problem))

    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: nothing is left to write when a full disk has ended the run.
        lines = progress.open("ab", buffering=0)
    with lines:

        def keep(solution: Solution) -> None:
            solved[solution.problem_id] = solution
            # The leading line break ends a line that a kill left half-written.
            with explained(progress):
                lines.write(b"\n" + solution.model_dump_json().encode())
            if on_done is not None:
                on_done(solution)

        await map_records(solve, [problem for key, problem in wanted.items() if key not in solved], concurrency=concurrency, on_done=keep)
    solutions = [solved[key] for key in wanted]
    write_records(path, solutions)
    progress.unlink()
    return solutions


def score(problem: Problem, solution: Solution) -> Solution:
    """The solution with `correct` set by the rules of `insightv.answers`.

    A failed request stays unscored; an answer that the rules cannot settle, or that is missing, is wrong: no judge decides a test score.
    """
    verdict = correct(solution.answer, problem) is True if solution.status == "ok" else None
    return solution.model_copy(update={"correct": verdict})


def chain_correctness(problems: Iterable[Problem], solutions: Iterable[Solution]) -> dict[str, bool]:
    """By problem id, whether the chain's own candidate answer is right by rule; solutions without a usable chain have no entry."""
    known = {problem.id: problem for problem in problems}
    return {
        solution.problem_id: settle(solution.chain.answer, known[solution.problem_id]) is True
        for solution in solutions
        if solution.chain is not None and solution.chain.status != "failed" and solution.problem_id in known
    }


def accuracy(solutions: Sequence[Solution], problems: Iterable[Problem], *, seed: int = 0) -> Accuracy:
    """Accuracy by family and group (`meta["family"]`, `meta["group"]` of the problems), macro average over families."""
    known = {problem.id: problem for problem in problems}
    families: dict[str, list[float]] = defaultdict(list)
    groups: dict[str, list[float]] = defaultdict(list)
    scored: list[Solution] = []
    for solution in solutions:
        if solution.problem_id in known:
            problem = known[solution.problem_id]
            right = [] if solution.correct is None else [float(solution.correct)]
            scored += [solution] * len(right)
            families[family(problem)] += right
            if "group" in problem.meta:
                groups[str(problem.meta["group"])] += right
    return Accuracy(
        system=solutions[0].system if solutions else "",
        macro=macro(families, seed=seed),
        micro=wilson(sum(s.correct is True for s in scored), len(scored)),
        families=_rates(families),
        groups=_rates(groups),
        owed=sum(s.correct is None for s in solutions),
        unparsed=sum(not s.parsed for s in scored),
        tokens=sum(s.usage.completion for s in scored) / len(scored) if scored else float("nan"),
    )


def family(problem: Problem) -> str:
    """The stratum of a problem: its family, else its source."""
    return str(problem.meta.get("family") or problem.source or "all")


def _rates(scores: Mapping[str, Sequence[float]]) -> dict[str, Rate]:
    return {name: wilson(int(sum(values)), len(values)) for name, values in scores.items()}


def _earlier(path: Path) -> Iterable[Solution]:
    return read_records(path, Solution) if path.exists() else ()


def _unfinished(progress: Path) -> Iterable[Solution]:
    lines = progress.read_bytes().splitlines() if progress.exists() else []
    for line in filter(None, lines):
        try:
            yield Solution.model_validate_json(line)
        except ValidationError:
            log.info("%s: skipped a half-written line", progress)
