"""What the data sets share: rated chains joined with their problems, the form of a row, and the form of a rejection."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from insightv.config import UserError
from insightv.models.chat import Message, Text
from insightv.records import Chain, Problem, Score, Verdict
from insightv.store import content_hash

Row = dict[str, Any]
"""A training row as a JSON value.

`id`, `problem_id`, `part`; `images`, digests in the order of the `{"type": "image"}` marks in the prompt; `prompt` and
either `completion` or `chosen` and `rejected`, lists of `{"role", "content": [{"type", "text"}]}`; beside a `rejected`
`rejected_truncated`, whether it was cut at a limit of tokens, so that no end of turn belongs to it; `trace`, the chain
(`chain`, or `chosen` and `rejected`) that the row was made from, with its verdict and score.
"""

Rejection = dict[str, Any]
"""Why something did not become a row: the ids that it concerns, `reason` (a fixed name) and sometimes `detail`."""

Made = tuple[Sequence[Row], Sequence[Rejection]]
"""What came of one problem: its rows, and why the rest is none. Builders yield these, so that no set need fit into memory."""

J = TypeVar("J", Chain, Verdict, Score)


class Candidate(NamedTuple):
    """A chain beside its problem and its latest judgements."""

    problem: Problem
    chain: Chain
    verdict: Verdict | None
    score: Score | None

    @property
    def correct(self) -> bool | None:
        """The verdict; None if the chain was not judged."""
        return self.verdict.correct if self.verdict else None

    @property
    def value(self) -> int | None:
        """The path score; None if the chain was not scored."""
        return self.score.value if self.score else None

    @property
    def fault(self) -> str:
        """What is wrong with the chain itself, for the detail of a rejection; empty if nothing."""
        if self.chain.status == "failed":
            return self.chain.reason
        return "; ".join(filter(None, [", ".join(self.chain.defects), self.chain.reason]))

    @property
    def trace(self) -> dict[str, Any]:
        """Whence a row comes: chain, model, how it ended, verdict and score."""
        verdict, score = self.verdict, self.score
        return {
            "chain_id": self.chain.id,
            "model": self.chain.model,
            "finish": self.chain.finish,
            "verdict": {"correct": verdict.correct, "by": verdict.by, "reason": verdict.reason} if verdict else None,
            "score": {"value": score.value, "reason": score.reason, "position": score.position} if score else None,
        }

    def reject(self, reason: str, detail: str = "") -> Rejection:
        """This chain's rejection."""
        rejection = {"problem_id": self.problem.id, "chain_id": self.chain.id, "reason": reason}
        return rejection | ({"detail": detail} if detail else {})


@dataclass(frozen=True)
class Rated:
    """Problems with their chains and what was judged of them, joined anew by every iteration; one problem's are held at a time.

    Every field begins to read its records, or structs of their fields (`lean`); all are sorted by problem (`UserError` where they are not).
    """

    problems: Callable[[], Iterator[Problem]]
    chains: Callable[[], Iterator[Chain]]
    verdicts: Callable[[], Iterator[Verdict]]
    scores: Callable[[], Iterator[Score]]

    def __iter__(self) -> Iterator[tuple[Problem, list[Candidate]]]:
        """Every problem once, with its chains sorted by index; of several judgements the last counts."""
        chains_of, verdicts_of, scores_of = _following(self.chains()), _following(self.verdicts()), _following(self.scores())
        last = ""
        for problem in self.problems():
            if problem.id <= last:
                raise UserError(f"problem {problem.id} does not stand behind {last}: problems must be sorted by id")
            last = problem.id
            verdicts = {verdict.chain_id: verdict for verdict in verdicts_of(problem.id)}
            scores = {score.chain_id: score for score in scores_of(problem.id)}
            chains = {chain.id: chain for chain in chains_of(problem.id)}.values()
            ordered = sorted(chains, key=lambda chain: (chain.index, chain.id))
            yield problem, [Candidate(problem, chain, verdicts.get(chain.id), scores.get(chain.id)) for chain in ordered]


def _following(records: Iterator[J]) -> Callable[[str], list[J]]:
    """Gives the records of a problem, if asked in the order of the problems' ids; those of problems that nobody asks for are passed over."""
    waiting = next(records, None)

    def of(problem_id: str) -> list[J]:
        nonlocal waiting
        found = []
        while waiting is not None and waiting.problem_id <= problem_id:
            if waiting.problem_id == problem_id:
                found.append(waiting)
            before, waiting = waiting.problem_id, next(records, None)
            if waiting is not None and waiting.problem_id < before:
                kind = type(waiting).__name__.lower()
                raise UserError(f"a {kind} of problem {waiting.problem_id} stands behind one of {before}: {kind}s must be sorted by problem; make them again")
        return found

    return of


def conversation(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages in TRL's conversational form, and the digests of their images in order."""
    turns = []
    digests = []
    for message in messages:
        content: list[dict[str, str]] = []
        for part in message.parts:
            if isinstance(part, Text):
                content.append({"type": "text", "text": part.text})
            else:
                content.append({"type": "image"})
                digests.append(part.digest)
        turns.append({"role": message.role, "content": content})
    return turns, digests


def row(part: str, problem: Problem, prompt: Sequence[Message], completions: Mapping[str, Sequence[Message]], chains: Mapping[str, Candidate]) -> Row:
    """A row of `part`: `completions` holds `completion`, or `chosen` and `rejected`; `chains` says what it was made from.

    The id is a hash of part, problem and chains, so sorting by id mixes the parts and never depends on the input's order.
    """
    turns, images = conversation(prompt)
    answers = {name: conversation(messages)[0] for name, messages in completions.items()}
    identity = content_hash([part, problem.id, {name: candidate.chain.id for name, candidate in chains.items()}])
    trace = {name: candidate.trace for name, candidate in chains.items()}
    return {"id": identity, "problem_id": problem.id, "part": part, "images": images, "prompt": turns, **answers, "trace": trace}
