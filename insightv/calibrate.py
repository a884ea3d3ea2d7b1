"""`insightv calibrate`: a finished run's verdicts and scores held against what its world knows, or against labels given by hand."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from insightv.answers import settle
from insightv.config import UserError
from insightv.datasets.sources import read_problems
from insightv.evaluation.calibration import Case, calibrate, position_bias
from insightv.evaluation.run import family
from insightv.files import explained, replacing
from insightv.prompts import ask
from insightv.records import Chain, Problem, Score, Verdict
from insightv.showing import saved
from insightv.store import ImageStore, read_records
from insightv.world.truth import chain_truth

Row = dict[str, object]

LONGEST_LINE = 2**20
"""Bytes of a line of labels at most."""


class Label(BaseModel):
    """A line of a labels file; what else stands in it, such as the question of a labelling sheet, is passed over."""

    model_config = ConfigDict(strict=True)

    chain_id: str
    correct: bool | None = None
    """Whether the answer is right; None: not labelled yet."""
    quality: float | None = Field(None, ge=0, le=1)
    """The share of the chain's steps that are right, if somebody looked."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)


class _Judged(NamedTuple):
    problems: Mapping[str, Problem]
    chains: Mapping[str, Chain]
    verdicts: Mapping[str, Verdict]
    scores: Mapping[str, Score]
    ratings: Sequence[Score]
    """One score of each chain and order."""


def report(run: Path, stage: str = "assess", labels: Path | None = None) -> tuple[list[Row], list[Row]]:
    """Compare, write RUN/calibration.json and return (rows by group, rows by position), to be shown.

    Without labels the world's truth counts; a `UserError` where there is none, or where labels do not fit the run.
    """
    seed, judged = saved(run).seed, _judged(run, stage)
    found = _labelled(labels, judged.chains) if labels else _truths(judged)
    cases = [_case(judged, name, label) for name, label in sorted(found.items()) if name in judged.verdicts]
    if not cases:
        raise UserError(f"{labels or run}: no chain that {stage} has judged is labelled; fill in `correct` with true or false")
    groups, places = calibrate(cases, seed=seed), position_bias(judged.ratings, seed=seed)
    told = {"stage": stage, "labels": "world" if labels is None else "by hand", "groups": groups, "positions": places}
    with replacing(run / "calibration.json") as file:
        file.write(json.dumps(told, indent=1).encode() + b"\n")
    return [_row(name, group) for name, group in groups.items()], [row | {"shift": _shown(row["shift"])} for row in places]


def sheet(run: Path, count: int, stage: str = "assess") -> Path:
    """Write RUN/to-label.jsonl: `count` chains drawn evenly over verdicts and scores, without either, for a person to fill in; returns its path.

    `weight` says how many chains each stands for. A sheet that somebody has begun to fill in is not written over.
    """
    judged, path, rng = _judged(run, stage), run / "to-label.jsonl", Random(saved(run).seed)
    if path.exists() and any(label.correct is not None for _, label in _labels(path)):
        raise UserError(f"{path} holds labels already; move it away before a new sheet is drawn")
    strata: dict[tuple[object, ...], list[str]] = {}
    for name, verdict in sorted(judged.verdicts.items()):
        score = judged.scores.get(name)
        strata.setdefault((verdict.correct, verdict.by, -1 if score is None or score.value is None else (score.value - 1) // 25), []).append(name)
    drawn = _drawn([strata[key] for key in sorted(strata, key=str)], count, rng)
    lines = [_line(judged, ImageStore(run / "images"), run, name) | {"weight": weight} for name, weight in drawn]
    with replacing(path) as file:
        file.writelines(orjson.dumps(line) + b"\n" for line in lines)
    return path


def _drawn(strata: Sequence[list[str]], count: int, rng: Random) -> list[tuple[str, float]]:
    """(name, how many it stands for), in turns from each stratum, in an order that tells nothing."""
    shuffled = [rng.sample(names, len(names)) for names in strata]
    picked = [(place, stratum) for stratum, names in enumerate(shuffled) for place in range(len(names))]
    chosen = sorted(picked)[:count]
    taken = [sum(1 for _, other in chosen if other == stratum) for stratum in range(len(strata))]
    drawn = [(shuffled[stratum][place], round(len(strata[stratum]) / taken[stratum], 4)) for place, stratum in chosen]
    return rng.sample(drawn, len(drawn))


def _line(judged: _Judged, images: ImageStore, run: Path, name: str) -> dict[str, Any]:
    chain = judged.chains[name]
    problem = judged.problems[chain.problem_id]
    return {
        "chain_id": name,
        "correct": None,
        "quality": None,
        "question": ask(problem),
        "answer": chain.answer,
        "truth": list(problem.answers),
        "images": [images.path(digest).relative_to(run).as_posix() for digest in problem.images],
        "steps": [f"{step.summary}: {step.reasoning}" for step in chain.steps],
    }


def _judged(run: Path, stage: str) -> _Judged:
    if not re.fullmatch(r"assess|[a-z0-9-]+-assess", stage):
        raise UserError(f"stage {stage!r} judges no chains; name assess, own-chains-assess or round1-chains-assess, for instance")
    source = "generate" if stage == "assess" else stage.removesuffix("-assess")
    if not (run / stage / "verdicts.jsonl").is_file():
        raise UserError(f"{run} has no finished {stage}; run its config first")
    problems = {problem.id: problem for path in sorted((run / "problems").glob("*.jsonl")) for problem in read_problems(path)}
    chains = {chain.id: chain for chain in read_records(run / source / "chains.jsonl", Chain) if chain.status != "failed" and chain.problem_id in problems}
    verdicts = {verdict.chain_id: verdict for verdict in read_records(run / stage / "verdicts.jsonl", Verdict) if verdict.chain_id in chains}
    scores = list(read_records(run / stage / "scores.jsonl", Score))
    path = run / stage / "ratings.jsonl"
    ratings = list(read_records(path, Score)) if path.is_file() else scores
    return _Judged(problems, chains, verdicts, {score.chain_id: score for score in scores}, ratings)


def _case(judged: _Judged, name: str, label: Label) -> Case:
    verdict, score = judged.verdicts[name], judged.scores.get(name)
    problem = judged.problems[judged.chains[name].problem_id]
    right = bool(label.correct)
    return Case(problem.id, family(problem), verdict.by, verdict.correct, right, score.value if score else None, label.quality, label.weight)


def _truths(judged: _Judged) -> dict[str, Label]:
    found = {}
    for name, chain in judged.chains.items():
        problem = judged.problems[chain.problem_id]
        if "scene" not in problem.meta:
            raise UserError("this run's problems are not the world's, so nobody knows the truth; draw a sheet by --sample, fill it in and give it as --labels")
        found[name] = Label(chain_id=name, correct=_says(problem, chain.answer), quality=chain_truth(problem, chain)[0])
    return found


def _says(problem: Problem, answer: str) -> bool:
    """Whether an answer is right, also in the sentence that rules leave to the judge: the world's answers are single words, and its sentences have one."""
    settled = settle(answer, problem)
    if settled is not None or problem.options:
        return settled is True
    return not set(problem.answers).isdisjoint(re.findall(r"\w+", answer.casefold()))


def _labelled(path: Path, chains: Mapping[str, Chain]) -> dict[str, Label]:
    """The labels that are filled in, by chain."""
    found: dict[str, Label] = {}
    for number, label in _labels(path):
        if label.chain_id not in chains:
            raise UserError(f"{path}:{number}: this run has no chain {label.chain_id!r}; give the labels of this run and stage")
        if label.correct is None:
            continue
        if found.setdefault(label.chain_id, label) != label:
            raise UserError(f"{path}:{number}: chain {label.chain_id!r} is labelled twice, and differently; keep one line")
    return found


def _labels(path: Path) -> list[tuple[int, Label]]:
    """(number of the line, label) of every line; a line that is none is a `UserError` that says where."""
    if not path.is_file():
        raise UserError(f"no labels at {path}")
    found = []
    with explained(path), path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise UserError(f"{path}:{number}: a line of labels has {LONGEST_LINE} bytes at most")
            if line.strip():
                try:
                    found.append((number, Label.model_validate_json(line)))
                except ValidationError as error:
                    first = error.errors()[0]
                    place = ".".join(str(part) for part in first["loc"])
                    raise UserError(f"{path}:{number}: not a label: {place + ': ' if place else ''}{first['msg']}") from None
    return found


def _row(name: str, group: Mapping[str, Any]) -> Row:
    names = ("precision", "recall", "f1", "kappa", "spearman", "kendall", "auc")
    return {"group": name, "n": group["n"], "unjudged": group["unjudged"]} | {figure: _shown(group[figure]) for figure in names}


def _shown(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return "-"
    return f"{rate['value']:.3f}" + ("" if rate["low"] is None else f" [{rate['low']:.3f}, {rate['high']:.3f}]")
