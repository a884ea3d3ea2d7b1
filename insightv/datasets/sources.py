"""Problems in our own JSON Lines: what imports and worlds write and every stage reads."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from insightv.answers import MOST_OPTIONS
from insightv.config import UserError
from insightv.records import Problem
from insightv.store import read_records, write_records


def read_problems(path: Path) -> Iterator[Problem]:
    """Yield the problems of a JSON Lines file; a missing file, a broken line, an id that comes twice or a problem that no stage could use is a `UserError`."""
    seen: set[str] = set()
    for problem in read_records(path, Problem):
        if problem.id in seen:
            raise UserError(f"{path}: problem {problem.id} comes twice; keep one of the two lines")
        if fault := _fault(problem):
            raise UserError(f"{path}: problem {problem.id}: {fault}")
        seen.add(problem.id)
        yield problem


def write_problems(path: Path, problems: Iterable[Problem]) -> int:
    """Write problems as JSON Lines and return their number."""
    return write_records(path, problems)


def _fault(problem: Problem) -> str:
    """What a stage would stumble over, maybe only after the teacher was paid; empty if nothing.

    Not a validator of the record: a question that is only asked has no known answer, and a judge sees what was sent.
    """
    if not problem.answers or not all(answer.strip() for answer in problem.answers):
        return "answers: at least one is needed, and none may be blank"
    if len(problem.options) > MOST_OPTIONS:
        return f"options: {len(problem.options)} of them, {MOST_OPTIONS} at most have a letter"
    return ""
