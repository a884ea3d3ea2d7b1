"""Problems from files: our own JSON Lines, and imports of rows with image files (plain or in LLaVA's form).

An import checks every row; what cannot become a problem is kept as a rejection with its reason.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from insightv.answers import MOST_OPTIONS
from insightv.config import UserError
from insightv.datasets.foreign import RowError, problem_of, questions_of
from insightv.datasets.rows import Rejection
from insightv.files import explained, replacing
from insightv.records import Problem
from insightv.store import ImageStore, read_records, write_records


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


def import_folder(path: Path, image_folder: Path, out: Path) -> dict[str, Any]:
    """Import `path` into `out`: `problems.jsonl`, `images/` beside it and `rejections.jsonl`; returns the counts."""
    problems, rejections = import_rows(path, image_folder, ImageStore(out / "images"))
    write_problems(out / "problems.jsonl", problems)
    with replacing(out / "rejections.jsonl") as file:
        file.writelines(orjson.dumps(rejection, option=orjson.OPT_SORT_KEYS) + b"\n" for rejection in rejections)
    if not problems:
        raise UserError(f"no row of {path} became a problem; the reasons are in {out / 'rejections.jsonl'}")
    return {"problems": len(problems), "rejections": len(rejections)}


def import_rows(path: Path, image_folder: Path, images: ImageStore) -> tuple[list[Problem], list[Rejection]]:
    """Problems of a JSON Lines file, or of one JSON list, in the order of its rows, and the rejections.

    A plain row has `question`, `answer` or `answers`, and maybe `image` or `images` (paths below `image_folder`), `options`,
    `answer_type` and `meta`; a LLaVA row has `conversations`, each pair of turns a problem of its own about the row's images.
    Options may stand in the question as lines `A. text`; answers to them may be letters or texts.
    """
    problems: dict[str, Problem] = {}
    rejections: list[Rejection] = []
    for number, row in _rows(path):
        try:
            for fields in questions_of(row):
                problem = problem_of(fields, image_folder, images, source=path.stem)
                if problem.id in problems:
                    rejections.append({"row": number, "reason": "duplicate", "detail": f"same as problem {problem.id}"})
                else:
                    problems[problem.id] = problem
        except RowError as error:
            rejections.append({"row": number, "reason": error.reason, "detail": error.detail})
    return list(problems.values()), rejections


def _fault(problem: Problem) -> str:
    """What a stage would stumble over, maybe only after the teacher was paid; empty if nothing.

    Not a validator of the record: a question that is only asked has no known answer, and a judge sees what was sent.
    """
    if not problem.answers or not all(answer.strip() for answer in problem.answers):
        return "answers: at least one is needed, and none may be blank"
    if len(problem.options) > MOST_OPTIONS:
        return f"options: {len(problem.options)} of them, {MOST_OPTIONS} at most have a letter"
    return ""


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows with their number, from 1; a line that is no JSON comes as the RowError that it will raise."""
    if not path.is_file():
        raise UserError(f"no file to import at {path}")
    with explained(path), path.open("rb") as file:
        if path.suffix == ".json":
            try:
                rows = orjson.loads(file.read())
            except orjson.JSONDecodeError as error:
                raise UserError(f"{path} is not valid JSON: {error}") from None
            if not isinstance(rows, list):
                raise UserError(f"{path} must hold a list of rows; for one row per line call it .jsonl")
            yield from enumerate(rows, 1)
            return
        for number, line in enumerate(file, 1):
            try:
                yield number, orjson.loads(line)
            except orjson.JSONDecodeError as error:
                yield number, RowError("bad_json", str(error))
