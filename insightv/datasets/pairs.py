"""Which chains of one problem are set against each other for DPO, and what stands in the way of the other pairs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from insightv.config import PreferenceDataConfig
from insightv.datasets.reasoning import unusable
from insightv.datasets.rows import Candidate
from insightv.prompts import render_chain
from insightv.records import Chain
from insightv.store import derive_seed

RUN_ON = frozenset({"truncated", "repeated_step", "repetition"})
"""Defects of a chain that did not find its end."""

OBSTACLES = ("identical_text", "length_ratio", "already_used", "per_problem")
"""Why a pair is not taken, from the earliest to the latest."""


class Pair(NamedTuple):
    """Two chains of one problem, the better one first."""

    rule: str
    chosen: Candidate
    rejected: Candidate
    draw: int
    """A hash by which pairs are shuffled."""

    @property
    def run_on(self) -> bool:
        """Whether the rejected chain was truncated or repeated itself."""
        return not RUN_ON.isdisjoint(self.rejected.chain.defects)

    @property
    def sides(self) -> tuple[str, str]:
        """Ids of the chosen and the rejected chain."""
        return self.chosen.chain.id, self.rejected.chain.id


def written(chain: Chain) -> str:
    """A chain as its writer learns it: a policy's own text byte for byte, a teacher's steps rendered."""
    return chain.text if chain.mode == "single" else render_chain(chain)


def pairs_of(candidates: Sequence[Candidate], settings: PreferenceDataConfig, seed: int) -> list[tuple[Pair, str]]:
    """Every pair that the rules name, best first, with an empty string if it is taken, else the reason why not (`OBSTACLES`)."""
    pairs = []
    for rule in settings.rules:
        chosen = [candidate for candidate in candidates if not unfit(rule, candidate, settings.min_score)]
        for b in candidates:
            pairs += [Pair(rule, a, b, derive_seed(seed, a.chain.id, b.chain.id)) for a in _preferred(rule, chosen, b, settings.score_margin)]

    def preference(pair: Pair) -> tuple[bool, int, int, int, int]:
        return pair.run_on, settings.rules.index(pair.rule), -(pair.chosen.value or 0), pair.rejected.value or 0, pair.draw

    texts = {side.chain.id: written(side.chain) for pair in pairs for side in (pair.chosen, pair.rejected)}
    lengths = {name: max(1, len(text.split())) for name, text in texts.items()}
    outcomes = []
    winners: set[str] = set()
    losers: set[str] = set()
    for pair in sorted(pairs, key=preference):
        reason = _obstacle(pair, texts, lengths, winners, losers, settings)
        outcomes.append((pair, reason))
        if not reason:
            winners.add(pair.chosen.chain.id)
            losers.add(pair.rejected.chain.id)
    return outcomes


def unfit(rule: str, candidate: Candidate, min_score: int) -> str:
    """Why a rule does not let a chain be the better one: the name of a reason, empty if it does."""
    if rule != "rating":
        return unusable(candidate, min_score)
    if candidate.chain.status != "ok":
        return candidate.chain.status
    if candidate.value is None:
        return "not_scored"
    return "score_below_minimum" if candidate.value < min_score else ""


def _preferred(rule: str, chosen: Sequence[Candidate], worse: Candidate, margin: int) -> Sequence[Candidate]:
    """The good chains that a rule prefers to another."""
    if rule == "correctness":
        return chosen if worse.correct is False and worse.chain.status != "failed" else ()
    if worse.value is None or (rule == "score" and (not worse.correct or worse.chain.status != "ok")):
        return ()
    return [candidate for candidate in chosen if (candidate.value or 0) - worse.value >= margin]


def _obstacle(pair: Pair, texts: Mapping[str, str], lengths: Mapping[str, int], winners: set[str], losers: set[str], settings: PreferenceDataConfig) -> str:
    """Why a pair cannot be taken beside its problem's pairs so far; a chain loses once, and never wins here and loses there."""
    won, lost = pair.sides
    if texts[won] == texts[lost]:
        return "identical_text"
    if not pair.run_on and max(lengths[won], lengths[lost]) > settings.length_ratio * min(lengths[won], lengths[lost]):
        return "length_ratio"
    if won in losers or lost in winners or lost in losers:
        return "already_used"
    return "per_problem" if len(losers) == settings.per_problem else ""
