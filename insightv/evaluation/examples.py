"""Which problems a report shows, and the one shape of card in which it shows answers of systems and chains of the data engine."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from insightv.config import UserError
from insightv.evaluation.run import family
from insightv.images import to_data_url
from insightv.records import Chain, Problem, Score, Solution, Verdict
from insightv.store import ImageStore

_TELLING = {"helped": 0, "hurt": 0, "mixed": 0, "both wrong": 1, "all wrong": 1}
"""Which outcomes to show first."""


@dataclass(frozen=True, slots=True)
class Output:
    """One chain or one system's answer on a card."""

    title: str
    answer: str
    correct: bool | None
    chain_answer: str = ""
    steps: tuple[tuple[str, str], ...] = ()
    conclusion: str = ""
    text: str = ""
    """The final reply, where it says more than the answer."""
    score: int | None = None
    notes: tuple[str, ...] = ()
    """Reasons of judge and scorer, defects, failure."""


@dataclass(frozen=True, slots=True)
class Example:
    """A problem with its image and everything that was answered to it."""

    kind: str
    """Split or stage that it comes from."""
    outcome: str
    """Of a test problem: `helped`, `hurt`, `both right`, `both wrong`, last row against baseline. Of chains: `mixed`, `all right`, `all wrong`."""
    family: str
    problem_id: str
    question: str
    options: tuple[str, ...]
    truth: tuple[str, ...]
    images: tuple[str, ...]
    """Data URLs."""
    outputs: tuple[Output, ...]


def choose_solutions(
    split: str, systems: Mapping[str, Sequence[Solution]], known: Mapping[str, Problem], images: ImageStore, *, baseline: str, limit: int
) -> list[Example]:
    """Test problems spread evenly over families and outcomes; the outcome compares the last row with the baseline."""
    answers: dict[str, list[Solution]] = defaultdict(list)
    for solutions in systems.values():
        for solution in solutions:
            if solution.problem_id in known:
                answers[solution.problem_id].append(solution)
    last = list(systems)[-1] if systems else ""
    outcomes = {problem: _change(those, baseline, last) for problem, those in answers.items()}
    return [
        _example(split, outcomes[problem.id], problem, images, [_from_solution(s) for s in answers[problem.id]])
        for problem in _spread([known[key] for key in answers], outcomes, limit)
    ]


def choose_chains(
    stage: str,
    chains: Iterable[Chain],
    verdicts: Mapping[str, Verdict],
    scores: Mapping[str, Score],
    known: Mapping[str, Problem],
    images: ImageStore,
    *,
    limit: int,
) -> list[Example]:
    """Problems of a generating stage with all their chains, spread evenly over families and outcomes."""
    paths: dict[str, list[Output]] = defaultdict(list)
    for chain in sorted(chains, key=lambda chain: (chain.problem_id, chain.index, chain.id)):
        if chain.problem_id in known:
            paths[chain.problem_id].append(_from_chain(chain, verdicts.get(chain.id), scores.get(chain.id)))
    outcomes = {problem: _mixture(outputs) for problem, outputs in paths.items()}
    return [_example(stage, outcomes[problem.id], problem, images, paths[problem.id]) for problem in _spread([known[key] for key in paths], outcomes, limit)]


def _spread(problems: Sequence[Problem], outcomes: Mapping[str, str], limit: int) -> list[Problem]:
    cells: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in sorted(problems, key=lambda problem: problem.id):
        cells[outcomes[problem.id], family(problem)].append(problem)
    rounds = zip_longest(*(cells[key] for key in sorted(cells, key=lambda key: (_TELLING.get(key[0], 2), key))))
    return [problem for turn in rounds for problem in turn if problem is not None][:limit]


def _change(solutions: Sequence[Solution], baseline: str, last: str) -> str:
    results = {solution.system: solution.correct for solution in solutions}
    before, after = results.get(baseline), results.get(last)
    if before is None or after is None:
        return "not compared"
    return {(False, True): "helped", (True, False): "hurt", (True, True): "both right", (False, False): "both wrong"}[before, after]


def _mixture(outputs: Sequence[Output]) -> str:
    results = {output.correct for output in outputs} - {None}
    return "not judged" if not results else "mixed" if len(results) > 1 else "all right" if True in results else "all wrong"


def _from_solution(solution: Solution) -> Output:
    chain = solution.chain
    text = solution.text.strip()
    return Output(
        title=solution.system,
        answer=solution.answer,
        correct=solution.correct,
        chain_answer=chain.answer if chain else "",
        steps=_steps(chain),
        conclusion=chain.conclusion if chain else "",
        text="" if text == solution.answer or (chain and text == chain.text.strip()) else text,
        notes=tuple(filter(None, (solution.reason, "no answer found" if not solution.parsed else "", *(chain.defects if chain else ())))),
    )


def _from_chain(chain: Chain, verdict: Verdict | None, score: Score | None) -> Output:
    judged = f"judged by {verdict.by}: {verdict.reason}" if verdict and verdict.reason else ""
    scored = f"scorer: {score.reason}" if score and score.reason else ""
    return Output(
        title=f"path {chain.index + 1}",
        answer=chain.answer,
        correct=verdict.correct if verdict else None,
        steps=_steps(chain),
        conclusion=chain.conclusion,
        score=score.value if score else None,
        notes=tuple(filter(None, (judged, scored, chain.reason, *chain.defects))),
    )


def _steps(chain: Chain | None) -> tuple[tuple[str, str], ...]:
    if chain is None:
        return ()
    if not chain.steps and chain.text:
        return (("as written", chain.text),)
    return tuple((step.summary, step.reasoning) for step in chain.steps)


def _example(kind: str, outcome: str, problem: Problem, images: ImageStore, outputs: Sequence[Output]) -> Example:
    return Example(
        kind=kind,
        outcome=outcome,
        family=family(problem),
        problem_id=problem.id,
        question=problem.question,
        options=problem.options,
        truth=problem.answers,
        images=tuple(filter(None, (_data_url(images, name) for name in problem.images))),
        outputs=tuple(outputs),
    )


def _data_url(images: ImageStore, name: str) -> str:
    try:
        return to_data_url(images.get(name))
    except UserError:
        # A report without one picture is better than none: the card says what it lacks by showing no image.
        return ""
