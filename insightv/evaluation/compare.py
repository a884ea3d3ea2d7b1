"""How sure are we? Intervals, paired tests and the matrix of chain against answer, for scored solutions of the same problems."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from insightv.records import Solution

RESAMPLES = 10_000
"""Bootstrap resamples behind every interval of a macro average."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of `n` items with its 95% interval; all three are NaN when there are no items."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """System `after` against system `before` on the problems that both answered."""

    before: str
    after: str
    n: int
    left_out: int
    """Problems that only one of the two has a scored answer to."""
    difference: Rate
    """Macro average over families of after - before, with the paired bootstrap's interval."""
    helped: tuple[str, ...]
    """Ids of the problems that only `after` has right."""
    hurt: tuple[str, ...]
    unchanged: int
    p: float
    """Exact McNemar, two-sided."""
    detectable: float
    """The difference that a test on this many items, at this discordance, finds with 80% power."""
    p_holm: float | None = None
    """`p` corrected for the comparisons written down beforehand; None outside of them."""
    scope: str = ""
    """Which part of the problems was compared; empty for all."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Chain right or wrong against final answer right or wrong: what the summary agent does with a chain."""

    both_right: int
    misled: int
    """Chain right, answer wrong."""
    fixed: int
    """Chain wrong, answer right."""
    both_wrong: int
    fix_rate: Rate
    """P(answer right | chain wrong)."""
    mislead_rate: Rate
    """P(answer wrong | chain right)."""


def wilson(successes: int, n: int, confidence: float = 0.95) -> Rate:
    """Share of successes with Wilson's score interval."""
    if n == 0:
        return Rate(float("nan"), float("nan"), float("nan"), 0)
    z = float(norm.ppf(0.5 + confidence / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Rate(share, low, high, n)


def mcnemar_exact(helped: int, hurt: int) -> float:
    """Two-sided exact p of the discordant pairs under equal chances; 1 when there are none."""
    return float(binomtest(helped, helped + hurt).pvalue) if helped + hurt else 1.0


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order."""
    adjusted = [0.0] * len(pvalues)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(pvalues)), key=lambda i: pvalues[i])):
        largest = max(largest, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        adjusted[index] = largest
    return adjusted


def macro(scores: Mapping[str, Sequence[float]], *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95) -> Rate:
    """Mean over families of the families' means, with a percentile bootstrap stratified by family.

    `scores` maps a family to one number per item: 0 or 1 for accuracy, after - before for a paired difference. Families without items do not count.
    """
    families = {name: np.asarray(values, dtype=float) for name, values in sorted(scores.items()) if len(values)}
    if not families:
        return Rate(float("nan"), float("nan"), float("nan"), 0)
    generator = np.random.default_rng(seed)
    means = np.mean([_resampled_means(values, generator, resamples) for values in families.values()], axis=0)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    value = float(np.mean([values.mean() for values in families.values()]))
    return Rate(value, float(low), float(high), sum(len(values) for values in families.values()))


def _resampled_means(values: NDArray[np.float64], generator: np.random.Generator, resamples: int) -> NDArray[np.float64]:
    # Drawing how often each distinct value occurs is the same distribution as drawing items, without a resamples x items array.
    distinct, counts = np.unique(values, return_counts=True)
    drawn = generator.multinomial(len(values), counts / len(values), size=resamples)
    return np.asarray(drawn @ distinct / len(values), dtype=np.float64)


def detectable(n: int, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest difference of two accuracies that McNemar's test finds with this power, by the normal approximation.

    `discordance` is the share of items on which the two systems differ.
    """
    if n == 0:
        return float("nan")
    return float((norm.ppf(1 - alpha / 2) + norm.ppf(power)) * sqrt(discordance / n))


def compare(before: Sequence[Solution], after: Sequence[Solution], families: Mapping[str, str], *, seed: int = 0, scope: str = "") -> Comparison:
    """Paired comparison of two systems on the problems that `families` names, by id; `scope` says which these are.

    Unscored solutions are left out, never counted wrong.
    """
    old, new = ({problem: right for problem, right in _scored(those).items() if problem in families} for those in (before, after))
    both = sorted(old.keys() & new.keys())
    differences: dict[str, list[float]] = defaultdict(list)
    for problem in both:
        differences[families[problem]].append(float(new[problem]) - float(old[problem]))
    helped = tuple(problem for problem in both if new[problem] and not old[problem])
    hurt = tuple(problem for problem in both if old[problem] and not new[problem])
    discordant = len(helped) + len(hurt)
    return Comparison(
        before=before[0].system if before else "",
        after=after[0].system if after else "",
        n=len(both),
        left_out=len(old.keys() ^ new.keys()),
        difference=macro(differences, seed=seed),
        helped=helped,
        hurt=hurt,
        unchanged=len(both) - discordant,
        p=mcnemar_exact(len(helped), len(hurt)),
        detectable=detectable(len(both), discordant / len(both) if both else 0.0),
        scope=scope,
    )


def correct_together(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with Holm's correction over all of them."""
    adjusted = holm([comparison.p for comparison in comparisons])
    return [replace(comparison, p_holm=p) for comparison, p in zip(comparisons, adjusted, strict=True)]


def conclusion(comparison: Comparison, alpha: float = 0.05) -> str:
    """What a comparison establishes, whichever way it fell; the corrected p decides where there is one."""
    if not comparison.n:
        return "no scored problem in common"
    if (comparison.p if comparison.p_holm is None else comparison.p_holm) >= alpha:
        return "no difference is established here"
    return f"{comparison.after if len(comparison.helped) > len(comparison.hurt) else comparison.before} is better"


def sentence(comparison: Comparison, alpha: float = 0.05) -> str:
    """The comparison in one plain line, for a terminal or a log."""
    c, d = comparison, comparison.difference
    figures = f"{c.after} - {c.before} = {100 * d.value:+.1f} points [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
    p = f"p = {c.p:.2g}" if c.p_holm is None else f"p = {c.p:.2g}, {c.p_holm:.2g} after Holm"
    return f"{figures}, {len(c.helped)} helped, {len(c.hurt)} hurt of {c.n}, {p}: {conclusion(c, alpha)}; detectable: {100 * c.detectable:.1f} points"


def agreement(solutions: Sequence[Solution], chain_correct: Mapping[str, bool]) -> Agreement:
    """Cross chain correctness (by problem id; problems without an entry do not count) with the final answer's."""
    counts = {(chain, answer): 0 for chain in (True, False) for answer in (True, False)}
    for problem, answer in _scored(solutions).items():
        if problem in chain_correct:
            counts[chain_correct[problem], answer] += 1
    right = counts[True, True] + counts[True, False]
    wrong = counts[False, True] + counts[False, False]
    return Agreement(
        both_right=counts[True, True],
        misled=counts[True, False],
        fixed=counts[False, True],
        both_wrong=counts[False, False],
        fix_rate=wilson(counts[False, True], wrong),
        mislead_rate=wilson(counts[True, False], right),
    )


def _scored(solutions: Sequence[Solution]) -> dict[str, bool]:
    return {solution.problem_id: solution.correct for solution in solutions if solution.correct is not None}
