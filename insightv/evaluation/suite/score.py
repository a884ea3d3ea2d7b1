"""Score predictions by a profile's rules: offline, as often as one likes, and with what no rule could read counted apart."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import orjson

from insightv.config import UserError
from insightv.evaluation.marking import Mark
from insightv.evaluation.profiles import mark
from insightv.evaluation.suite.predictions import Prediction, asking_of, folder, items, standing
from insightv.evaluation.totals import Scored, Total, counts_whole, total
from insightv.files import replacing
from insightv.records import Problem


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule made of one prediction."""

    item: str
    sample: int
    value: float | None
    """0..1; None for a failed one, which is owed and not scored."""
    read: str | None
    """The answer as the rule read it; None where it found none, which scores 0."""
    truncated: bool
    """Its answer or its chain ended at the limit of tokens."""
    by_judge: bool = False
    """A model found the answer that the rule then read."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one system did on one benchmark under one profile."""

    benchmark: str
    row: str
    profile: str
    total: Total
    """NaN where nothing could be scored."""
    scored: tuple[Scored, ...]
    """What the total is of."""
    verdicts: tuple[Verdict, ...]
    problems: Mapping[str, str]
    """The id of each item's problem."""
    asked: str
    """Whose predictions these are, as `Asking.model` and its prompts."""
    owed: int
    """Answers that are to come: never asked, or failed."""
    items: int
    """That the benchmark has here."""
    missing: int
    """Items in no number: never asked, or failed, or of a cluster that counts only whole and has such an item."""
    unparsed: int
    truncated: int
    failed: int
    """Predictions."""
    tokens: float
    seconds: float
    """Of a question, on average over its scored answers."""


def score(run: Path, benchmark: str, row: str, profile: str, found: Mapping[tuple[str, int], str | None] | None = None) -> Result:
    """Score what stands of a row's predictions, and write each verdict to RUN/benchmarks/NAME/scores/PROFILE/ROW.jsonl.

    `found` are answers that a judge found, by item and sample, in replies in which the rule had found none.
    """
    wanted = items(run, benchmark)
    place = folder(run, benchmark, row)
    asking = asking_of(place)
    predictions = standing(place, asking, wanted)
    made = [_verdict(one, wanted[one.item], profile, (found or {}).get(key)) for key, one in sorted(predictions.items())]
    with replacing(run / "benchmarks" / benchmark / "scores" / (profile if found is None else f"{profile}-judged") / f"{row}.jsonl") as file:
        file.writelines(orjson.dumps(verdict, option=orjson.OPT_APPEND_NEWLINE) for verdict in made)
    good = [one for one in predictions.values() if one.status == "ok"]
    scored = tuple(_scored(made, wanted, counts_whole(profile, benchmark)))
    return Result(
        benchmark=benchmark,
        row=row,
        profile=profile,
        total=total(profile, benchmark, scored),
        scored=scored,
        verdicts=tuple(made),
        problems={item: problem.id for item, problem in wanted.items()},
        asked=f"{asking.model} {asking.prompts}",
        owed=len(wanted) * asking.samples - len(good),
        items=len(wanted),
        missing=len(wanted) - len({one.item for one in scored}),
        unparsed=sum(verdict.value is not None and verdict.read is None for verdict in made),
        truncated=sum(verdict.truncated for verdict in made),
        failed=sum(verdict.value is None for verdict in made),
        tokens=fmean(one.usage.completion for one in good) if good else float("nan"),
        seconds=fmean(one.seconds for one in good) if good else float("nan"),
    )


def unread(run: Path, benchmark: str, row: str, profile: str) -> list[tuple[Problem, Prediction]]:
    """What a judge may be asked about: answers in which the rule finds none, though there is something to read."""
    wanted = items(run, benchmark)
    place = folder(run, benchmark, row)
    predictions = standing(place, asking_of(place), wanted).values()
    open_ = [(wanted[one.item], one) for one in predictions if one.status == "ok" and one.content.strip()]
    return [(problem, one) for problem, one in open_ if _verdict(one, problem, profile, None).read is None]


def _verdict(prediction: Prediction, problem: Problem, profile: str, found: str | None) -> Verdict:
    truncated = "length" in (prediction.finish, prediction.chain_finish)
    if prediction.status == "failed":
        return Verdict(prediction.item, prediction.sample, None, None, truncated)
    made = _marked(prediction, problem, profile, prediction.content)
    by_judge = made.read is None and bool(found)
    if found and by_judge:
        made = _marked(prediction, problem, profile, found)
    return Verdict(prediction.item, prediction.sample, made.value, made.read, truncated, by_judge and made.read is not None)


def _marked(prediction: Prediction, problem: Problem, profile: str, content: str) -> Mark:
    place = f"{prediction.benchmark}: item {prediction.item}"
    if not any(answer.strip() not in ("", "nan") for answer in problem.answers):
        raise UserError(f"{place} has no accepted answer, as in test splits: it can be answered, not scored")
    try:
        return mark(profile, prediction.benchmark, content, problem.meta["row"])
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{place} cannot be scored by {profile}: {type(error).__name__} {error}; its row has {', '.join(problem.meta['row'])}") from None


def _scored(verdicts: Iterable[Verdict], wanted: Mapping[str, Problem], whole: bool) -> list[Scored]:
    """What the benchmark's number is made of; where clusters count `whole`, no part of one that lacks a mark."""
    clusters = {index: str(problem.meta["cluster"]) for index, problem in wanted.items()}
    marked = [one for one in verdicts if one.value is not None]
    if whole:
        size, there = Counter(clusters.values()), Counter((clusters[one.item], one.sample) for one in marked)
        marked = [one for one in marked if there[clusters[one.item], one.sample] == size[clusters[one.item]]]
    return [Scored(one.item, clusters[one.item], wanted[one.item].meta["row"], one.value, one.sample) for one in marked if one.value is not None]
