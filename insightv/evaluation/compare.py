"""Two systems on the same problems, and the matrix of chain against answer."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from insightv.evaluation.statistics import Rate, detectable, holm, macro, mcnemar_exact, wilson
from insightv.records import Solution


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
