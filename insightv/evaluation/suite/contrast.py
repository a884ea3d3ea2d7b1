"""Two systems on the same items of benchmarks: what changed, whether that can be chance, and how small a change could have been found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from insightv.config import UserError
from insightv.evaluation.statistics import Rate, Resampled, detectable, holm, mcnemar_exact
from insightv.evaluation.suite.score import Result
from insightv.evaluation.totals import difference, is_binary

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Contrast:
    """System `after` against system `before` on the items of one benchmark that both have a score of."""

    benchmark: str
    profile: str
    before: str
    after: str
    n: int
    left_out: int
    """Items that only one of the two has a score of: they are owed, and in no number here."""
    difference: Rate
    """In the benchmark's own unit, with a paired bootstrap interval."""
    percent: Resampled
    """The same in percent of the most that there is, for the average."""
    p: float
    test: str
    """By which `p` was found."""
    detectable: float
    """The difference that this test finds with 80% power, in the benchmark's own unit."""
    helped: tuple[str, ...]
    """Items on which `after` is better."""
    hurt: tuple[str, ...]
    unchanged: int
    p_holm: float = 1.0
    """Corrected for all benchmarks."""

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `` where nothing is established."""
        if self.p_holm >= ALPHA:
            return ""
        return "better" if self.difference.value > 0 else "worse"


def contrast(before: Result, after: Result) -> Contrast:
    """Hold two results of one benchmark under one profile against each other."""
    name, profile = before.benchmark, before.profile
    old, new = values(before), values(after)
    both = [item for item in old if item in new]
    if not both:
        raise UserError(f"{name}: {before.row} and {after.row} have no scored item in common; answer the same items with both")
    changed = difference(profile, name, before.scored, after.scored)
    helped = tuple(item for item in both if new[item] > old[item])
    hurt = tuple(item for item in both if new[item] < old[item])
    # Means over several samples are no longer right or wrong.
    binary = is_binary(profile, name) and {*old.values(), *new.values()} <= {0.0, 1.0}
    top = before.total.top
    return Contrast(
        benchmark=name,
        profile=profile,
        before=before.row,
        after=after.row,
        n=len(both),
        left_out=len(old.keys() ^ new.keys()),
        difference=changed.rate(),
        percent=Resampled(changed.value * 100 / top, changed.draws * 100 / top, changed.n),
        p=mcnemar_exact(len(helped), len(hurt)) if binary else changed.p(),
        test="exact McNemar" if binary else "paired bootstrap",
        detectable=top * detectable(len(both), (len(helped) + len(hurt)) / len(both)) if binary else changed.detectable(),
        helped=helped,
        hurt=hurt,
        unchanged=len(both) - len(helped) - len(hurt),
    )


def values(result: Result) -> dict[str, float]:
    """Each item's mark, the mean over its samples."""
    marks: dict[str, list[float]] = {}
    for one in result.scored:
        marks.setdefault(one.item, []).append(one.value)
    return {item: fmean(several) for item, several in marks.items()}


def corrected(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The same with Holm's correction over all benchmarks."""
    return [replace(one, p_holm=p) for one, p in zip(contrasts, holm([one.p for one in contrasts]), strict=True)]


def average(contrasts: Sequence[Contrast]) -> Resampled:
    """The mean over benchmarks of the differences in percent, each benchmark drawn by itself."""
    draws = np.mean([one.percent.draws for one in contrasts], axis=0)
    return Resampled(fmean(one.percent.value for one in contrasts), draws, sum(one.n for one in contrasts))
