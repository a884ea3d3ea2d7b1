"""Summary set (Insight-V, section 3.3): four parts in set proportions, so that the agent learns to judge, not to copy.

`optimal` High paths of the teacher; `flawed` paths of the teacher, in equal numbers Mid, Low and with a wrong answer; `own`
chains of the trained reasoner, right, wrong and broken in their natural mixture; `plain` questions without a chain.
The target is the ground truth always, and a chain stands in the prompt exactly as the agent meets it when it answers.

Everything is read twice: once for a few bytes of every chain, by which the choice is made, and once for the rows.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insightv.chain_text import process_text
from insightv.config import PromptsConfig, SummaryDataConfig
from insightv.datasets.reasoning import plain_row
from insightv.datasets.rows import Candidate, Made, Rated, Rejection, Row, row
from insightv.datasets.shares import divide
from insightv.models.chat import text_message
from insightv.prompts import summarizer_messages
from insightv.records import Problem
from insightv.store import derive_seed

FLAWED = ("mid", "low", "wrong")
OWN = ("right", "wrong", "broken")

_KINDS = ("optimal", *FLAWED, "right", "broken", "failed", "defect", "not_judged", "not_scored", "duplicate_text")
_TEACHER = {"optimal": "optimal"} | dict.fromkeys(FLAWED, "flawed")
_MODEL = dict.fromkeys(OWN, "own")
"""Kind of a chain, the teacher's or a model's own, -> its part; a kind without one is the reason why a chain is in none."""


@dataclass(frozen=True)
class _Keys:
    """By what chains are chosen, in the order in which they are read: seven bytes each."""

    kinds: "array[int]" = field(default_factory=lambda: array("B"))
    """Places in `_KINDS`."""
    ranks: "array[int]" = field(default_factory=lambda: array("H"))
    """Which of its problem's chains a chain is among those that it is shuffled with."""
    draws: "array[int]" = field(default_factory=lambda: array("I"))


def build(
    teacher: Rated, own: Rated, plain: Callable[[], Iterator[Problem]], settings: SummaryDataConfig, prompts: PromptsConfig, *, seed: int
) -> tuple[Iterator[Made], dict[str, Any]]:
    """Rows of the four parts and rejections, problem by problem, and a summary with the exact counts.

    `own` are chains of the trained reasoner on problems that it was not trained on; they need verdicts, no scores.
    A part that falls short of its share is topped up from the others when `size` is set, and limits the whole set when
    it is not; a part that is empty gives its share to the others. The summary says so.
    """
    strata, chains = _look(teacher, lambda candidate: _kind(candidate, settings), seed), _look(own, _own_kind, seed, "own")
    draws = np.array([derive_seed(seed, "plain", problem.id) for problem in plain()], dtype=np.uint32)
    pools = {
        "optimal": _spread(strata, "optimal"),
        "flawed": _dealt([_spread(strata, kind) for kind in FLAWED]),
        "own": _spread(chains, *OWN),
        "plain": np.argsort(draws, kind="stable"),
    }
    available = {name: len(pool) for name, pool in pools.items()}
    weights = {name: getattr(settings, name) for name in available}
    total = settings.size if settings.size is not None else _limit(weights, available)
    counts = divide(total, weights, available)
    taken = {name: pool[: counts[name]] for name, pool in pools.items()}
    mixture = {"flawed": _mixture(strata, taken["flawed"]), "own": _mixture(chains, taken["own"])}

    def made() -> Iterator[Made]:
        marks = _marks(len(strata.kinds), taken["optimal"], taken["flawed"])
        yield from _made(teacher, _TEACHER, zip(strata.kinds, marks, strict=True), prompts, lambda candidate: candidate.fault)
        marks = _marks(len(chains.kinds), taken["own"])
        yield from _made(own, _MODEL, zip(chains.kinds, marks, strict=True), prompts, lambda candidate: candidate.chain.reason)
        for problem, chosen in zip(plain(), _marks(len(draws), taken["plain"]), strict=True):
            yield [plain_row(problem, prompts)] if chosen else [], []

    return made(), _summary(settings, total, weights, available, counts, mixture)


def _look(rated: Rated, kind_of: Callable[[Candidate], str], seed: int, together: str = "") -> _Keys:
    """What is chosen by; chains are shuffled with those of their kind, or all `together` under a name."""
    keys = _Keys()
    for _, candidates in rated:
        kinds = ["duplicate_text" if again else kind_of(candidate) for candidate, again in zip(candidates, _again(candidates), strict=True)]
        draws = [derive_seed(seed, together or kind, candidate.chain.id) for candidate, kind in zip(candidates, kinds, strict=True)]
        ranks = [0] * len(candidates)
        before: Counter[str] = Counter()
        for place in sorted(range(len(candidates)), key=draws.__getitem__):
            group = together if together and kinds[place] in _MODEL else kinds[place]
            ranks[place] = before[group]
            before[group] += 1
        keys.kinds.extend(map(_KINDS.index, kinds))
        keys.ranks.extend(ranks)
        keys.draws.extend(draws)
    return keys


def _again(candidates: Sequence[Candidate]) -> Iterator[bool]:
    """Of each chain of a problem, whether one before it says the same."""
    seen: set[str] = set()
    for candidate in candidates:
        text = process_text(candidate.chain)
        yield candidate.chain.status != "failed" and text in seen
        seen.add(text)


def _kind(candidate: Candidate, settings: SummaryDataConfig) -> str:
    """The stratum of a teacher's chain, or the reason why it has none."""
    if candidate.chain.status != "ok":
        return candidate.chain.status
    if candidate.correct is None:
        return "not_judged"
    if not candidate.correct:
        return "wrong"
    if candidate.value is None:
        return "not_scored"
    return "optimal" if candidate.value >= settings.high else "low" if candidate.value < settings.low else "mid"


def _own_kind(candidate: Candidate) -> str:
    """What the summary agent meets: a right, a wrong or a broken chain; else the reason why it cannot be used."""
    if candidate.chain.status == "failed":
        return "failed"
    if candidate.chain.status == "defect":
        # A truncated or looping chain is what the agent will meet too, and the ground truth needs no verdict.
        return "broken"
    if candidate.correct is None:
        return "not_judged"
    return "right" if candidate.correct else "wrong"


def _spread(keys: _Keys, *kinds: str) -> NDArray[Any]:
    """Places of the chains of some kinds, shuffled by hash, every problem's first chain before any problem's second."""
    places = np.flatnonzero(np.isin(np.asarray(keys.kinds), [_KINDS.index(kind) for kind in kinds]))
    order: NDArray[Any] = places[np.lexsort((np.asarray(keys.draws)[places], np.asarray(keys.ranks)[places]))]
    return order


def _dealt(pools: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The strata dealt by turns, so that any beginning of the list holds equal numbers as far as they reach."""
    turns = np.concatenate([np.arange(len(pool)) for pool in pools])
    order: NDArray[Any] = np.concatenate(pools)[np.argsort(turns, kind="stable")]
    return order


def _limit(weights: Mapping[str, float], available: Mapping[str, int]) -> int:
    """Rows in all when the scarcest part that has any sets the size."""
    present = [name for name, weight in weights.items() if weight > 0 and available[name]]
    whole = sum(weights[name] for name in present)
    return min((int(available[name] * whole / weights[name] + 1e-9) for name in present), default=0)


def _marks(count: int, *taken: NDArray[Any]) -> bytes:
    """Of each place, whether it was taken."""
    marks = np.zeros(count, dtype=np.uint8)
    marks[np.concatenate(taken)] = 1
    return marks.tobytes()


def _mixture(keys: _Keys, taken: NDArray[Any]) -> dict[str, int]:
    counts = np.bincount(np.asarray(keys.kinds)[taken], minlength=len(_KINDS))
    return {kind: int(count) for kind, count in zip(_KINDS, counts, strict=True) if count}


def _made(
    rated: Rated, parts: Mapping[str, str], known: Iterator[tuple[int, int]], prompts: PromptsConfig, fault: Callable[[Candidate], str]
) -> Iterator[Made]:
    """The second reading; `known` tells each chain's kind and whether it was taken."""
    for _, candidates in rated:
        rows: list[Row] = []
        rejections: list[Rejection] = []
        for candidate, (kind, taken) in zip(candidates, known, strict=False):
            reason = _KINDS[kind]
            if reason in parts and taken:
                rows.append(_row(parts[reason], candidate, prompts))
            elif reason in parts:
                rejections.append(candidate.reject("not_needed", parts[reason]))
            else:
                rejections.append(candidate.reject(reason, "" if reason == "duplicate_text" else fault(candidate)))
        yield rows, rejections


def _row(part: str, candidate: Candidate, prompts: PromptsConfig) -> Row:
    prompt = summarizer_messages(candidate.problem, process_text(candidate.chain), prompts)
    return row(part, candidate.problem, prompt, {"completion": [text_message("assistant", candidate.problem.answers[0])]}, {"chain": candidate})


def _summary(
    settings: SummaryDataConfig,
    total: int,
    weights: Mapping[str, float],
    available: Mapping[str, int],
    counts: Mapping[str, int],
    mixture: Mapping[str, Any],
) -> dict[str, Any]:
    wanted = divide(total, weights, dict.fromkeys(weights, total))
    notes = [f"{name}: {counts[name]} rows for {wanted[name]} wanted" for name in counts if counts[name] < wanted[name]]
    if sum(counts.values()) < total:
        notes.append(f"{sum(counts.values())} rows for {total} wanted: everything is used up")
    if settings.size is None:
        scarce = [name for name in counts if weights[name] > 0 and 0 < available[name] == counts[name]]
        notes += [f"{name} limits the set" for name in scarce]
    parts = {name: {"available": available[name], "wanted": wanted[name], "rows": counts[name]} for name in counts}
    return {"rows": sum(counts.values()), "parts": parts, **mixture, "notes": notes}
