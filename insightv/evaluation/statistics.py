"""How sure are we? Intervals, paired tests, and what a test of this size could have found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

RESAMPLES = 10_000
"""Bootstrap resamples behind every interval of an average."""
_AT_ONCE = 4_000_000
"""Drawn numbers in memory."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share or an average of `n` items with its 95% interval; all three are NaN when there are no items."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Resampled:
    """An average and what it would have been on other samples of the same size."""

    value: float
    draws: NDArray[np.float64]
    n: int

    def rate(self, confidence: float = 0.95) -> Rate:
        """With its percentile interval."""
        low, high = np.quantile(self.draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
        return Rate(self.value, float(low), float(high), self.n)

    def detectable(self, *, power: float = 0.8, alpha: float = 0.05) -> float:
        """Smallest difference that a test with this spread finds with this power, by the normal approximation."""
        return _reach(power, alpha) * float(self.draws.std())


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
    families = {name: np.column_stack([values, np.ones(len(values))]) for name, values in scores.items() if len(values)}
    if not families:
        return Rate(float("nan"), float("nan"), float("nan"), 0)
    return resampled(families, seed=seed, resamples=resamples).rate(confidence)


def sign_flips(strata: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float] | None = None, *, seed: int = 0, flips: int = RESAMPLES) -> float:
    """Two-sided p that paired differences are none: how often their weighted sum is as far from zero when each cluster's sign is a toss.

    `strata` and `weights` are those of `resampled`. The test keeps its level with few clusters and few that differ, where a bootstrap's own p does not.
    """
    generator = np.random.default_rng(seed)
    shares = [(rows[:, 0] / rows[:, 1].sum()) * (1 / len(strata) if weights is None else weights[name]) for name, rows in sorted(strata.items())]
    terms = np.concatenate(shares) if shares else np.zeros(0)
    sizes, counts = np.unique(np.abs(terms[terms != 0]).round(12), return_counts=True)
    if not len(sizes):
        return 1.0
    # Tosses of equal terms are one binomial number.
    draws = np.sum([size * (2 * generator.binomial(count, 0.5, flips) - count) for size, count in zip(sizes, counts, strict=True)], axis=0)
    return float((1 + (np.abs(draws) >= abs(float(terms.sum())) - 1e-9).sum()) / (flips + 1))


def resampled(strata: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float] | None = None, *, seed: int = 0, resamples: int = RESAMPLES) -> Resampled:
    """A weighted sum of the strata's means, by default their average, with a bootstrap that draws rows within each stratum.

    A stratum is an array of shape (rows, 2): the sum and the number of the items of one cluster, which are drawn together.
    """
    generator = np.random.default_rng(seed)
    value, draws, n = 0.0, np.zeros(resamples), 0
    for name, rows in sorted(strata.items()):
        weight = 1 / len(strata) if weights is None else weights[name]
        value += weight * float(rows[:, 0].sum() / rows[:, 1].sum())
        draws += weight * _resampled_means(rows, generator, resamples)
        n += int(rows[:, 1].sum())
    return Resampled(value, draws, n)


def _resampled_means(rows: NDArray[np.float64], generator: np.random.Generator, resamples: int) -> NDArray[np.float64]:
    # Drawing how often each distinct row occurs is the same distribution as drawing rows, without a resamples x rows array.
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    step = max(1, _AT_ONCE // len(distinct))
    sums = [generator.multinomial(len(rows), counts / len(rows), size=min(step, resamples - begun)) @ distinct for begun in range(0, resamples, step)]
    drawn = np.concatenate(sums)
    return np.asarray(drawn[:, 0] / drawn[:, 1], dtype=np.float64)


def detectable(n: int, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest difference of two accuracies that McNemar's test finds with this power, by the normal approximation.

    `discordance` is the share of items on which the two systems differ.
    """
    if n == 0:
        return float("nan")
    return _reach(power, alpha) * sqrt(discordance / n)


def _reach(power: float, alpha: float) -> float:
    """Standard errors between nothing and what is found with this power."""
    return float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
