"""Read finished runs, which must be seeds of one experiment, and write what they found."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from insightv.config import Config, UserError
from insightv.datasets.sources import read_problems
from insightv.files import replacing
from insightv.loop import FROM_REASONER, plan
from insightv.records import Solution
from insightv.results.faults import chain_faults
from insightv.results.page import page
from insightv.results.seeds import Seed
from insightv.showing import saved
from insightv.store import content_hash, read_records


def results(runs: Sequence[Path], out: Path | None = None) -> str:
    """The Markdown of the runs, which must be seeds of one experiment; written to `out` where one is given."""
    configs = [saved(run) for run in runs]
    for run, config in zip(runs[1:], configs[1:], strict=True):
        if differing := sorted(name for name in _shared(configs[0]) if _shared(configs[0])[name] != _shared(config)[name]):
            raise UserError(f"{runs[0]} and {run} differ in more than their seed ({', '.join(differing)}): they are not one experiment")
    numbers = [config.seed for config in configs]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"two of the runs have the same seed ({', '.join(map(str, numbers))}); give each seed once")
    for run, config in zip(runs, configs, strict=True):
        check_whole(run, config)
    splits: dict[str, list[Seed]] = {
        split: [read_seed(run, config, split) for run, config in zip(runs, configs, strict=True)] for split in configs[0].systems.splits
    }
    title = f"# Results\n\nWritten by `insightv results {' '.join(map(str, runs))}`, not by hand.\n\n"
    text = title + page(splits, configs[0].systems.baseline, configs[0].systems.primary)
    if out:
        with replacing(out) as file:
            file.write(text.encode())
    return text


def _shared(config: Config) -> dict[str, Any]:
    """What seeds of one experiment have in common."""
    return config.model_dump(mode="json", exclude={"run", "seed", "parallel", "reuse"})


def check_whole(run: Path, config: Config) -> None:
    """That every row is there and was made from what lies in the run now; else a `UserError`."""
    for row in config.systems.rows:
        for need, digest in _manifest(run, f"evaluate-{row}")["inputs"].items():
            if content_hash(_manifest(run, need)["outputs"]) != digest:
                raise UserError(f"{run}: evaluate-{row} is older than {need}; run its config again")


def _manifest(run: Path, stage: str) -> dict[str, Any]:
    path = run / stage / "manifest.json"
    if not path.is_file():
        raise UserError(f"{run} is not finished, it has no {stage}; run its config again")
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    return manifest


def read_seed(run: Path, config: Config, split: str) -> Seed:
    """The rows of a config as a finished run has them, of one split."""
    file = "solutions.jsonl" if split == "test" else f"{split}.jsonl"
    problems = {problem.id: problem for problem in read_problems(run / "problems" / f"{split}.jsonl")}
    systems = {row: list(read_records(run / f"evaluate-{row}" / file, Solution)) for row in config.systems.rows}
    steps = plan(config).steps
    updates = {row: sum(_steps(run, model) for model in steps[f"evaluate-{row}"].needs if model not in ("problems", "base")) for row in systems}
    return Seed(config.seed, problems, systems, updates, {row: chain_faults(problems, those) for row, those in systems.items()})


def _steps(run: Path, model: str) -> int:
    """Optimizer steps behind a model's weights: after T rounds of DPO the reasoner's and those of every round."""
    rounds = re.fullmatch(r"dpo(\d+)", model)
    names = ["reasoner", *(f"dpo{t}" for t in range(1, int(rounds[1]) + 1))] if rounds else ["reasoner", model] if model in FROM_REASONER else [model]
    return sum(int(_manifest(run, name)["summary"]["steps"]) for name in names)
