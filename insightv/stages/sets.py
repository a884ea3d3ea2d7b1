"""Data sets from chains and judgements: of the agents, of the models that they are compared with, and of DPO's rounds."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, groupby
from pathlib import Path

import orjson

from insightv.config import UserError
from insightv.datasets import export, preference, reasoning, summary
from insightv.datasets.rows import Made, Rated
from insightv.records import Problem
from insightv.sorting import Sorter
from insightv.stages.context import Context, Summary


def build_reasoning(context: Context, work: Path, form: reasoning.Form) -> Summary:
    """Best paths as rows of the reasoner, or in the form of a control."""
    rated = context.rated("generate", "assess", "train", work / "scratch")
    return _save(context, work, reasoning.build(rated, context.config.reasoning, context.config.prompts, form))


def build_summary(context: Context, work: Path, own: str) -> Summary:
    """The summary agent's four parts."""
    config, scratch = context.config, work / "scratch"
    teacher, chains = context.rated("generate", "assess", "train", scratch), context.rated(own, f"{own}-assess", "own", scratch)
    made, mixture = summary.build(teacher, chains, partial(context.lean, "plain"), config.summary, config.prompts, seed=config.seed)
    return _save(context, work, made) | {"mixture": mixture}


def build_fair(context: Context, work: Path) -> Summary:
    """The fair control's set: chains with answers, and every question and label that the summary agent saw, as plain QA."""
    config, scratch = context.config, work / "scratch"
    rated = context.rated("generate", "assess", "train", scratch)
    chains = reasoning.build(rated, config.reasoning, config.prompts, reasoning.single_row)
    plain: Iterator[Made] = (([reasoning.plain_row(problem, config.prompts)], []) for problem in _seen(context, scratch))
    return _save(context, work, chain(chains, plain))


def _seen(context: Context, scratch: Path) -> Iterator[Problem]:
    """The problems of the summary agent's set, each once."""
    ids = Sorter(scratch / "ids")
    with (context.run.folder / "summary-data" / "manifest.jsonl").open("rb") as file:
        for line in file:
            problem_id = orjson.loads(line)["problem_id"].encode()
            ids.add(problem_id, problem_id)
    problems = context.by_id(("train", "own", "plain"), scratch / "problems")
    for problem_id, _ in groupby(ids):
        yield next(problem for problem in problems if problem.id.encode() == problem_id)


def build_pairs(context: Context, work: Path, source: str, judged: str, split: str) -> Summary:
    """Preference pairs of one round (Insight-V, section 3.4)."""
    config = context.config
    rated = context.rated(source, judged, split, work / "scratch")
    made, counts = preference.build(rated, config.preference, config.prompts, seed=config.seed)
    if not counts["rows"]:
        raise UserError(_no_pairs(rated, made))
    return _save(context, work, made) | {"pairs": counts}


def _no_pairs(rated: Rated, made: Iterable[Made]) -> str:
    outcome = Counter(candidate.correct for _, candidates in rated for candidate in candidates)
    found = Counter(rejection["reason"] for _, rejections in made for rejection in rejections)
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(found.items()))
    return (
        f"no preference pairs: {outcome[True]} of {outcome.total()} chains were correct, {outcome[False]} wrong (why each is in no pair: {reasons}); "
        "sample more with dpo.n, loosen the preference settings, train the reasoner longer, or take the teacher's pairs by dpo.pairs_from: teacher"
    )


def _save(context: Context, work: Path, made: Iterable[Made]) -> Summary:
    return export.save(made, context.run.images, work, work / "scratch" / "rows")
