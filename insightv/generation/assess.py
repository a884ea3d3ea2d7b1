"""Multi-granularity assessment (Insight-V, section 3.2): answer filtering by rules and a judge, then path scores given together."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from math import factorial
from random import Random

from insightv.answers import settle
from insightv.config import AssessConfig
from insightv.generation.ask import ask, attempts
from insightv.models.chat import Chat, Message, Sampling
from insightv.models.together import together
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


async def verdicts(problem: Problem, chains: Sequence[Chain], judge: Chat | None, settings: AssessConfig, seed: int) -> list[Verdict]:
    """A verdict for each chain of one problem, in the order given: one request for equal answers, different answers side by side."""
    # A failed chain's empty answer is nobody's answer.
    first = {(chain.status == "failed" and chain.id, chain.answer): chain for chain in reversed(chains)}

    async def one(chain: Chain) -> Verdict:
        return await verdict(problem, chain, judge, settings, seed)

    judged = dict(zip(first, await together(map(one, first.values())), strict=True))
    return [judged[chain.status == "failed" and chain.id, chain.answer].model_copy(update={"chain_id": chain.id}) for chain in chains]


async def scores(problem: Problem, chains: Sequence[Chain], scorer: Chat, settings: AssessConfig, seed: int) -> list[Score]:
    """A score 1..100 for each chain, in the order given: `mean` of what `rate` gets."""
    return mean(await rate(problem, chains, scorer, settings, seed))


async def rate(
    problem: Problem, chains: Sequence[Chain], scorer: Chat, settings: AssessConfig, seed: int, messages: Callable[..., list[Message]] = scorer_messages
) -> list[list[Score]]:
    """For each of `shuffles` orders a score 1..100 for each chain, in the order given; `messages` may ask for it without the ground truth.

    All chains stand in one request, or in even groups of `paths_per_request` at most; the orders differ as long as there are others.
    """
    if not chains:
        return [[] for _ in range(settings.shuffles)]
    requests = [
        (turn, group) for turn, order in enumerate(_orders(problem, chains, settings.shuffles, seed)) for group in _groups(order, settings.paths_per_request)
    ]

    async def one(request: tuple[int, list[Chain]]) -> list[Score]:
        turn, shown = request
        draw = (seed, problem.id, "scores", [chain.id for chain in shown], *([turn] if turn else []))
        return await _rate_shown(shown, scorer, partial(messages, problem, shown), attempts(settings.scorer_sampling, settings.tries, SCORES_SCHEMA, *draw))

    found: list[dict[str, Score]] = [{} for _ in range(settings.shuffles)]
    for (turn, _), given in zip(requests, await together(map(one, requests)), strict=True):
        found[turn] |= {score.chain_id: score for score in given}
    return [[ratings[chain.id] for chain in chains] for ratings in found]


def mean(ratings: Sequence[Sequence[Score]]) -> list[Score]:
    """The mean score of each chain, rounded half up, of those orders in which it got one; reason and position are those of the first of these."""
    merged = []
    for those in zip(*ratings, strict=True):
        given = [score for score in those if score.value is not None]
        values = [score.value for score in those if score.value is not None]
        merged.append(given[0].model_copy(update={"value": (2 * sum(values) + len(values)) // (2 * len(values))}) if given else those[0])
    return merged


def _orders(problem: Problem, chains: Sequence[Chain], count: int, seed: int) -> list[list[Chain]]:
    known, orders = sorted(chains, key=lambda chain: chain.id), list[list[Chain]]()
    for turn in range(count):
        order, rng = list(known), Random(derive_seed(seed, problem.id, "order", *([turn] if turn else [])))
        rng.shuffle(order)
        while order in orders and len(orders) < factorial(len(order)):
            rng.shuffle(order)
        orders.append(order)
    return orders


def _groups(order: list[Chain], limit: int | None) -> list[list[Chain]]:
    """The order cut into as few parts as the limit allows, whose sizes differ by one at most."""
    count = 1 if limit is None else -(-len(order) // limit)
    bounds = [len(order) * part // count for part in range(count + 1)]
    return [order[start:end] for start, end in pairwise(bounds)]


async def _rate_shown(shown: list[Chain], scorer: Chat, messages: Callable[[str | None], list[Message]], samplings: Iterable[Sampling]) -> list[Score]:
    """The scores of one request, in the order shown; one that left a score out is made again, whole, up to `tries`, and what came first counts."""
    given: dict[str, tuple[int, str]] = {}

    def read(text: str) -> tuple[None, tuple[str, ...]]:
        values, found = parse_scores(text, len(shown))
        for chain, (value, reason) in zip(shown, values, strict=True):
            if value is not None:
                given.setdefault(chain.id, (value, reason))
        return None, found if len(given) < len(shown) else ()

    asked = await ask(scorer, messages, read, samplings)
    lacking = (None, f"not scored: {asked.failure or _unusable(asked.defects)}")
    results = [(place, chain, *given.get(chain.id, lacking)) for place, chain in enumerate(shown)]
    return [Score(chain_id=chain.id, problem_id=chain.problem_id, value=value, reason=reason, position=place) for place, chain, value, reason in results]


def agreement(rated: Iterable[tuple[bool | None, int | None, bool, float]]) -> dict[str, float | int | None]:
    """How well the filter and the scorer agree with a known truth; None where there is nothing to compare.

    Of each judged chain: the verdict, the score, whether its answer is right, and its true share of correct steps (0..1). Unjudged and
    unscored chains are counted, not compared.
    """
    # It takes a second to load, for which every stage with a process of its own would wait.
    from scipy.stats import spearmanr

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
