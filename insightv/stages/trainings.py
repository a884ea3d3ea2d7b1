"""Trainings, in this process or under torchrun."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from insightv.config import Config, TrainConfig, UserError
from insightv.models import attended
from insightv.stages.context import Context, Summary
from insightv.store import read_manifest

if TYPE_CHECKING:
    from insightv.training.job import Kind

C = TypeVar("C", bound=TrainConfig)


def train_sft(context: Context, work: Path, data: str, settings: TrainConfig, like: tuple[str, ...] = (), start: str = "base") -> Summary:
    """Supervised fine-tuning of the base, or of the model `start`; with `like`, for as many updates as those models had together."""
    model, adapter = context.model(start)
    return _train(context, work, "sft", _as_long(context, settings, like), {"model": model, "adapter": adapter, "data": context.run.folder / data})


def score_reference(context: Context, work: Path, data: str, reference: str) -> Summary:
    """What the reference of a round of DPO says of its pairs."""
    model, adapter = context.model(reference)
    paths = {"model": model, "adapter": adapter, "data": context.run.folder / data}
    return _train(context, work, "reference", context.config.dpo, paths)


def train_dpo(context: Context, work: Path, data: str, policy: str, reference: str, scores: str | None, like: tuple[str, ...] = ()) -> Summary:
    """One round of DPO: the policy M_t becomes M_t+1; with `like`, by as many updates as those models had together."""
    model, adapter = context.model(policy)
    reference_model, reference_adapter = context.model(reference)
    models = {"model": model, "adapter": adapter, "reference_model": reference_model, "reference_adapter": reference_adapter}
    paths = {**models, "data": context.run.folder / data, "scores": context.run.folder / scores if scores else None}
    return _train(context, work, "dpo", _as_long(context, seeded(context.config, context.config.dpo), like), paths)


def seeded(config: Config, settings: C) -> C:
    """A training's settings with the run's seed in them."""
    return settings.model_copy(update={"seed": config.seed + settings.seed})


def shared(config: Config, settings: C) -> C:
    """A training's settings on a share of the reasoning set: a fixed number of updates is cut by it, as epochs are of themselves."""
    share = config.reasoning.share
    return settings if share == 1 or settings.max_steps <= 0 else settings.model_copy(update={"max_steps": max(1, round(settings.max_steps * share))})


def _as_long(context: Context, settings: C, like: tuple[str, ...]) -> C:
    steps = sum(int(read_manifest(context.run.folder / name)["summary"]["steps"]) for name in like)
    return settings.model_copy(update={"max_steps": steps}) if like else settings


def _train(context: Context, work: Path, kind: "Kind", settings: TrainConfig, paths: dict[str, Path | None]) -> Summary:
    arguments = {"out": work, "work": work / "scratch", **paths}
    if settings.processes == 1:
        from insightv.training import dpo, reference, sft

        train: dict[str, Callable[..., Summary]] = {"sft": sft.train, "dpo": dpo.train, "reference": reference.score}
        return train[kind](**arguments, config=settings, report=context.report)
    from insightv.training import job

    scratch = work / "scratch"
    file, log, said, progress = (scratch / name for name in ("job.json", "training.log", "summary.log", "progress.jsonl"))
    scratch.mkdir(exist_ok=True)
    file.write_text(json.dumps({"config": settings.model_dump(mode="json"), **{k: str(v) if v else None for k, v in arguments.items()}}))
    # Attended to, so that its processes end with this one.
    command = [sys.executable, "-m", attended.__name__, "15", *job.command(kind, file, settings.processes)]
    with log.open("wb") as errors, said.open("wb") as output, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=errors) as process:
        while process.poll() is None:
            time.sleep(0.2)
            if line := _last_line(progress):
                context.report(json.loads(line))
    if process.returncode:
        raise UserError(f"training ended with exit code {process.returncode}; its messages are in {log}")
    summary: Summary = json.loads(_last_line(said))
    return summary


def _last_line(path: Path) -> str:
    """The last whole line of a file that may still grow; empty without one."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1].split("\n")
    return next((line for line in reversed(whole) if line.strip()), "")
