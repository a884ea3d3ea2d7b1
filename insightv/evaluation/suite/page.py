"""The comparison of two systems as one self-contained page, in the report's style."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from insightv.config import UserError
from insightv.evaluation.examples import Example, Output
from insightv.evaluation.report import as_json, asset, policy, shown_p
from insightv.evaluation.suite.contrast import Contrast, average
from insightv.evaluation.suite.predictions import Prediction
from insightv.evaluation.suite.score import Result, Verdict
from insightv.evaluation.suite.sheet import counts
from insightv.files import replacing
from insightv.images import decode, resize, to_data_url
from insightv.records import Problem
from insightv.store import ImageStore

SHOWN = 40
"""Items of each benchmark and outcome that have a card."""
_LARGE, _SIDE = 100_000, 640
"""Bytes from which on a picture is made smaller, and pixels of its longer side then."""


@dataclass(frozen=True, slots=True)
class Answers:
    """A system's answers, by item."""

    name: str
    predictions: Mapping[str, Prediction]
    verdicts: Mapping[str, Verdict]


def write(path: Path, compared: Sequence[tuple[Contrast, Result, Result]], examples: Sequence[Example], names: tuple[str, str], listed: str) -> None:
    """Write the page; `names` are those of the two systems, `listed` that of the file with all that was hurt. Same data, same bytes."""
    contrasts = [one for one, _, _ in compared]
    style, script = asset("report.css"), asset("report.js")
    environment = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    environment.filters.update(signed=_signed, plain=lambda value: f"{value:.1f}" if value == value else "\N{EN DASH}", pvalue=shown_p)
    html = environment.from_string(asset("contrast.html")).render(
        before=names[0],
        after=names[1],
        profile=contrasts[0].profile,
        contrasts=[(one, old.total, new.total) for one, old, new in compared],
        average=average(contrasts).rate(),
        better=[one for one in contrasts if one.verdict == "better"],
        worse=[one for one in contrasts if one.verdict == "worse"],
        helped=sum(len(one.helped) for one in contrasts),
        hurt=sum(len(one.hurt) for one in contrasts),
        left_out=sum(one.left_out for one in contrasts),
        counts=counts([replace(result, row=name) for _, *both in compared for result, name in zip(both, names, strict=True)]),
        examples=as_json(examples) if examples else "",
        limit=SHOWN,
        listed=listed,
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
    )
    with replacing(path) as file:
        file.write(html.encode())


def cards(contrast: Contrast, items: Mapping[str, Problem], images: ImageStore, told: Sequence[Answers]) -> list[Example]:
    """What was hurt and what was helped, with the answers of both."""
    outcomes = chain(((item, "hurt") for item in contrast.hurt[:SHOWN]), ((item, "helped") for item in contrast.helped[:SHOWN]))
    return [_card(contrast.benchmark, items[item], outcome, images, told) for item, outcome in outcomes]


def _card(benchmark: str, problem: Problem, outcome: str, images: ImageStore, told: Sequence[Answers]) -> Example:
    index, row = str(problem.meta["index"]), problem.meta["row"]
    return Example(
        kind=benchmark,
        outcome=outcome,
        family=str(row.get("category") or row.get("question_type") or row.get("type") or benchmark),
        problem_id=index,
        question=f"{index}: {problem.question}",
        options=(),
        truth=problem.answers,
        images=tuple(filter(None, (_picture(images, name) for name in problem.images))),
        outputs=tuple(_output(one.name, one.predictions[index], one.verdicts[index]) for one in told),
    )


def _picture(images: ImageStore, name: str) -> str:
    """An image as the page shows it, made smaller where it is large: a page may hold hundreds of them. Empty where it is not there."""
    try:
        data = images.get(name)
    except UserError:
        return ""
    if len(data) <= _LARGE:
        return to_data_url(data)
    buffer = io.BytesIO()
    resize(decode(data), f"max_side:{_SIDE}").save(buffer, "JPEG", quality=80)
    return to_data_url(buffer.getvalue())


def _output(name: str, prediction: Prediction, verdict: Verdict) -> Output:
    value = verdict.value or 0.0
    notes = [
        "" if value in (0.0, 1.0) else f"scored {value:.2f}",
        "no answer was read" if verdict.read is None else "",
        "cut off at the limit of tokens" if verdict.truncated else "",
        "a judge found the answer" if verdict.by_judge else "",
    ]
    answer = verdict.read if verdict.read is not None else prediction.content
    return Output(
        title=name,
        answer=answer[:200],
        correct=value == 1.0,
        steps=(("as written", prediction.reasoning),) if prediction.reasoning else (),
        text="" if prediction.content == answer else prediction.content,
        notes=tuple(filter(None, notes)),
    )


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
