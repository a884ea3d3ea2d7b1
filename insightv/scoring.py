"""The verbs that score predictions of benchmarks and hold two systems against each other; no model is loaded, and none is asked but a judge on wish."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from insightv.benchmarking import CONFIG
from insightv.config import Config, UserError
from insightv.config_file import load_config
from insightv.evaluation.suite import page, predictions
from insightv.evaluation.suite.contrast import Contrast, contrast, corrected
from insightv.evaluation.suite.judge import find
from insightv.evaluation.suite.predictions import Prediction
from insightv.evaluation.suite.score import Result, score, unread
from insightv.evaluation.suite.sheet import markdown
from insightv.files import replacing
from insightv.processes import metered
from insightv.records import Problem
from insightv.scale.local import map_records
from insightv.scale.local import run as run_loop
from insightv.stages.context import Context
from insightv.store import ImageStore, Run

Found = dict[tuple[str, int], str | None]
"""By item and sample, the answer that a judge found; None where it failed."""


def scored(run: Path, profile: str, names: Sequence[str], *, judged: bool, overrides: Sequence[str]) -> tuple[list[Result], Path]:
    """Score all predictions of a run, or those of the named benchmarks, by a profile; returns the results and the table written beside them.

    With `judged` the model of `evaluate.judge` is asked for the answer where the rule finds none; its replies are kept in the run's journal.
    """
    there = predictions.benchmarks(run)
    if unknown := [name for name in names if name not in there]:
        raise UserError(f"{run} has no predictions of {unknown[0]}; there are those of {', '.join(there)}")
    pairs = [(name, row) for name in dict.fromkeys(names or there) for row in predictions.rows(run, name)]
    config = _config(run, overrides) if judged else None
    found = run_loop(_judged(config, run, profile, pairs)) if config else {}
    called = profile
    if config and config.evaluate.judge:
        failed = sum(answer is None for those in found.values() for answer in those.values())
        called += f", answers found by {config.evaluate.judge.model}" + (f", which failed on {failed} and is asked again" if failed else "")
    results = [score(run, name, row, profile, found.get((name, row))) for name, row in pairs]
    # A table of some does not stand in the place of that of all.
    path = run / "benchmarks" / f"{'-'.join([profile, *(['judged'] if judged else []), *dict.fromkeys(names)])}.md"
    with replacing(path) as file:
        file.write(markdown(results, called).encode())
    return results, path


def compared(before: str, after: str, profile: str, names: Sequence[str], out: Path | None) -> tuple[list[Contrast], Path]:
    """Hold two systems, each RUN:ROW, against each other on the benchmarks that both answered; returns the contrasts and the page."""
    sides = [_side(text) for text in (before, after)]
    common = [name for name in predictions.benchmarks(sides[0][0]) if all(row in predictions.rows(run, name) for run, row in sides)]
    if missing := [name for name in names if name not in common]:
        raise UserError(f"{missing[0]} was not answered by both; {', '.join(common) or 'no benchmark'} was")
    if not common:
        raise UserError(f"{before} and {after} have answered no benchmark in common")
    (was, old), (now, new) = sides
    results = [(score(was, name, old, profile), score(now, name, new, profile)) for name in dict.fromkeys(names or common)]
    contrasts = corrected([contrast(*pair) for pair in results])
    labels = _labels(sides)
    path = out or sides[1][0] / "benchmarks" / f"{labels[0]}-vs-{labels[1]}.html".replace("/", "-").replace(":", "-")
    listed = path.with_name(f"{path.stem}-regressions.jsonl")
    examples = []
    with replacing(listed) as file:
        for one, pair in zip(contrasts, results, strict=True):
            told = [_answers(run, label, result) for (run, _), label, result in zip(sides, labels, pair, strict=True)]
            items = predictions.items(sides[1][0], one.benchmark)
            file.writelines(orjson.dumps(_regression(one, items[item], told), option=orjson.OPT_APPEND_NEWLINE) for item in one.hurt)
            examples += page.cards(one, items, ImageStore(sides[1][0] / "images"), told)
    page.write(path, [(one, old, new) for one, (old, new) in zip(contrasts, results, strict=True)], examples, labels, listed.name)
    return contrasts, path


def _side(text: str) -> tuple[Path, str]:
    """The run and the row of RUN:ROW; the row may be left out where there is one."""
    head, _, row = text.rpartition(":")
    run = Path(head if head and not Path(text).is_dir() else text)
    rows = sorted({row for name in predictions.benchmarks(run) for row in predictions.rows(run, name)})
    if run == Path(text):
        if len(rows) > 1:
            raise UserError(f"{text} has predictions of {', '.join(rows)}; say which, as {text}:{rows[0]}")
        return run, rows[0]
    if row not in rows:
        raise UserError(f"{run} has no predictions of {row!r}, but of {', '.join(rows)}")
    return run, row


def _labels(sides: Sequence[tuple[Path, str]]) -> tuple[str, str]:
    """Two names that tell the systems apart, as short as they can be."""
    (old, before), (new, after) = sides
    if old.resolve() == new.resolve():
        return before, after
    short = (old.name, new.name) if old.name != new.name else (str(old), str(new))
    return f"{short[0]}:{before}", f"{short[1]}:{after}"


def _answers(run: Path, label: str, result: Result) -> page.Answers:
    """Each item's first answer and what the rule made of it."""
    place = predictions.folder(run, result.benchmark, result.row)
    standing = predictions.standing(place, predictions.asking_of(place), predictions.items(run, result.benchmark))
    # Of several answers to an item the first that was scored.
    verdicts = {one.item: one for one in reversed(result.verdicts) if one.value is not None}
    return page.Answers(label, {item: standing[item, one.sample] for item, one in verdicts.items()}, verdicts)


def _regression(one: Contrast, problem: Problem, told: Sequence[page.Answers]) -> dict[str, Any]:
    item = str(problem.meta["index"])
    sides = {
        answers.name: {"content": answers.predictions[item].content, "reasoning": answers.predictions[item].reasoning, "read": answers.verdicts[item].read}
        for answers in told
    }
    return {"benchmark": one.benchmark, "item": item, "question": problem.question, "answers": list(problem.answers), **sides}


def _config(run: Path, overrides: Sequence[str]) -> Config:
    config = load_config(run / CONFIG, overrides)
    if config.evaluate.judge is None:
        raise UserError("there is no judge: say where it is, as by -o evaluate.judge.url=http://127.0.0.1:8000/v1 -o evaluate.judge.model=NAME")
    return config


async def _judged(config: Config, run: Path, profile: str, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Found]:
    """What the judge found in replies that the rule cannot read, by benchmark and row."""
    here = Run(run, config.journal)
    # A judge that failed before is asked again.
    context = Context(config, here, lambda _: None, retry_failed=True, meter=metered(config, here))
    assert config.evaluate.judge
    async with context.asking([config.evaluate.judge]) as [judge]:

        async def ask(owed: tuple[Problem, Prediction]) -> tuple[tuple[str, int], str | None]:
            problem, prediction = owed
            return (prediction.item, prediction.sample), await find(problem, prediction, judge, config.seed)

        places = config.evaluate.judge.concurrency * len(config.evaluate.judge.urls)
        return {pair: dict(await map_records(ask, unread(run, *pair, profile), concurrency=places)) for pair in pairs}
