"""How long the trainings of a run will take, and what fits where: `insightv plan`."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from insightv.config import Config, TrainConfig, UserError
from insightv.loop import needed, plan
from insightv.stages.context import SHIPPED_BASE
from insightv.stages.trainings import shared

if TYPE_CHECKING:
    from insightv.training.cost import Shape

Facts = dict[str, Any]

GPUS = {"a100": 312.0, "h100": 989.0, "h200": 989.0, "b200": 2250.0}
"""Dense bfloat16 rates as their makers state them, in TFLOP/s."""


class Tokens(NamedTuple):
    """What is assumed of every row."""

    prompt: int
    """Image tokens included."""
    answer: int
    patches: int
    """That the vision tower sees, over all tiles of the image."""


@dataclass(frozen=True)
class Training:
    """A training of the plan."""

    stage: str
    config: TrainConfig
    answers: int
    """Of each row: 1 for SFT, 2 for a pair."""
    scores: bool
    """Whether it only scores pairs under the reference."""
    rows: int
    told: str
    """Where the number of rows comes from."""

    @property
    def passes(self) -> float:
        """How often each row comes."""
        if self.scores:
            return 1.0
        step = self.config.batch_size * self.config.processes * int(self.config.arguments.get("gradient_accumulation_steps", 1))
        return self.config.max_steps * step / self.rows if self.config.max_steps > 0 else self.config.epochs


def project(config: Config, tokens: Tokens, gpu: str, share: float, rows: Mapping[str, int] | None = None) -> list[Facts]:
    """One row per training of the plan: rows, tokens, operations, hours at `share` of the GPUs' stated rate, and memory on each.

    `rows` says how many rows data sets have, by their stages' names, where that is known better than from what is built or from the settings.
    """
    from insightv.training.cost import shape_of

    shape = shape_of(config.models.base or SHIPPED_BASE)
    return [_facts(training, shape, tokens, gpu, share) for training in trainings(config, rows or {})]


def _facts(training: Training, shape: "Shape", tokens: Tokens, gpu: str, share: float) -> Facts:
    from insightv.training.cost import Row, memory, work

    settings, row = training.config, Row(tokens.prompt, [tokens.answer] * training.answers, tokens.patches)
    cost = work(shape, row, settings.train, lora=settings.lora is not None, checkpointing=bool(settings.arguments.get("gradient_checkpointing")))
    passed = training.rows * training.passes
    operations = passed * (cost.forward if training.scores else sum(cost))
    # A scoring has the whole model in each process.
    held = memory(shape, settings.model_copy(update={"arguments": {}}) if training.scores else settings, row)
    return {
        "training": training.stage,
        "rows": training.rows,
        "rows from": training.told,
        "passes": round(training.passes, 2),
        "M tokens": round(passed * (row.prompt + sum(row.answers)) / 1e6, 1),
        "PFLOP": round(operations / 1e15, 1),
        f"hours on {settings.processes} x {gpu}": round(operations / (settings.processes * GPUS[gpu] * 1e12 * share) / 3600, 2),
        "GB on each": round((held["weights"] + held["logits"] if training.scores else sum(held.values())) / 1e9, 1),
    }


def trainings(config: Config, rows: Mapping[str, int]) -> Iterator[Training]:
    """The trainings that the configured rows of the table need, in their order."""
    steps = plan(config)
    wanted = needed(steps)
    sets = [name for name in steps.steps if name.endswith("-data")]
    if strange := sorted(rows.keys() - set(sets)):
        raise UserError(f"--rows: no data set {strange[0]!r}; there are {', '.join(sets)}")
    sft = {"reasoner": config.reasoner, **dict.fromkeys(("summarizer", "plain", "summarizer-high", "summarizer-refreshed"), config.summarizer)}
    sft |= dict.fromkeys(("single", "single-fair", "multi-turn", "two-roles"), config.single) | {"rft": config.dpo}
    sft |= {name: shared(config, sft[name]) for name in ("reasoner", "single", "multi-turn")}
    for name in (name for name in steps.steps if name in wanted):
        data = next((need for need in steps.steps[name].needs if need.endswith("-data")), "")
        if name in sft:
            yield Training(name, sft[name], 1, False, *_rows(config, data, rows))
        elif re.fullmatch(r".*-reference|dpo\d+|rlaif|dpo-pooled", name):
            yield Training(name, config.dpo, 2, name.endswith("-reference"), *_rows(config, data, rows))


def _rows(config: Config, data: str, rows: Mapping[str, int]) -> tuple[int, str]:
    """Rows of a data set: counted where it is built, else what the settings allow at most."""
    manifest = config.run / data / "manifest.json"
    if data in rows:
        return rows[data], "--rows"
    if manifest.is_file():
        return int(json.loads(manifest.read_bytes())["summary"]["rows"]), "the data set"
    if data in ("summary-data", "summary-high-data", "summary-refreshed-data", "plain-data") and config.summary.size:
        return config.summary.size, "summary.size"
    if data.startswith(("round", "rlaif", "rft", "dpo-pooled")):
        most = (config.dpo.problems or _problems(config, "preference")) * config.preference.per_problem
        rounds = config.dpo.rounds if data == "dpo-pooled-data" else 1
        return rounds * min(config.preference.max_pairs or most, most), "preference, at most"
    return round(_problems(config, "train") * config.reasoning.share) * config.reasoning.per_problem, "problems.train, at most"


def _problems(config: Config, split: str) -> int:
    if config.world:
        return int(getattr(config.world, split))
    path: Path | None = getattr(config.problems, split)
    if path is None or not path.is_file():
        raise UserError(f"problems.{split}: no file at {path}, so its rows cannot be counted; make it first, or say them, as in --rows reasoning-data=1000")
    with path.open("rb") as file:
        return sum(1 for _ in file)


def counts(texts: Iterable[str]) -> dict[str, int]:
    """`reasoning-data=1000` and the like as numbers of rows by data set."""
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not number.isdecimal():
            raise UserError(f"--rows {text!r} must read DATA=N, as in reasoning-data=200000")
        found[name] = int(number)
    return found
