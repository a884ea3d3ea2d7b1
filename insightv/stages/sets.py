"""Data sets from chains and judgements: of the agents, of the models that they are compared with, and of DPO's rounds."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from insightv.config import UserError
from insightv.datasets import export, preference, reasoning, summary
from insightv.datasets.rows import Rejection, Row
from insightv.stages.context import Context, Summary


def build_reasoning(context: Context, work: Path, form: Callable[[Sequence[Any], Any], list[Row]]) -> Summary:
    """Best paths as rows of the reasoner, or in the form of a control."""
    picks, rejections = reasoning.select(context.rated("generate", "assess", "train"), context.config.reasoning)
    return _save(context, work, form(picks, context.config.prompts), rejections)


def build_summary(context: Context, work: Path, own: str) -> Summary:
    """The summary agent's four parts."""
    config = context.config
    teacher, chains = context.rated("generate", "assess", "train"), context.rated(own, f"{own}-assess", "own")
    rows, rejections, mixture = summary.build(teacher, chains, context.problems("plain"), config.summary, config.prompts, seed=config.seed)
    return _save(context, work, rows, rejections) | {"mixture": mixture}


def build_fair(context: Context, work: Path) -> Summary:
    """The fair control's set: chains with answers, and every question and label that the summary agent saw, as plain QA."""
    config = context.config
    picks, rejections = reasoning.select(context.rated("generate", "assess", "train"), config.reasoning)
    seen = {json.loads(line)["problem_id"] for line in (context.run.folder / "summary-data" / "manifest.jsonl").open(encoding="utf-8")}
    problems = [problem for split in ("train", "own", "plain") for problem in context.problems(split) if problem.id in seen]
    rows = reasoning.single_rows(picks, config.prompts) + reasoning.plain_rows(problems, config.prompts)
    return _save(context, work, rows, rejections)


def build_pairs(context: Context, work: Path, source: str, judged: str, split: str) -> Summary:
    """Preference pairs of one round (Insight-V, section 3.4)."""
    config = context.config
    rated = context.rated(source, judged, split)
    rows, rejections, counts = preference.build(*rated, config.preference, config.prompts, seed=config.seed)
    if not rows:
        outcome = Counter(verdict.correct for verdict in rated.verdicts)
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(rejection["reason"] for rejection in rejections).items()))
        raise UserError(
            f"no preference pairs: {outcome[True]} of {len(rated.chains)} chains were correct, {outcome[False]} wrong (why each is in no pair: {reasons}); "
            "sample more with dpo.n, loosen the preference settings, train the reasoner longer, or take the teacher's pairs by dpo.pairs_from: teacher"
        )
    return _save(context, work, rows, rejections) | {"pairs": counts}


def _save(context: Context, work: Path, rows: list[Row], rejections: list[Rejection]) -> Summary:
    return export.save(sorted(rows, key=lambda row: str(row["id"])), rejections, context.run.images, work)
