"""Where a run starts: its problems and its base model."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from insightv.config import UserError
from insightv.datasets.sources import write_problems
from insightv.datasets.splits import TRAINED, read_splits
from insightv.evaluation.clean import clean, shown
from insightv.files import replacing
from insightv.records import Problem
from insightv.stages.context import Context, Summary, base_path
from insightv.world.problems import make_split


def make_problems(context: Context, work: Path) -> Summary:
    """Every split's problems: drawn by the world, or the user's files with their images; where benchmarks are configured, without what these show."""
    config = context.config
    if not (config.benchmarks and config.decontaminate):
        return _write_splits(context, lambda split, problems: write_problems(work / f"{split}.jsonl", problems))
    known, counts = shown(config.benchmarks, config.decontaminate), Counter[str]()
    # A folder of its own: the files beside it hold problems.
    with replacing(work / "contamination" / "removed.jsonl") as removed:

        def write(split: str, problems: Iterable[Problem]) -> int:
            before = counts["removed"]
            kept = clean(problems, context.run.images, known, removed, counts, split=split) if split in TRAINED else problems
            count = write_problems(work / f"{split}.jsonl", kept)
            if not count and counts["removed"] > before:
                raise UserError(f"{split}: benchmarks show every one of its problems; use others, or set decontaminate to null")
            return count

        written = _write_splits(context, write)
    return {"removed": counts["removed"], **written, **{f"in {name}": counts[name] for name in config.benchmarks if counts[name]}}


def _write_splits(context: Context, write: Callable[[str, Iterable[Problem]], int]) -> Summary:
    config, counts = context.config, {}
    if config.world:
        world = config.world
        for split in ("train", "preference", "own", "plain", "development", "test", "heldout"):
            drawn = make_split(context.run.images, split, getattr(world, split), seed=config.seed, difficulty=world.difficulty)
            counts[split] = write(split, drawn)
            context.report({"step": len(counts), "of": 7})
        return counts
    given = {name: path for name, path in config.problems if path is not None}
    for split, problems in read_splits(given, context.run.images).items():
        counts[split] = write(split, problems)
        context.report({"step": len(counts), "of": 7})
    return counts


def make_base(context: Context, work: Path) -> Summary:
    """The base model: the world's, trained here if so configured, or the user's; records its identity."""
    from insightv.models.vlm import weights_hash

    config = context.config
    told: Summary = {}
    if config.models.base is None and config.world and config.world.retrain_base:
        from insightv.world.base.training import train_base

        told = {"skills": train_base(work / "model", work / "scratch", config.seed, config.world.base_steps, context.report)}
        identity = weights_hash(work / "model", None)
    else:
        path = base_path(config, context.run)
        if not (path / "config.json").is_file():
            raise UserError(f"models.base: no model at {path}: config.json is missing; give the folder of a checkpoint in transformers' layout")
        identity = weights_hash(path, None)
    (work / "base.json").write_text(json.dumps({"identity": identity}) + "\n", encoding="utf-8")
    return {"identity": identity, **told}
