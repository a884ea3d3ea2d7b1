"""Two systems on the same items of benchmarks: what changed, whether that can be chance, and how small a change could have been found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from insightv.config import UserError
from insightv.evaluation.statistics import Rate, Resampled, holm
from insightv.evaluation.suite.score import Result
from insightv.evaluation.totals import Scored, difference, paired_test

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
    """Items that only one of the two has a score of, or that are another problem to the other: in no number here."""
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
        if not self.p_holm < ALPHA or not self.difference.value:
            return ""
        return "better" if self.difference.value > 0 else "worse"


def contrast(before: Result, after: Result) -> Contrast:
    """Hold two results of one benchmark under one profile against each other, on the items that are the same problem to both."""
    name, profile = before.benchmark, before.profile
    both = {item for item, problem in after.problems.items() if before.problems.get(item) == problem}
    common = {(one.item, one.sample) for one in before.scored} & {(one.item, one.sample) for one in after.scored if one.item in both}
    new = {(one.item, one.sample): one for one in after.scored if (one.item, one.sample) in common}
    # What they are grouped by is told by one side's table alone: the other's may lack a column.
    old = {(one.item, one.sample): replace(new[one.item, one.sample], value=one.value) for one in before.scored if (one.item, one.sample) in common}
    if not new:
        raise UserError(f"{name}: {before.row} and {after.row} have no scored item in common; answer the same items with both")
    was, now = values(old.values()), values(new.values())
    changed, test = difference(profile, name, list(old.values()), list(new.values())), paired_test(profile, name, list(old.values()), list(new.values()))
    helped = tuple(item for item in now if now[item] > was[item])
    hurt = tuple(item for item in now if now[item] < was[item])
    top = max(before.total.top, after.total.top)
    return Contrast(
        benchmark=name,
        profile=profile,
        before=before.row,
        after=after.row,
        n=len(now),
        left_out=len({one.item for one in (*before.scored, *after.scored)} - now.keys()),
        difference=changed.rate(),
        percent=Resampled(changed.value * 100 / top, changed.draws * 100 / top, changed.n),
        p=test.p,
        test=test.test,
        detectable=test.detectable,
        helped=helped,
        hurt=hurt,
        unchanged=len(now) - len(helped) - len(hurt),
    )


def values(scored: Iterable[Scored]) -> dict[str, float]:
    """Each item's mark, the mean over its samples."""
    marks: dict[str, list[float]] = {}
    for one in scored:
        marks.setdefault(one.item, []).append(one.value)
    return {item: fmean(several) for item, several in marks.items()}


def corrected(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The same with Holm's correction over all benchmarks."""
    return [replace(one, p_holm=p) for one, p in zip(contrasts, holm([one.p for one in contrasts]), strict=True)]


def average(contrasts: Sequence[Contrast]) -> Resampled:
    """The mean over benchmarks of the differences in percent, each benchmark drawn by itself."""
    draws = np.mean([one.percent.draws for one in contrasts], axis=0)
    return Resampled(fmean(one.percent.value for one in contrasts), draws, sum(one.n for one in contrasts))
