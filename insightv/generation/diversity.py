"""How diverse and how stable the paths of a model are: figures of the data engine, reported per model and round."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations, groupby
from operator import attrgetter

from insightv.answers import normalise
from insightv.chain_text import joined
from insightv.records import Chain

_GRAM = 4


def diversity(chains: Iterable[Chain]) -> dict[str, float]:
    """Figures over all chains, failed ones apart: counts, shares of 0..1, means. Chains of one problem must follow each other; none is held longer.

    `distinct_answers` and `self_overlap` are means over the problems with at least two chains that came; self-overlap is
    the mean pairwise Jaccard overlap (0..1) of two paths' 4-grams of words, 1 for paths that say the same.
    """
    everything, problems, came, groups = 0, 0, 0, 0
    sums: Counter[str] = Counter()
    for _, group in groupby(chains, key=attrgetter("problem_id")):
        own = list(group)
        there = [chain for chain in own if chain.status != "failed"]
        everything, problems, came = everything + len(own), problems + 1, came + len(there)
        for chain in there:
            sums.update(_figures(chain))
        if len(there) > 1:
            groups += 1
            sums.update({"distinct_answers": len({normalise(chain.answer) for chain in there}), "self_overlap": _overlap(there)})
    return {
        "chains": everything,
        "problems": problems,
        "failed": _share(everything - came, everything),
        **{name: _share(sums[name], came) for name in ("well_formed", "truncated", "repeating", "retried")},
        **{name: _share(sums[name], groups) for name in ("distinct_answers", "self_overlap")},
        **{name: _share(sums[name], came) for name in ("steps", "words", "completion_tokens")},
    }


def _figures(chain: Chain) -> dict[str, int]:
    return {
        "well_formed": chain.status == "ok",
        "truncated": "truncated" in chain.defects,
        "repeating": not {"repeated_step", "repetition"}.isdisjoint(chain.defects),
        "retried": "retried" in chain.defects,
        "steps": len(chain.steps),
        "words": len(_words(chain)),
        "completion_tokens": chain.usage.completion,
    }


def _share(amount: float, count: int) -> float:
    return amount / count if count else 0.0


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
