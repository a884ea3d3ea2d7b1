"""A training as a process of its own: its command, its job file, and what it leaves behind."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from insightv.config import TrainConfig, UserError
from insightv.models import checkpoints
from insightv.models.vlm import VLM
from insightv.training.prepared import Rows
from insightv.training.ranks import is_first, take_gpu
from insightv.training.sharded import gathered

PATHS = ("model", "data", "out", "work", "adapter", "reference_model", "reference_adapter", "scores")
Kind = Literal["sft", "dpo", "reference"]


def command(kind: Kind, job: Path, processes: int = 1) -> list[str]:
    """The command line that runs a job file, under torchrun on this machine for more than one process.

    The file is JSON: the arguments of `sft.train`, `dpo.train` or `reference.score` by name, paths as strings, `config` as the settings' JSON.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return [sys.executable, *launcher, "-m", f"insightv.training.{kind}", str(job)]


def main(train: Callable[..., dict[str, Any]], settings: type[TrainConfig]) -> None:
    """Run the job file named on the command line and print its summary as JSON; a user's mistake is one line and exit code 2."""
    try:
        take_gpu()
        summary = train(**_read(Path(sys.argv[1]), settings))
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    if torch.distributed.is_initialized():
        # Whoever is done first waits: a process that is gone is an error to those that still talk to it.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if is_first():
        print(json.dumps(summary, sort_keys=True))


def finish(vlm: VLM, log: Sequence[Mapping[str, Any]], rows: Rows, dropped: Mapping[str, int], out: Path) -> dict[str, Any]:
    """Save model and processor (or the adapter alone) and log.jsonl in `out`; returns the summary."""
    weights = gathered(vlm.model)
    if is_first():
        out.mkdir(parents=True, exist_ok=True)
        if hasattr(vlm.model, "peft_config"):
            from insightv.training.adapters import save

            save(vlm.model, out, gathered=weights)
        else:
            checkpoints.save(vlm, out, weights)
        # Nothing that differs between two runs of the same training.
        (out / "log.jsonl").write_text("".join(json.dumps(entry, sort_keys=True) + "\n" for entry in log), encoding="utf-8")
    return {
        "rows": len(rows),
        "dropped": dict(dropped),
        "steps": log[-1]["step"],
        "longest": int(rows.lengths.max()),
        "loss_tokens": int(rows.loss_tokens.sum()),
        "first_loss": log[0]["loss"],
        "last_loss": log[-1]["loss"],
    }


def _read(path: Path, settings: type[TrainConfig]) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config = settings.model_validate(values.pop("config"))
    except (OSError, ValueError, KeyError, ValidationError) as error:
        raise UserError(f"job file {path}: {' '.join(str(error).split())}") from None
    return {"config": config} | {name: Path(value) if name in PATHS and value is not None else value for name, value in values.items()}
