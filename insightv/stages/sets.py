"""Data sets from chains and judgements: of the agents, of the models that they are compared with, and of DPO's rounds."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import orjson

from insightv.config import SummaryDataConfig, UserError
from insightv.datasets import built, export, preference, reasoning, summary
from insightv.datasets.rows import Made, Rated
from insightv.records import Problem
from insightv.sorting import Sorter
from insightv.stages.context import Context, Summary
from insightv.store import read_manifest


def build_reasoning(context: Context, work: Path, form: reasoning.Form) -> Summary:
    """Best paths as rows of the reasoner, or in the form of a control."""
    config, rated = context.config, context.rated("generate", "assess", "train", work / "scratch")
    return _save(context, work, reasoning.build(rated, config.reasoning, config.prompts, form, seed=config.seed))


def build_summary(context: Context, work: Path, own: str, like: str | None = None) -> Summary:
    """The summary agent's four parts; with `like`, as many rows as that set has."""
    chains = context.rated(own, f"{own}-assess", "own", work / "scratch")
    settings = context.config.summary
    return _mix(context, work, chains, settings if like is None else settings.model_copy(update={"size": _rows(context, like)}))


def build_high(context: Context, work: Path, like: str) -> Summary:
    """A summary set without anything to doubt: High paths of the teacher in the place of all other chains, as many rows as `like`."""
    settings = context.config.summary
    optimal = settings.optimal + settings.flawed + settings.own
    nothing = Rated(_nothing, _nothing, _nothing, _nothing)
    return _mix(context, work, nothing, settings.model_copy(update={"optimal": optimal, "flawed": 0.0, "own": 0.0, "size": _rows(context, like)}))


def _nothing() -> Iterator[Any]:
    return iter(())


def _mix(context: Context, work: Path, own: Rated, settings: SummaryDataConfig) -> Summary:
    config = context.config
    teacher = context.rated("generate", "assess", "train", work / "scratch")
    made, mixture = summary.build(teacher, own, partial(context.lean, "plain"), settings, config.prompts, seed=config.seed)
    return _save(context, work, made) | {"mixture": mixture}


def build_fair(context: Context, work: Path) -> Summary:
    """The fair control's set: chains with answers, and every question and label that the summary agent saw, as plain QA."""
    config, scratch = context.config, work / "scratch"
    rated = context.rated("generate", "assess", "train", scratch)
    chains = reasoning.build(rated, config.reasoning, config.prompts, reasoning.single_row, seed=config.seed)
    return _save(context, work, chain(chains, _plain(context, scratch)))


def build_plain(context: Context, work: Path) -> Summary:
    """Every question and label that the summary agent saw, as plain QA alone."""
    return _save(context, work, _plain(context, work / "scratch"))


def build_joined(context: Context, work: Path, sources: tuple[str, ...]) -> Summary:
    """The rows of several data sets together."""
    return _save(context, work, built.joined(*(context.run.folder / name for name in sources)))


def build_chosen(context: Context, work: Path, source: str) -> Summary:
    """The chosen chains of a round's pairs, to be imitated."""
    return _save(context, work, built.chosen(context.run.folder / source))


def _rows(context: Context, name: str) -> int:
    """How many rows a data set has."""
    return int(read_manifest(context.run.folder / name)["summary"]["rows"])


def _plain(context: Context, scratch: Path) -> Iterator[Made]:
    return (([reasoning.plain_row(problem, context.config.prompts)], []) for problem in _seen(context, scratch))


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


def build_pairs(context: Context, work: Path, source: str, judged: str, split: str, *, like: str | None = None) -> Summary:
    """Preference pairs of one round (Insight-V, section 3.4); with `like`, as many as that set has at most, by their ratings alone."""
    config, settings = context.config, context.config.preference
    if like:
        settings = settings.model_copy(update={"rules": ("rating",), "max_pairs": _rows(context, like)})
    rated = context.rated(source, judged, split, work / "scratch")
    made, counts = preference.build(rated, settings, config.prompts, seed=config.seed)
    if not counts["rows"]:
        raise UserError(_no_pairs(rated, made))
    return _save(context, work, made) | {"pairs": counts}


def _no_pairs(rated: Rated, made: Iterable[Made]) -> str:
    outcome = Counter(candidate.correct for _, candidates in rated for candidate in candidates)
    found = Counter(rejection["reason"] for _, rejections in made for rejection in rejections)
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(found.items()))
    # Ratings alone come without verdicts.
    judged = f" {outcome[True]} of {outcome.total()} chains were correct, {outcome[False]} wrong" if outcome[None] < outcome.total() else ""
    return (
        f"no preference pairs:{judged} (why each is in no pair: {reasons}); "
        "sample more with dpo.n, loosen the preference settings, train the reasoner longer, or take the teacher's pairs by dpo.pairs_from: teacher"
    )


def _save(context: Context, work: Path, made: Iterable[Made]) -> Summary:
    return export.save(made, context.run.images, work, work / "scratch" / "rows")
