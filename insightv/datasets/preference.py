"""Preference pairs for DPO (Insight-V, section 3.4): a policy's better chain against a worse one of the same problem, by named rules.

`correctness` sets a correct chain with at least `min_score` against one with a wrong answer; `score` sets it against a correct
one scored at least `score_margin` lower; `rating` does so whatever the answers are, and looks at no verdict. Two lengths
(in words) differ at most by `length_ratio`; a run-on chain (truncated or repeating) is exempt, since its length is its
fault, and is capped at `max_truncated` of the pairs instead.

Everything is read twice: once for a few bytes of every chain and pair, by which the choice is made, and once for the rows.
"""

import struct
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insightv.config import PreferenceDataConfig, PromptsConfig
from insightv.datasets.pairs import OBSTACLES, pairs_of, written
from insightv.datasets.reasoning import unusable
from insightv.datasets.rows import Candidate, Made, Rated, Rejection, Row, row
from insightv.datasets.shares import divide
from insightv.models.chat import text_message
from insightv.prompts import reasoner_messages

_MET = ("", *OBSTACLES, "taken")
"""What is known of a chain after the first reading: it can stand in no pair, or the latest obstacle that it met, or a pair of it was taken."""

_PAIR = struct.Struct("<5IH2B")
_FIELDS = np.dtype([*((name, "<u4") for name in ("problem", "chosen", "rejected", "family", "draw")), ("rank", "<u2"), ("rule", "u1"), ("run_on", "u1")])
"""A pair that was taken: places of its problem and chains in the order of reading, of its family and rule, and what it is drawn by."""

_NONE = (-1, 0, 0, 0)
"""Behind the last pair: of no problem."""


@dataclass(frozen=True)
class _Keys:
    """By what pairs are chosen: one byte of each chain and 24 of each pair."""

    met: "array[int]" = field(default_factory=lambda: array("B"))
    """Places in `_MET`, of all chains."""
    packed: bytearray = field(default_factory=bytearray)
    families: dict[str, int] = field(default_factory=dict)
    """Name -> number."""

    @property
    def pairs(self) -> NDArray[Any]:
        """All pairs that were taken."""
        return np.frombuffer(self.packed, dtype=_FIELDS)


def build(rated: Rated, settings: PreferenceDataConfig, prompts: PromptsConfig, *, seed: int) -> tuple[Iterator[Made], dict[str, Any]]:
    """Problem by problem, pairs as rows prompt, chosen, rejected, and why every other chain is in none; and the exact counts.

    Where `max_pairs` forces a choice it is made in equal numbers per `meta["family"]`, as far as a family reaches.
    """
    keys = _look(rated, settings, seed)
    chosen = _choose(keys, settings)
    return _made(rated, keys.met, keys.pairs[chosen], settings, prompts), _summary(keys, chosen, settings)


def _look(rated: Rated, settings: PreferenceDataConfig, seed: int) -> _Keys:
    keys = _Keys()
    for number, (problem, candidates) in enumerate(rated):
        first = len(keys.met)
        places = {candidate.chain.id: place for place, candidate in enumerate(candidates, first)}
        family = keys.families.setdefault(str(problem.meta.get("family", "")), len(keys.families))
        keys.met.extend([0] * len(candidates))
        before: Counter[bool] = Counter()
        for pair, reason in pairs_of(candidates, settings, seed):
            chosen, rejected = (places[side] for side in pair.sides)
            for place in (chosen, rejected):
                keys.met[place] = max(keys.met[place], _MET.index(reason or "taken"))
            if not reason:
                run_on, rule = pair.run_on, settings.rules.index(pair.rule)
                keys.packed.extend(_PAIR.pack(number, chosen, rejected, family, pair.draw, before[run_on], rule, run_on))
                before[run_on] += 1
    return keys


def _choose(keys: _Keys, settings: PreferenceDataConfig) -> NDArray[np.bool_]:
    """Apply `max_truncated` and `max_pairs`: run-on pairs in their natural share up to the cap, all balanced by family."""
    pairs = keys.pairs
    run_ons, others = np.flatnonzero(pairs["run_on"]), np.flatnonzero(pairs["run_on"] == 0)
    total = len(pairs) if settings.max_pairs is None else min(settings.max_pairs, len(pairs))
    share = min(settings.max_truncated, len(run_ons) / max(1, len(pairs)))
    count = min(len(others), total - int(share * total + 1e-9))
    most = total - count if share == 1 else int(share / (1 - share) * count + 1e-9)
    chosen = np.zeros(len(pairs), dtype=np.bool_)
    chosen[_balanced(pairs, others, count, keys.families)] = True
    chosen[_balanced(pairs, run_ons, min(total - count, most), keys.families)] = True
    return chosen


def _balanced(pairs: NDArray[Any], places: NDArray[Any], total: int, families: Mapping[str, int]) -> NDArray[Any]:
    """As equal numbers per family as can be, shuffled by hash, every problem's first pair before any problem's second."""
    group = pairs[places]
    order: NDArray[Any] = places[np.lexsort((group["draw"], group["rank"], group["family"]))]
    sizes = np.bincount(group["family"], minlength=len(families))
    starts = np.cumsum(sizes) - sizes
    reach = {name: int(sizes[families[name]]) for name in sorted(families) if sizes[families[name]]}
    counts = divide(total, dict.fromkeys(reach, 1.0), reach)
    parts = [order[starts[families[name]] :][: counts[name]] for name in reach]
    return np.concatenate([order[:0], *parts])


def _made(rated: Rated, met: Sequence[int], kept: NDArray[Any], settings: PreferenceDataConfig, prompts: PromptsConfig) -> Iterator[Made]:
    """The second reading."""
    used = np.zeros(len(met), dtype=np.uint8)
    used[kept["chosen"]] = used[kept["rejected"]] = 1
    known = iter(zip(met, used.tobytes(), strict=True))
    # As Python's numbers, a part at a time.
    waiting = chain.from_iterable(kept[["problem", "rule", "chosen", "rejected"]][start : start + 1024].tolist() for start in range(0, len(kept), 1024))
    of, rule, chosen, rejected = next(waiting, _NONE)
    first = 0
    for number, (problem, candidates) in enumerate(rated):
        rows: list[Row] = []
        while of == number:
            rows.append(_row(settings.rules[rule], candidates[chosen - first], candidates[rejected - first], prompts))
            of, rule, chosen, rejected = next(waiting, _NONE)
        rejections: list[Rejection] = [] if candidates else [{"problem_id": problem.id, "reason": "no_chain"}]
        for candidate, (code, paired) in zip(candidates, known, strict=False):
            if not paired:
                rejections.append(candidate.reject(_why(candidate, _MET[code], settings), candidate.fault))
        first += len(candidates)
        yield rows, rejections


def _why(candidate: Candidate, met: str, settings: PreferenceDataConfig) -> str:
    """Why a chain stands in no pair; one that met several obstacles is told the latest."""
    rated = "rating" in settings.rules
    if candidate.chain.status == "failed" or (candidate.correct is None and not rated):
        return "failed" if candidate.chain.status == "failed" else "not_judged"
    if met == "taken":
        return "max_pairs" if settings.max_pairs is not None else "max_truncated"
    if met:
        return met
    if rated:
        return "not_scored" if candidate.value is None else "no_counterpart"
    reason = unusable(candidate, settings.min_score)
    return reason if candidate.correct and reason else "no_counterpart"


def _row(rule: str, chosen: Candidate, rejected: Candidate, prompts: PromptsConfig) -> Row:
    sides = {"chosen": chosen, "rejected": rejected}
    answers = {name: [text_message("assistant", written(side.chain))] for name, side in sides.items()}
    made = row(rule, chosen.problem, reasoner_messages(chosen.problem, prompts), answers, sides)
    # A chosen chain is never cut: the defect `truncated` makes it unusable.
    return made | {"rejected_truncated": rejected.chain.finish == "length"}


def _summary(keys: _Keys, chosen: NDArray[np.bool_], settings: PreferenceDataConfig) -> dict[str, Any]:
    kept = keys.pairs[chosen]
    return {
        "rows": len(kept),
        "available": len(chosen),
        "rules": _counted(kept["rule"], settings.rules),
        "families": _counted(kept["family"], tuple(keys.families)),
        "run_on": int(kept["run_on"].sum()),
        "problems": len(np.unique(kept["problem"])),
    }


def _counted(places: NDArray[Any], names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(places, minlength=len(names))
    return {name: int(number) for name, number in sorted(zip(names, counts, strict=True)) if number}
