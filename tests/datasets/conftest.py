"""Small factories for problems, chains and judgements, and an image store with real pictures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from insightv.datasets.foreign import make_problem
from insightv.datasets.rows import Rated
from insightv.images import encode_png
from insightv.records import Chain, Problem, Score, Step, Verdict
from insightv.store import ImageStore, content_hash


@dataclass
class Pool:
    """A growing set of problems with rated chains."""

    store: ImageStore
    problems: list[Problem] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)

    @property
    def rated(self) -> Rated:
        """All of it as stages hand it over: sorted by problem, and read anew each time."""
        by_problem = attrgetter("problem_id")
        return Rated(
            lambda: iter(sorted(self.problems, key=attrgetter("id"))),
            lambda: iter(sorted(self.chains, key=by_problem)),
            lambda: iter(sorted(self.verdicts, key=by_problem)),
            lambda: iter(sorted(self.scores, key=by_problem)),
        )

    def reverse(self) -> None:
        """Everything the other way round."""
        for part in (self.problems, self.chains, self.verdicts, self.scores):
            part.reverse()

    def problem(self, **meta: Any) -> Problem:
        number = len(self.problems)
        digest = self.store.add(encode_png(Image.new("RGB", (8, 8), (number % 4, 0, 7))))
        made = make_problem(f"How many dots has picture {number}?", [str(number)], images=[digest], answer_type="number", meta=meta)
        self.problems.append(made)
        return made

    def chain(self, problem: Problem, correct: bool | None, score: int | None = None, *, text: str | None = None, **fields: Any) -> Chain:
        """A teacher's chain of two steps; with `text`, a policy's chain in which no steps could be read."""
        index = len(self.chains)
        steps = (Step(summary="Look", reasoning=f"I see {index}."), Step(summary="Count", reasoning="dot " * 12, action="summary"))
        made = Chain(
            id=content_hash([problem.id, index]),
            problem_id=problem.id,
            model="m@1",
            mode="progressive" if text is None else "single",
            index=index,
            steps=() if text is not None else steps,
            conclusion="" if text is not None else "So it is.",
            answer="" if text is not None else "5",
            text=text or "",
        ).model_copy(update=fields)
        self.chains.append(made)
        self.verdicts.append(Verdict(chain_id=made.id, problem_id=problem.id, correct=correct, by="none" if correct is None else "rule"))
        if score is not None:
            self.scores.append(Score(chain_id=made.id, problem_id=problem.id, value=score, reason="detailed"))
        return made


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def make_pool(store: ImageStore) -> Callable[[], Pool]:
    return lambda: Pool(store)


@pytest.fixture
def pool(store: ImageStore) -> Pool:
    return Pool(store)
