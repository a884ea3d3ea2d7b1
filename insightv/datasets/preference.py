"""Preference pairs for DPO (Insight-V, section 3.4): a policy's better chain against a worse one of the same problem, by named rules.

`correctness` sets a correct chain with at least `min_score` against one with a wrong answer; `score` sets it against a correct
one scored at least `score_margin` lower. Two lengths (in words) differ at most by `length_ratio`; a run-on chain (truncated
or repeating) is exempt, since its length is its fault, and is capped at `max_truncated` of the pairs instead.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from insightv.config import PreferenceDataConfig, PromptsConfig
from insightv.datasets.reasoning import unusable
from insightv.datasets.rows import Candidate, Rated, Rejection, Row, join, row
from insightv.datasets.shares import divide
from insightv.models.chat import text_message
from insightv.prompts import reasoner_messages, render_chain
from insightv.records import Chain, Problem, Score, Verdict
from insightv.store import derive_seed

RUN_ON = frozenset({"truncated", "repeated_step", "repetition"})
"""Defects of a chain that did not find its end."""

REASONS = ("no_counterpart", "identical_text", "length_ratio", "already_used", "per_problem", "max_truncated", "max_pairs")
"""Why a usable chain stands in no pair, from the earliest obstacle to the latest; a chain is told the latest that it met."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two chains of one problem, the better one first."""

    rule: str
    chosen: Candidate
    rejected: Candidate

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


def build(
    problems: Sequence[Problem],
    chains: Sequence[Chain],
    verdicts: Sequence[Verdict],
    scores: Sequence[Score],
    settings: PreferenceDataConfig,
    prompts: PromptsConfig,
    *,
    seed: int,
) -> tuple[list[Row], list[Rejection], dict[str, Any]]:
    """Pairs as rows prompt, chosen, rejected; why every other chain is in none; and the exact counts.

    Where `max_pairs` forces a choice it is made in equal numbers per `meta["family"]`, as far as a family reaches.
    """
    pairs: list[Pair] = []
    rejections: list[Rejection] = []
    met: dict[str, set[str]] = {}
    unpaired: dict[str, Candidate] = {}
    for problem, candidates in join(Rated(problems, chains, verdicts, scores)):
        if not candidates:
            rejections.append({"problem_id": problem.id, "reason": "no_chain"})
        unpaired |= {candidate.chain.id: candidate for candidate in candidates}
        for pair, reason in _of_problem(candidates, settings, seed):
            if not reason:
                pairs.append(pair)
            for side in pair.sides:
                met.setdefault(side, set()).add(reason)
    kept = _choose(pairs, settings, seed)
    for pair in kept:
        for side in pair.sides:
            unpaired.pop(side, None)
    for candidate in unpaired.values():
        reason = _why(candidate, met.get(candidate.chain.id, set()), settings)
        rejections.append(candidate.reject(reason, candidate.fault))
    rows = sorted((_row(pair, prompts) for pair in kept), key=lambda row: str(row["id"]))
    return rows, rejections, _summary(kept, pairs)


def _of_problem(candidates: Sequence[Candidate], settings: PreferenceDataConfig, seed: int) -> list[tuple[Pair, str]]:
    """Every pair that the rules name, best first, with an empty string if it is taken, else the reason why not."""
    chosen = [candidate for candidate in candidates if not unusable(candidate, settings.min_score)]
    pairs = [Pair(rule, a, b) for rule in settings.rules for a in chosen for b in candidates if _better(rule, a, b, settings)]

    def preference(pair: Pair) -> tuple[Any, ...]:
        return pair.run_on, settings.rules.index(pair.rule), -(pair.chosen.value or 0), pair.rejected.value or 0, derive_seed(seed, *pair.sides)

    outcomes = []
    winners: set[str] = set()
    losers: set[str] = set()
    for pair in sorted(pairs, key=preference):
        reason = _obstacle(pair, winners, losers, settings)
        outcomes.append((pair, reason))
        if not reason:
            winners.add(pair.chosen.chain.id)
            losers.add(pair.rejected.chain.id)
    return outcomes


def _better(rule: str, a: Candidate, b: Candidate, settings: PreferenceDataConfig) -> bool:
    """Whether a rule prefers the good chain `a` to `b`."""
    if rule == "correctness":
        return b.chain.status != "failed" and b.correct is False
    return b.chain.status == "ok" and b.correct is True and b.value is not None and (a.value or 0) - b.value >= settings.score_margin


def _obstacle(pair: Pair, winners: set[str], losers: set[str], settings: PreferenceDataConfig) -> str:
    """Why a pair cannot be taken beside its problem's pairs so far; a chain loses once, and never wins here and loses there."""
    texts = [written(side.chain) for side in (pair.chosen, pair.rejected)]
    lengths = [max(1, len(text.split())) for text in texts]
    won, lost = pair.sides
    if texts[0] == texts[1]:
        return "identical_text"
    if not pair.run_on and max(lengths) > settings.length_ratio * min(lengths):
        return "length_ratio"
    if won in losers or lost in winners or lost in losers:
        return "already_used"
    return "per_problem" if len(losers) == settings.per_problem else ""


def _choose(pairs: Sequence[Pair], settings: PreferenceDataConfig, seed: int) -> list[Pair]:
    """Apply `max_truncated` and `max_pairs`: run-on pairs in their natural share up to the cap, all balanced by family."""
    run_ons = [pair for pair in pairs if pair.run_on]
    others = [pair for pair in pairs if not pair.run_on]
    total = len(pairs) if settings.max_pairs is None else min(settings.max_pairs, len(pairs))
    share = min(settings.max_truncated, len(run_ons) / max(1, len(pairs)))
    count = min(len(others), total - int(share * total + 1e-9))
    most = total - count if share == 1 else int(share / (1 - share) * count + 1e-9)
    return _balanced(others, count, seed) + _balanced(run_ons, min(total - count, most), seed)


def _balanced(pairs: Sequence[Pair], total: int, seed: int) -> list[Pair]:
    """As equal numbers per family as can be, shuffled by hash, every problem's first pair before any problem's second."""
    families: dict[str, list[tuple[int, int, Pair]]] = {}
    rank: Counter[str] = Counter()
    for pair in pairs:
        problem = pair.chosen.problem
        families.setdefault(_family(pair), []).append((rank[problem.id], derive_seed(seed, *pair.sides), pair))
        rank[problem.id] += 1
    names = sorted(families)
    counts = divide(total, dict.fromkeys(names, 1.0), {name: len(families[name]) for name in names})
    return [pair for name in names for *_, pair in sorted(families[name], key=lambda item: item[:2])[: counts[name]]]


def _why(candidate: Candidate, met: set[str], settings: PreferenceDataConfig) -> str:
    """Why a chain stands in no pair."""
    if candidate.chain.status == "failed" or candidate.correct is None:
        return "failed" if candidate.chain.status == "failed" else "not_judged"
    if "" in met:
        return "max_pairs" if settings.max_pairs is not None else "max_truncated"
    if met:
        return max(met, key=REASONS.index)
    reason = unusable(candidate, settings.min_score)
    return reason if candidate.correct and reason else "no_counterpart"


def _row(pair: Pair, prompts: PromptsConfig) -> Row:
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    answers = {name: [text_message("assistant", written(side.chain))] for name, side in sides.items()}
    made = row(pair.rule, pair.chosen.problem, reasoner_messages(pair.chosen.problem, prompts), answers, sides)
    # A chosen chain is never cut: the defect `truncated` makes it unusable.
    return made | {"rejected_truncated": pair.rejected.chain.finish == "length"}


def _family(pair: Pair) -> str:
    return str(pair.chosen.problem.meta.get("family", ""))


def _summary(kept: Sequence[Pair], pairs: Sequence[Pair]) -> dict[str, Any]:
    return {
        "rows": len(kept),
        "available": len(pairs),
        "rules": dict(sorted(Counter(pair.rule for pair in kept).items())),
        "families": dict(sorted(Counter(_family(pair) for pair in kept).items())),
        "run_on": sum(pair.run_on for pair in kept),
        "problems": len({pair.chosen.problem.id for pair in kept}),
    }
