"""How far filter and scorer can be trusted: verdicts and path scores held against labels, with intervals."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata, spearmanr

from insightv.evaluation.statistics import Rate
from insightv.records import Score

RESAMPLES = 1000
"""Bootstrap resamples behind an interval of a share."""
RANK_RESAMPLES = 200
"""The same behind a rank correlation, which takes longer."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """A judged chain beside its label."""

    problem_id: str
    family: str
    by: str
    """Who decided: `rule`, `judge` or `none`."""
    said: bool | None
    """The verdict; None if there is none."""
    right: bool
    """The label."""
    score: int | None = None
    quality: float | None = None
    """The label's share of right steps, 0..1; None if it says nothing of them."""
    weight: float = 1.0
    """How many chains this one stands for, where the labelled ones were drawn unevenly."""


def calibrate(cases: Sequence[Case], *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """The figures of all cases, of each family and of each who decided, by name: `all`, `family ..`, `by ..`."""
    groups: dict[str, list[Case]] = {"all": list(cases)}
    for case in sorted(cases, key=lambda case: (case.by, case.family)):
        groups.setdefault(f"by {case.by}", []).append(case)
    for case in sorted(cases, key=lambda case: case.family):
        groups.setdefault(f"family {case.family}", []).append(case)
    return {name: figures(group, seed=seed) for name, group in groups.items()}


def figures(cases: Sequence[Case], *, seed: int = 0) -> dict[str, Any]:
    """Confusion counts, and as value, low, high and n: precision, recall, F1, Cohen's kappa; Spearman, Kendall's tau-b and AUC of the score.

    Cases without a verdict are counted, not compared. AUC is the chance that a chain of which every step is right is scored above one of which not;
    ranks take no weights. Intervals are 95% of a bootstrap over problems, because a problem's chains err alike.
    """
    judged = [case for case in cases if case.said is not None]
    cells = {"true_positive": (True, True), "false_positive": (True, False), "false_negative": (False, True), "true_negative": (False, False)}
    counts = {name: sum(case.weight for case in judged if (case.said, case.right) == cell) for name, cell in cells.items()}
    rated = [case for case in cases if case.score is not None and case.quality is not None]
    return {
        "n": len(cases),
        "unjudged": len(cases) - len(judged),
        "confusion": {name: round(count, 2) for name, count in counts.items()},
        **_shares(judged, list(cells.values()), seed),
        "scored": len(rated),
        **_ranks(rated, seed),
    }


def agreement_figures(cells: Array) -> Array:
    """Precision, recall, F1 and Cohen's kappa (..., 4) of confusion counts (..., 4): true and false positives, false and true negatives; NaN if undefined."""
    hits, false, missed, rest = np.moveaxis(np.asarray(cells, dtype=float), -1, 0)
    total = hits + false + missed + rest
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (hits + rest) / total
        chance = ((hits + false) * (hits + missed) + (missed + rest) * (false + rest)) / total**2
        kappa = np.where(chance == 1, np.nan, (observed - chance) / (1 - chance))
        return np.stack([hits / (hits + false), hits / (hits + missed), 2 * hits / (2 * hits + false + missed), kappa], axis=-1)


def position_bias(ratings: Iterable[Score], *, seed: int = 0) -> list[dict[str, Any]]:
    """For each place in a request, from 1: how many scores were given there, their mean, and their mean distance from the mean of the same problem.

    Orders are drawn, so without a bias every distance is 0 but for chance.
    """
    problems: dict[str, list[Score]] = defaultdict(list)
    for rating in ratings:
        if rating.value is not None:
            problems[rating.problem_id].append(rating)
    places: dict[int, list[tuple[str, float, int]]] = defaultdict(list)
    for name, group in problems.items():
        middle = sum(rating.value or 0 for rating in group) / len(group)
        for rating in group if len(group) > 1 else ():
            places[rating.position].append((name, (rating.value or 0) - middle, rating.value or 0))
    rows = []
    for place, given in sorted(places.items()):
        distances = np.array([distance for _, distance, _ in given])
        shift = _interval([name for name, _, _ in given], partial(_mean_of, distances), RESAMPLES, seed)
        rows.append({"position": place + 1, "n": len(given), "mean": round(sum(value for *_, value in given) / len(given), 2), "shift": told(shift)})
    return rows


def told(rate: Rate) -> dict[str, float | int | None]:
    """A rate as JSON, where there is no NaN."""
    return {name: None if isinstance(value, float) and isnan(value) else round(value, 4) for name, value in asdict(rate).items()}


def auc(values: Array, positive: NDArray[np.bool_]) -> float:
    """The chance that a positive one's value is above a negative one's, ties counted half; NaN unless there are both."""
    above, below = int(positive.sum()), int((~positive).sum())
    if not above or not below:
        return float("nan")
    return float((rankdata(values)[positive].sum() - above * (above + 1) / 2) / (above * below))


def _shares(judged: Sequence[Case], cells: Sequence[tuple[bool, bool]], seed: int) -> dict[str, Any]:
    places = {name: place for place, name in enumerate(sorted({case.problem_id for case in judged}))}
    counts = np.zeros((max(1, len(places)), len(cells)))
    for case in judged:
        counts[places[case.problem_id], cells.index((bool(case.said), case.right))] += case.weight
    values = agreement_figures(counts.sum(axis=0))
    generator = np.random.default_rng(seed)
    # A resample at a time: resamples x problems would not fit for a large run.
    drawn = [generator.multinomial(len(counts), np.full(len(counts), 1 / len(counts))) @ counts for _ in range(RESAMPLES if len(places) > 1 else 0)]
    spread = agreement_figures(np.array(drawn)) if drawn else np.full((1, 4), np.nan)
    names = ("precision", "recall", "f1", "kappa")
    return {name: told(Rate(float(value), *_quantiles(spread[:, i]), len(judged))) for i, (name, value) in enumerate(zip(names, values, strict=True))}


def _ranks(rated: Sequence[Case], seed: int) -> dict[str, Any]:
    scores = np.array([case.score for case in rated], dtype=float)
    quality = np.array([case.quality for case in rated], dtype=float)

    def varied(of: Callable[..., Any]) -> Callable[[NDArray[np.int64]], float]:
        def statistic(picked: NDArray[np.int64]) -> float:
            if not len(picked) or np.ptp(scores[picked]) == 0 or np.ptp(quality[picked]) == 0:
                return float("nan")
            return float(of(scores[picked], quality[picked]).statistic)

        return statistic

    statistics = {"spearman": varied(spearmanr), "kendall": varied(kendalltau), "auc": lambda picked: auc(scores[picked], quality[picked] == 1)}
    problems = [case.problem_id for case in rated]
    return {name: told(_interval(problems, statistic, RANK_RESAMPLES, seed)) for name, statistic in statistics.items()}


def _interval(problems: Sequence[str], statistic: Callable[[NDArray[np.int64]], float], resamples: int, seed: int) -> Rate:
    """A statistic of items, given by their places, with the interval of a bootstrap over their problems."""
    everything = np.arange(len(problems))
    names, which = np.unique(np.array(problems, dtype=str), return_inverse=True)
    generator = np.random.default_rng(seed)
    spread = []
    for _ in range(resamples if len(names) > 1 else 0):
        times = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        spread.append(statistic(np.repeat(everything, times[which])))
    return Rate(statistic(everything), *_quantiles(np.array(spread)), len(problems))


def _mean_of(values: Array, picked: NDArray[np.int64]) -> float:
    return float(values[picked].mean())


def _quantiles(values: Array) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
