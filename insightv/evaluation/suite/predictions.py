"""What systems answered to the items of benchmarks: lines that are only ever added, read back as what stands.

RUN/benchmarks/NAME/items/SHARD.jsonl              what was asked, with the columns that rules of scoring need
RUN/benchmarks/NAME/predictions/ROW/SHARD.jsonl    what a system answered
"""

import errno
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import Field, ValidationError

from insightv.config import UserError
from insightv.files import explained, replacing
from insightv.records import Problem, Record, Usage
from insightv.store import content_hash, read_records, write_records

log = logging.getLogger(__name__)


class Prediction(Record):
    """A system's answer to one item, before anybody scored it."""

    benchmark: str
    item: str
    """The item's index in the benchmark."""
    sample: int = 0
    """Which of several answers to the same item."""
    prompt: str
    """Hash of what was asked: the problem's text and images, and the templates of the prompts."""
    model: str
    """Hash of who was asked and how: the row's models and their revisions, its way to solve a problem, sampling and further request fields."""
    row: str
    seed: int
    reasoning: str = ""
    """The chain, or what came before the answer."""
    content: str = ""
    """The answer as it is scored."""
    finish: Literal["stop", "length"] = "stop"
    """How the answer ended."""
    chain_finish: Literal["stop", "length"] = "stop"
    """How the chain ended, where a request of its own wrote it."""
    status: Literal["ok", "failed"] = "ok"
    """A failed one is owed: it is asked again, and never scored."""
    reason: str = ""
    """Why it failed."""
    usage: Usage = Usage()
    """Tokens of all its requests."""
    seconds: float = 0.0
    """Of all its requests, one after the other, waiting for a place apart; an answer from this process's own models has the time of its batch."""


class Asking(Record):
    """Who answers a benchmark's items, and how."""

    row: str
    model: str
    """As in `Prediction`."""
    prompts: str
    """Hash of the templates."""
    samples: int = 1
    """Answers that each item is to have."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """What `model` is the hash of, to be read."""


def question_hash(problem: Problem) -> str:
    """What makes it another question: its words and pictures, not what is accepted as their answer."""
    return content_hash([problem.question, problem.images])


def prompt_hash(problem: Problem, prompts: str) -> str:
    """What makes it another prompt: the question, and the hash of the templates."""
    return content_hash([question_hash(problem), prompts])[:16]


def folder(run: Path, benchmark: str, row: str) -> Path:
    """Where a system's predictions lie."""
    return run / "benchmarks" / benchmark / "predictions" / row


def rows(run: Path, benchmark: str) -> list[str]:
    """The systems that have predictions, by name."""
    return sorted(path.name for path in (run / "benchmarks" / benchmark / "predictions").glob("*") if path.is_dir())


def benchmarks(run: Path) -> list[str]:
    """The benchmarks that have predictions, by name."""
    found = sorted({path.parents[2].name for path in (run / "benchmarks").glob("*/predictions/*/asked.json")})
    if not found:
        raise UserError(f"{run} holds no predictions; make some with `insightv evaluate generate`")
    return found


def read(place: Path) -> Iterator[Prediction]:
    """Every prediction of a folder in the order of files and lines; a line that a kill left half-written is passed over."""
    for path in sorted(place.glob("*.jsonl")):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield Prediction.model_validate_json(line)
                    except ValidationError:
                        log.warning("%s:%d: passed over what is no whole prediction", path, number)


def save_asking(place: Path, asking: Asking) -> None:
    """Write down who answers from now on."""
    with replacing(place / "asked.json") as file:
        file.write(asking.model_dump_json(indent=2).encode())


def asking_of(place: Path) -> Asking:
    """Who was asked last."""
    try:
        return Asking.model_validate_json((place / "asked.json").read_bytes())
    except FileNotFoundError:
        raise UserError(f"there are no predictions at {place}; make some with `insightv evaluate generate`") from None
    except ValidationError:
        raise UserError(f"{place / 'asked.json'} is damaged; repeat `insightv evaluate generate`, which asks nothing twice") from None


def standing(place: Path, asking: Asking, wanted: Mapping[str, Problem]) -> dict[tuple[str, int], Prediction]:
    """By item and sample what this asking has brought to these items; what other models, prompts or questions brought is not mixed with it.

    A good prediction is never undone by a failure.
    """
    prompts = {index: prompt_hash(problem, asking.prompts) for index, problem in wanted.items()}
    found: dict[tuple[str, int], Prediction] = {}
    for prediction in read(place):
        key = prediction.item, prediction.sample
        of_this = prediction.model == asking.model and prediction.prompt == prompts.get(prediction.item) and prediction.sample < asking.samples
        if of_this and (prediction.status == "ok" or key not in found):
            found[key] = prediction
    return found


@contextmanager
def adding(path: Path) -> Iterator["Lines"]:
    """A file to which predictions are added, for the block."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: what was added is in the file, whenever the process ends.
        file = path.open("ab", buffering=0)
    with file:
        yield Lines(file, path)


class Lines:
    """Adds predictions to a file, a line each by one write."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path

    def add(self, prediction: Prediction) -> None:
        """Write one down; a full disk is a `UserError`."""
        # The leading line break ends a line that a kill or a full disk left half-written.
        line = b"\n" + prediction.model_dump_json().encode()
        with explained(self._path):
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, "no space left", str(self._path))


def write_items(run: Path, benchmark: str, shard: str, problems: Iterable[Problem]) -> None:
    """Write down what a shard asks; what was asked in another number of shards is no more."""
    place = run / "benchmarks" / benchmark / "items"
    write_records(place / f"{shard}.jsonl", problems)
    for path in place.glob("*.jsonl"):
        if path.stem.rpartition("-")[2] != shard.rpartition("-")[2]:
            path.unlink(missing_ok=True)


def items(run: Path, benchmark: str) -> dict[str, Problem]:
    """What was asked, by index, over all shards; an index that stands for two questions is a `UserError`."""
    found: dict[str, Problem] = {}
    for path in sorted((run / "benchmarks" / benchmark / "items").glob("*.jsonl")):
        for problem in read_records(path, Problem):
            if found.setdefault(str(problem.meta["index"]), problem).id != problem.id:
                raise UserError(f"{benchmark}: two items have the index {problem.meta['index']}, in two shards of {path.parent}")
    return found
