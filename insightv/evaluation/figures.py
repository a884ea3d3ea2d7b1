"""What a report shows, as plain figures: results of a split, chains of a stage, logs of trainings."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from insightv.evaluation.compare import Agreement, Comparison, agreement, compare, correct_together
from insightv.evaluation.examples import Example
from insightv.evaluation.run import Accuracy, accuracy, chain_correctness, family
from insightv.generation.diversity import diversity
from insightv.records import Chain, Problem, Score, Solution, Verdict


@dataclass(frozen=True, slots=True)
class SplitTable:
    """One split's results: a row per system, the tests between them, and what happened to right and wrong chains."""

    split: str
    rows: list[Accuracy]
    primary: list[Comparison]
    """Written down beforehand, Holm-corrected together."""
    against: list[Comparison]
    """Every row against the baseline, uncorrected."""
    between: list[Comparison]
    """Every two other rows, the earlier first, uncorrected."""
    groups: list[Comparison]
    """The last row against the baseline within each group of families, uncorrected: is perception kept?"""
    agreements: dict[str, Agreement]
    """By system, where final answers can differ from the chain's."""
    lengths: dict[str, list[int]]
    """By system: words of each chain."""


@dataclass(frozen=True, slots=True)
class ChainSet:
    """The chains of one stage and how they were judged."""

    stage: str
    figures: dict[str, float]
    """Diversity and stability, as `insightv.generation.diversity` names them."""
    defects: dict[str, int]
    judged: dict[str, int]
    """Chains found `correct`, `wrong` or `not judged`."""
    scores: dict[str, list[int]]
    """Path scores by verdict."""
    lengths: dict[str, list[int]]
    """Words by verdict."""


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """The logged steps of one training, as written by the trainer."""

    name: str
    rows: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class StageSummary:
    """What a stage said of itself."""

    name: str
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that the report shows."""

    title: str
    baseline: str
    tables: list[SplitTable]
    chains: list[ChainSet]
    logs: list[TrainingLog]
    stages: list[StageSummary]
    examples: list[Example]


def split_table(
    split: str, systems: Mapping[str, list[Solution]], known: Mapping[str, Problem], baseline: str, primary: Sequence[tuple[str, str]], seed: int
) -> SplitTable:
    """Sum up one split's solutions by row; the last row is the one that groups are compared for."""
    families = {problem.id: family(problem) for problem in known.values()}
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for problem in known.values():
        if "group" in problem.meta:
            groups[str(problem.meta["group"])][problem.id] = families[problem.id]
    last = list(systems)[-1]
    agreements = {}
    for system, solutions in systems.items():
        # What stands in a reply of its own: a chain's answer and the letter that it was settled to are one answer.
        if any(s.chain is not None and s.chain.text != s.text for s in solutions):
            agreements[system] = agreement(solutions, chain_correctness(known.values(), solutions))
    return SplitTable(
        split=split,
        rows=[accuracy(solutions, known.values(), seed=seed) for solutions in systems.values()],
        primary=correct_together([compare(systems[a], systems[b], families, seed=seed) for a, b in primary if a in systems and b in systems]),
        against=[compare(systems[baseline], those, families, seed=seed) for row, those in systems.items() if baseline in systems and row != baseline],
        between=[compare(systems[a], systems[b], families, seed=seed) for a, b in combinations((row for row in systems if row != baseline), 2)],
        groups=[
            compare(systems[baseline], systems[last], those, seed=seed, scope=group)
            for group, those in groups.items()
            if baseline in systems and last != baseline
        ],
        agreements=agreements,
        lengths={row: [words(s.chain) for s in those if s.chain is not None] for row, those in systems.items() if any(s.chain for s in those)},
    )


def chain_set(stage: str, chains: Sequence[Chain], verdicts: Mapping[str, Verdict], scores: Mapping[str, Score]) -> ChainSet:
    """Sum up one stage's chains with the judgements by chain id."""
    by_score: dict[str, list[int]] = defaultdict(list)
    by_length: dict[str, list[int]] = defaultdict(list)
    judged: Counter[str] = Counter()
    for chain in chains:
        outcome = _outcome(verdicts.get(chain.id))
        judged[outcome] += 1
        by_length[outcome].append(words(chain))
        value = scores[chain.id].value if chain.id in scores else None
        if value is not None:
            by_score[outcome].append(value)
    return ChainSet(
        stage=stage,
        figures=diversity(chains),
        defects=dict(Counter(defect for chain in chains for defect in chain.defects).most_common()),
        judged=dict(judged),
        scores=dict(by_score),
        lengths=dict(by_length),
    )


def words(chain: Chain) -> int:
    """Length of a chain in words, titles and conclusion included; of the raw text where no step could be read from it."""
    if not chain.steps:
        return len(chain.text.split())
    return sum(len(f"{step.summary} {step.reasoning}".split()) for step in chain.steps) + len(chain.conclusion.split())


def _outcome(verdict: Verdict | None) -> str:
    """`correct`, `wrong` or `not judged`."""
    if verdict is None or verdict.correct is None:
        return "not judged"
    return "correct" if verdict.correct else "wrong"
