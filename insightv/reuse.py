"""Stages that another run has finished from the very same inputs and settings: taken from there instead of being made (`reuse`)."""

from pathlib import Path

from insightv.config import Config, UserError
from insightv.datasets import lean
from insightv.files import explained
from insightv.records import Problem
from insightv.store import ImageStore, Run, Stage, read_manifest


def take(config: Config, run: Run, stage: Stage, retry_failed: bool) -> Path | None:
    """Take a stage that is not done from the first of the runs in `reuse` that has it whole; returns that run's folder, None where none has.

    Another run may be at work: its stage is there as a whole or not at all, and nothing of it is changed. With `retry_failed` a stage in which
    something failed is not taken.
    """
    with explained(run.folder):
        return next((other for other in config.reuse if _has(other, stage, retry_failed) and _taken(run, stage, other)), None)


def _has(other: Path, stage: Stage, retry_failed: bool) -> bool:
    manifest = read_manifest(other / stage.name)
    return manifest.get("hash") == stage.hash and not (retry_failed and manifest["summary"].get("failed"))


def _taken(run: Run, stage: Stage, other: Path) -> bool:
    # A stage counts from its rename on, so what it needs beside its files comes before.
    return (stage.name != "problems" or _take_images(run, other)) and stage.adopt(other / stage.name)


def _take_images(run: Run, other: Path) -> bool:
    """Take the images of the other run's problems; whether all were there."""
    images = ImageStore(other / "images", cache=0)
    try:
        for path in sorted((other / "problems").glob("*.jsonl")):
            for problem in lean.read(path, Problem):
                for name in problem.images:
                    run.images.adopt(name, images)
    except (FileNotFoundError, UserError):
        return False
    return True
