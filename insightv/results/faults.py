"""Where chains go wrong, what the final answer makes of them, and what direct answers know better."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from insightv.answers import settle
from insightv.evaluation.statistics import Rate, macro, wilson
from insightv.records import Problem, Solution
from insightv.results.seeds import RIGHT, Seed, families_of, scored, together
from insightv.world.truth import error_type

FAULTS = ("perception", "selection", "arithmetic", "format", "transcription")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the chains with one fault, counted over all seeds."""

    fault: str
    answered: Rate
    """Final answers that are right."""
    corrected: Rate
    """The same where the chain's own answer is wrong."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """What direct answers know that chains do not, over all seeds."""

    direct: str
    rescue: Rate
    """P(direct answer right | chain wrong)."""
    union: Rate
    """Macro average of (chain's or direct answer right) - (chain's answer right): the gain of an oracle that chooses."""


def chain_faults(problems: Mapping[str, Problem], solutions: Sequence[Solution]) -> dict[str, str]:
    """By problem id the first thing wrong with each scored solution's chain, `RIGHT` if there is nothing; empty if its system writes no chains.

    A system that writes chains but wrote no readable one has a fault of format. Problems whose scene is not known have no entry.
    """
    if not any(solution.chain for solution in solutions):
        return {}
    faults = {}
    for solution in solutions:
        problem = problems[solution.problem_id]
        if solution.correct is not None and "scene" in problem.meta:
            faults[problem.id] = error_type(problem, solution.chain) if solution.chain else "format"
    return faults


def taxonomy(seeds: Sequence[Seed], row: str) -> Counter[str]:
    """How many chains of a row have each fault, over all seeds."""
    return Counter(fault for seed in seeds for fault in seed.faults[row].values())


def outcomes(seeds: Sequence[Seed], row: str) -> list[Outcome]:
    """For each fault, and for right chains, how often the row's final answer is right."""
    final: dict[str, list[bool]] = defaultdict(list)
    wrong: dict[str, list[bool]] = defaultdict(list)
    for seed in seeds:
        answers = _chain_answers(seed, row)
        for name, right in scored(seed.systems[row]).items():
            if fault := seed.faults[row].get(name):
                final[fault].append(right)
                wrong[fault] += [right] * (not answers.get(name, False))
    return [Outcome(fault, _share(final[fault]), _share(wrong[fault])) for fault in (*FAULTS, RIGHT) if final[fault]]


def headroom(seeds: Sequence[Seed], row: str, direct: str) -> Headroom:
    """Hold a row's chains against the direct answers of another row to the same problems."""
    rescued: list[bool] = []
    gains: list[dict[str, float]] = []
    for seed in seeds:
        said, answers = scored(seed.systems[direct]), _chain_answers(seed, row)
        rescued += [said[name] for name, fault in seed.faults[row].items() if fault != RIGHT and name in said]
        gains.append({name: float(said[name] and not answers.get(name, False)) for name in seed.faults[row] if name in said})
    return Headroom(direct, _share(rescued), macro(together(gains, families_of(seeds))))


def _chain_answers(seed: Seed, row: str) -> dict[str, bool]:
    """By problem id whether the chain's own candidate answer is right."""
    found = {}
    for solution in seed.systems[row]:
        if solution.chain is not None:
            found[solution.problem_id] = settle(solution.chain.answer, seed.problems[solution.problem_id]) is True
    return found


def _share(values: Iterable[bool]) -> Rate:
    those = list(values)
    return wilson(sum(those), len(those))
