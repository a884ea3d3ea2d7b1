"""Several finished seeds of one experiment: what every seed found, and what they find together.

Seeds may share their problems or not: numbers are first averaged per problem over the seeds that had it, then resampled by problem.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from insightv.evaluation.compare import Agreement, Comparison, agreement, compare, correct_together
from insightv.evaluation.run import Accuracy, accuracy, family
from insightv.evaluation.statistics import Rate, detectable, macro
from insightv.records import Problem, Solution

RIGHT = "none"
"""What a chain is called whose facts and inferences are right."""


@dataclass(frozen=True, slots=True)
class Seed:
    """One seed's solutions of one split."""

    seed: int
    problems: Mapping[str, Problem]
    systems: Mapping[str, Sequence[Solution]]
    """Row of the table -> its solutions."""
    updates: Mapping[str, int]
    """Row -> optimizer steps behind all its weights, the base's own not counted."""
    faults: Mapping[str, Mapping[str, str]]
    """Row -> problem id -> what is wrong with the chain, as `faults.chain_faults` says."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table for one seed, or, with `seed` None, over all seeds."""

    system: str
    seed: int | None
    macro: Rate
    groups: dict[str, float]
    chain_right: float
    """Share of the chains that are right; NaN without chains of known truth, as for `fix` and `mislead`."""
    fix: float
    mislead: float
    tokens: float
    updates: float
    unparsed: float
    owed: int


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two rows compared, seed by seed and over the seeds."""

    before: str
    after: str
    seeds: dict[int, Comparison]
    """By seed, Holm-corrected within each."""
    mean: Rate
    """Mean over seeds of the difference of macro averages; 95% bootstrap interval over problems, `n` problems."""
    strict: Rate
    """The same with an interval as wide as the number of comparisons asks for (Bonferroni)."""
    agreeing: int
    """Seeds whose difference has the mean's sign."""
    detectable: float


def lines(seeds: Sequence[Seed]) -> list[Line]:
    """Every row of the table: a line for each seed and, for more than one, their mean."""
    found = []
    for row in seeds[0].systems:
        own = [_line(seed, row) for seed in seeds]
        found += own if len(own) == 1 else [*own, _mean(row, own, seeds)]
    return found


def contrasts(seeds: Sequence[Seed], pairs: Sequence[tuple[str, str]], among: Callable[[Problem], bool] = lambda _: True, planned: int = 0) -> list[Contrast]:
    """The comparisons (before, after), Holm-corrected together within each seed, on the problems that `among` keeps.

    `planned` is how many were written down beforehand, where some of them have no rows yet: the strict interval is for all of them.
    """
    kept = [{name: family(problem) for name, problem in seed.problems.items() if among(problem)} for seed in seeds]
    tests = [
        correct_together([compare(_named(seed, before), _named(seed, after), families, seed=seed.seed) for before, after in pairs])
        for seed, families in zip(seeds, kept, strict=True)
    ]
    return [_contrast(seeds, kept, pair, [own[place] for own in tests], max(planned, len(pairs))) for place, pair in enumerate(pairs)]


def together(seeds: Sequence[Mapping[str, float]], families: Mapping[str, str]) -> dict[str, list[float]]:
    """Numbers of several seeds by problem id as one number per problem, by family: ready for `compare.macro`.

    The mean of a family's numbers is the mean over seeds of each seed's mean, and a problem that several seeds had is one item.
    """
    sizes = [Counter(families[name] for name in values) for values in seeds]
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for values, size in zip(seeds, sizes, strict=True):
        for name, value in values.items():
            group = families[name]
            sums[group][name] += value / (size[group] * sum(other[group] > 0 for other in sizes))
    return {group: [value * len(items) for value in items.values()] for group, items in sums.items()}


def _contrast(seeds: Sequence[Seed], kept: Sequence[Mapping[str, str]], pair: tuple[str, str], tests: list[Comparison], count: int) -> Contrast:
    differences = []
    for seed, families in zip(seeds, kept, strict=True):
        old, new = (scored(seed.systems[row]) for row in pair)
        differences.append({name: float(new[name]) - float(old[name]) for name in families if name in old and name in new})
    items = together(differences, families_of(seeds))
    squares = [value * value for values in items.values() for value in values]
    mean = macro(items)
    return Contrast(
        *pair,
        seeds={seed.seed: test for seed, test in zip(seeds, tests, strict=True)},
        mean=mean,
        strict=macro(items, confidence=1 - 0.05 / count),
        agreeing=sum(test.difference.value * mean.value > 0 for test in tests),
        detectable=detectable(len(squares), fmean(squares)) if squares else float("nan"),
    )


def _line(seed: Seed, row: str) -> Line:
    figures: Accuracy = accuracy(seed.systems[row], seed.problems.values(), seed=seed.seed)
    faults = seed.faults[row]
    matrix: Agreement = agreement(seed.systems[row], {name: fault == RIGHT for name, fault in faults.items()})
    return Line(
        system=row,
        seed=seed.seed,
        macro=figures.macro,
        groups={name: rate.value for name, rate in figures.groups.items()},
        chain_right=fmean(fault == RIGHT for fault in faults.values()) if faults else float("nan"),
        fix=matrix.fix_rate.value,
        mislead=matrix.mislead_rate.value,
        tokens=figures.tokens,
        updates=seed.updates[row],
        unparsed=figures.unparsed,
        owed=figures.owed,
    )


def _mean(row: str, own: Sequence[Line], seeds: Sequence[Seed]) -> Line:
    scores = [{name: float(right) for name, right in scored(seed.systems[row]).items()} for seed in seeds]
    return Line(
        system=row,
        seed=None,
        macro=macro(together(scores, families_of(seeds))),
        groups={name: fmean(line.groups[name] for line in own) for name in own[0].groups},
        chain_right=fmean(line.chain_right for line in own),
        fix=fmean(line.fix for line in own),
        mislead=fmean(line.mislead for line in own),
        tokens=fmean(line.tokens for line in own),
        updates=fmean(line.updates for line in own),
        unparsed=fmean(line.unparsed for line in own),
        owed=sum(line.owed for line in own),
    )


def _named(seed: Seed, row: str) -> list[Solution]:
    """A row's solutions under the row's name, whatever the system called itself."""
    return [solution.model_copy(update={"system": row}) for solution in seed.systems[row]]


def families_of(seeds: Sequence[Seed]) -> dict[str, str]:
    """Problem id -> family, of all seeds' problems."""
    return {name: family(problem) for seed in seeds for name, problem in seed.problems.items()}


def scored(solutions: Sequence[Solution]) -> dict[str, bool]:
    """Problem id -> whether the answer is right, of the solutions that have a score."""
    return {solution.problem_id: solution.correct for solution in solutions if solution.correct is not None}
