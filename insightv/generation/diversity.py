"""How diverse and how stable the paths of a model are: figures of the data engine, reported per model and round."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from insightv.answers import normalise
from insightv.chain_text import joined
from insightv.records import Chain

_GRAM = 4


def diversity(chains: Iterable[Chain]) -> dict[str, float]:
    """Figures over all chains, failed ones apart: counts, shares of 0..1, means.

    `distinct_answers` and `self_overlap` are means over the problems with at least two chains that came; self-overlap is
    the mean pairwise Jaccard overlap (0..1) of two paths' 4-grams of words, 1 for paths that say the same.
    """
    everything = list(chains)
    came = [chain for chain in everything if chain.status != "failed"]
    by_problem: dict[str, list[Chain]] = defaultdict(list)
    for chain in came:
        by_problem[chain.problem_id].append(chain)
    groups = [group for group in by_problem.values() if len(group) > 1]
    return {
        "chains": len(everything),
        "problems": len({chain.problem_id for chain in everything}),
        "failed": _mean([chain.status == "failed" for chain in everything]),
        "well_formed": _mean([chain.status == "ok" for chain in came]),
        "truncated": _mean(["truncated" in chain.defects for chain in came]),
        "repeating": _mean([not {"repeated_step", "repetition"}.isdisjoint(chain.defects) for chain in came]),
        "retried": _mean(["retried" in chain.defects for chain in came]),
        "distinct_answers": _mean([len({normalise(chain.answer) for chain in group}) for group in groups]),
        "self_overlap": _mean([_overlap(group) for group in groups]),
        "steps": _mean([len(chain.steps) for chain in came]),
        "words": _mean([len(_words(chain)) for chain in came]),
        "completion_tokens": _mean([chain.usage.completion for chain in came]),
    }


def _overlap(group: Sequence[Chain]) -> float:
    grams = [_grams(_words(chain)) for chain in group]
    return _mean([len(a & b) / len(a | b) if a | b else 1.0 for a, b in combinations(grams, 2)])


def _grams(words: list[str]) -> set[tuple[str, ...]]:
    length = min(_GRAM, len(words))
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)} if length else set()


def _words(chain: Chain) -> list[str]:
    return f"{joined(chain.steps)}\n{chain.conclusion}".casefold().split()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
