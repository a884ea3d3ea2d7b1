"""Multi-granularity assessment (Insight-V, section 3.2): answer filtering by rules and a judge, then path scores given in one request."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from random import Random

from scipy.stats import spearmanr

from insightv.answers import settle
from insightv.config import AssessConfig
from insightv.generation.ask import ask, attempts
from insightv.models.chat import Chat
from insightv.prompts import SCORES_SCHEMA, VERDICT_SCHEMA, judge_messages, parse_scores, parse_verdict, scorer_messages
from insightv.records import Chain, Problem, Score, Verdict
from insightv.replies import DEFECTS, MENDED
from insightv.store import derive_seed


async def verdict(problem: Problem, chain: Chain, judge: Chat | None, settings: AssessConfig, seed: int) -> Verdict:
    """Whether the chain's answer agrees with the ground truth: by rules first, then by the judge.

    None where the judge failed or never kept to its format, and for a failed chain: that is never the same as wrong.
    With `rules_only`, or without a judge, what the rules leave open counts as wrong.
    """
    if chain.status == "failed":
        return Verdict(chain_id=chain.id, problem_id=problem.id, correct=None, by="none", reason=f"the chain failed: {chain.reason}")
    settled = settle(chain.answer, problem)
    if settled is not None:
        return Verdict(chain_id=chain.id, problem_id=problem.id, correct=settled, by="rule", reason="" if chain.answer else "no answer")
    if judge is None or settings.rules_only:
        return Verdict(chain_id=chain.id, problem_id=problem.id, correct=False, by="rule", reason="no rule finds it correct")

    def read(text: str) -> tuple[tuple[bool | None, str], tuple[str, ...]]:
        right, reason, found = parse_verdict(text)
        return (right, reason), found

    samplings = attempts(settings.judge_sampling, settings.tries, VERDICT_SCHEMA, seed, problem.id, "verdict", chain.answer)
    asked = await ask(judge, partial(judge_messages, problem, chain.answer), read, samplings)
    right, reason = asked.value or (None, "")
    if right is None:
        return Verdict(chain_id=chain.id, problem_id=problem.id, correct=None, by="none", reason=f"not judged: {asked.failure or _unusable(asked.defects)}")
    return Verdict(chain_id=chain.id, problem_id=problem.id, correct=right, by="judge", reason=reason)


async def scores(problem: Problem, chains: Sequence[Chain], scorer: Chat, settings: AssessConfig, seed: int) -> list[Score]:
    """A score 1..100 for each chain, in the order given; all stand in one request, shuffled by the seed.

    A request that left a score out is made again, whole, up to `tries`; what a chain got first counts.
    """
    if not chains:
        return []
    shown = sorted(chains, key=lambda chain: chain.id)
    Random(derive_seed(seed, problem.id, "order")).shuffle(shown)
    given: dict[str, tuple[int, str]] = {}

    def read(text: str) -> tuple[None, tuple[str, ...]]:
        values, found = parse_scores(text, len(shown))
        for chain, (value, reason) in zip(shown, values, strict=True):
            if value is not None:
                given.setdefault(chain.id, (value, reason))
        return None, found if len(given) < len(shown) else ()

    samplings = attempts(settings.scorer_sampling, settings.tries, SCORES_SCHEMA, seed, problem.id, "scores", [chain.id for chain in shown])
    asked = await ask(scorer, partial(scorer_messages, problem, shown), read, samplings)
    lacking = (None, f"not scored: {asked.failure or _unusable(asked.defects)}")
    places = {chain.id: place for place, chain in enumerate(shown)}
    results = [(chain, *given.get(chain.id, lacking)) for chain in chains]
    return [Score(chain_id=chain.id, problem_id=problem.id, value=value, reason=reason, position=places[chain.id]) for chain, value, reason in results]


def agreement(rated: Iterable[tuple[bool | None, int | None, bool, float]]) -> dict[str, float | int | None]:
    """How well the filter and the scorer agree with a known truth; None where there is nothing to compare.

    Of each judged chain: the verdict, the score, whether its answer is right, and its true share of correct steps (0..1). Unjudged and
    unscored chains are counted, not compared.
    """
    outcomes: Counter[tuple[bool | None, bool]] = Counter()
    values, shares = array("h"), array("d")
    for correct, value, right, share in rated:
        outcomes[correct, right] += 1
        if value is not None:
            values.append(value)
            shares.append(share)
    hits, passed = outcomes[True, True], outcomes[True, True] + outcomes[True, False]
    true = hits + outcomes[False, True]
    unjudged = outcomes[None, True] + outcomes[None, False]
    varied = len(set(values)) > 1 and len(set(shares)) > 1
    return {
        "judged": outcomes.total() - unjudged,
        "unjudged": unjudged,
        "precision": hits / passed if passed else None,
        "recall": hits / true if true else None,
        "scored": len(values),
        "spearman": float(spearmanr(values, shares).statistic) if varied else None,
    }


def _unusable(defects: Sequence[str]) -> str:
    return "; ".join(DEFECTS[name] for name in defects if name not in MENDED) or "no usable reply"
