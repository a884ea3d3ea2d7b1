"""One training over tokenised rows in `transformers.Trainer`'s loop: order of the rows, resume, log and progress."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from insightv.config import TrainConfig, UserError
from insightv.models.vlm import VLM
from insightv.store import derive_seed
from insightv.training import attention, sharded
from insightv.training.packing import collate
from insightv.training.prepared import Rows
from insightv.training.ranks import count, together

Progress = dict[str, Any]
Report = Callable[[Progress], None]
Loss = Callable[[nn.Module, Mapping[str, Any], Tensor | None], tuple[Tensor, dict[str, Tensor]]]
"""(model, batch, tokens with loss in the whole step or None) -> loss, and metrics to log."""

COMPLETE = "complete"
"""File that a checkpoint gets when all else of it is written; without it the checkpoint does not count."""
_ORDERED = {"num_train_epochs": 1, "max_steps": -1, "train_sampling_strategy": "sequential"}
_GROUP = 32
"""Steps whose rows are sorted by length together."""


def fit(vlm: VLM, rows: Rows, loss: Loss, config: TrainConfig, work: Path, *, count_tokens: bool, report: Report | None = None) -> list[dict[str, Any]]:
    """Train the model in place and return its log, one entry per logged step.

    Resumes from the last complete checkpoint in `work`, bit-equal on a CPU to a training that was never interrupted.
    `count_tokens` hands the loss the number of tokens with loss in the step over all accumulated batches and processes; without it the losses
    of these are averaged. Progress goes to `work`/progress.jsonl and to `report`.
    """
    processes = count()
    attention.choose(vlm.model, half=in_bfloat16(config))
    # A single process with an adapter has nothing on its vision side that moves or that others wait for.
    spare = rows.spare if processes > 1 or config.lora is None else None
    gather = partial(collate, pad_id=vlm.tokenizer.pad_token_id, spare=spare)
    settings = settings_of(config, work, vlm.model, unused=not rows.pictured.any())
    loop = _Trainer(
        loss,
        model=vlm.model,
        # The order of the rows already holds all epochs.
        args=arguments_of(TrainingArguments, settings | _ORDERED),
        train_dataset=Subset(rows, _order(rows.widths.tolist(), config, processes)),
        data_collator=gather,
    )
    loop.model_accepts_loss_kwargs = count_tokens
    return trained(loop, work, report)


def trained(loop: Trainer, work: Path, report: Report | None) -> list[dict[str, Any]]:
    """Let a loop run from its last complete checkpoint to its end; returns its log, one entry per logged step."""
    if loop.args.fsdp and not loop.is_fsdp_enabled:
        raise UserError("fsdp needs GPUs: on processors every process would quietly hold all weights; leave it out, and they do so")
    if loop.is_fsdp_enabled:
        sharded.keep_sums_precise(loop.accelerator.state.fsdp_plugin)
    loop.remove_callback(PrinterCallback)
    loop.add_callback(_Marker())
    loop.add_callback(_Watcher(work, report))
    loop.train(resume_from_checkpoint=_last_checkpoint(work, first=loop.is_world_process_zero()))
    return [entry for entry in loop.state.log_history if "loss" in entry]


def in_bfloat16(config: TrainConfig) -> bool:
    """Whether this machine trains these settings in bfloat16. A processor that only emulates it is ten times slower than in float32."""
    if config.dtype != "auto":
        return config.dtype == "bfloat16"
    return torch.cuda.is_available() or processor_has_bfloat16()


def processor_has_bfloat16() -> bool:
    """Whether this machine's processor computes in bfloat16 instead of emulating it."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


class Loop(Trainer):
    """The library's loop, which finds a checkpoint's weights again."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        own: Any = self.model if model is None else model
        if hasattr(own, "peft_config") or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        # `save_pretrained` writes these classes' tensors under older names. The library's resume looks for the newer ones, finds none, warns,
        # and goes on from the initial weights.
        own.load_state_dict(type(own).from_pretrained(resume_from_checkpoint, dtype=own.dtype).state_dict())


class _Trainer(Loop):
    """With our loss."""

    def __init__(self, loss: Loss, **rest: Any) -> None:
        super().__init__(**rest)
        self._loss = loss
        self._metrics: list[dict[str, Tensor]] = []

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None) -> Any:
        tokens = None if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss, metrics = self._loss(model, inputs, tokens)
        if metrics:
            self._metrics.append(metrics)
        # DDP averages gradients over processes, but the tokens were counted over all of them.
        scale = self.accelerator.num_processes if tokens is not None else 1
        return (loss * scale, None) if return_outputs else loss * scale

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for name in self._metrics[0] if self._metrics else ():
            mean = torch.stack([metrics[name] for metrics in self._metrics]).mean()
            logs[name] = float(self.accelerator.reduce(mean, "mean"))
        self._metrics.clear()
        super().log(logs, start_time)


class _Marker(TrainerCallback):
    """Marks a checkpoint as complete, which the library does not."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Each process writes its part.
        together().wait_for_everyone()
        if state.is_world_process_zero:
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


class _Watcher(TrainerCallback):
    """Tells how far the training is."""

    def __init__(self, work: Path, report: Report | None) -> None:
        self._work, self._report = work, report
        self._begin = (0.0, 0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._begin = (time.monotonic(), state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        began, first = self._begin
        pace = (time.monotonic() - began) / max(state.global_step - first, 1)
        progress = {
            "step": state.global_step,
            "of": state.max_steps,
            "loss": logs["loss"],
            "seconds_left": round(pace * (state.max_steps - state.global_step), 1),
        }
        tell(progress, self._work, self._report)


def tell(progress: Progress, work: Path, report: Report | None) -> None:
    """Say how far the work is: a line of `work`/progress.jsonl, for who waits in another process, and `report`."""
    with (work / "progress.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(progress) + "\n")
    if report:
        report(progress)


def _order(widths: Sequence[int], config: TrainConfig, processes: int) -> list[int]:
    """Places of all epochs' rows in the order of training: shuffled, then grouped by width within some steps so that little is padding.

    Spelling the order out, instead of a sampler with an epoch counter, makes it the same after every resume.
    """
    random, places = Random(derive_seed(config.seed, "order")), range(len(widths))
    step = config.batch_size * processes * int(config.arguments.get("gradient_accumulation_steps", 1))
    left = config.max_steps * step if config.max_steps > 0 else ceil(config.epochs * len(widths))
    order: list[int] = []
    waiting: list[int] = []
    while left:
        epoch = random.sample(places, min(left, len(widths)))
        left -= len(epoch)
        waiting += epoch
        whole = len(waiting) // step * step
        order += _grouped(waiting[:whole], widths, step, random)
        # An epoch's last rows that fill no step wait for the next one's first.
        waiting = waiting[whole:]
    return order + waiting


def _grouped(places: Sequence[int], widths: Sequence[int], step: int, random: Random) -> list[int]:
    """Sort by width inside groups of steps, then shuffle the steps."""
    steps: list[Sequence[int]] = []
    for start in range(0, len(places), step * _GROUP):
        group = sorted(places[start : start + step * _GROUP], key=widths.__getitem__)
        steps += [group[at : at + step] for at in range(0, len(group), step)]
    random.shuffle(steps)
    return [place for places_of_step in steps for place in places_of_step]


def loader_workers(config: TrainConfig) -> int:
    """Processes that prepare images beside each that trains: a GPU would wait for them, on two cores they would take its place."""
    return int(config.arguments.get("dataloader_num_workers", 4 if torch.cuda.is_available() else 0))


def settings_of(config: TrainConfig, work: Path, model: Any, *, unused: bool) -> dict[str, Any]:
    """A config as arguments of the library's loop, for this model; `unused` says that some batches leave parameters without a gradient."""
    gpu, processes = torch.cuda.is_available(), count()
    return {
        "output_dir": str(work),
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps,
        "per_device_train_batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "warmup_steps": config.warmup,
        "lr_scheduler_type": config.schedule,
        "weight_decay": config.weight_decay,
        "bf16": in_bfloat16(config),
        "save_steps": config.save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "seed": config.seed,
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "dataloader_num_workers": loader_workers(config),
        # A trained vision tower has layers behind the one whose features are taken.
        "ddp_find_unused_parameters": unused or "vision" in config.train,
        **({"ddp_backend": "gloo"} if processes > 1 and not gpu else {}),
        **sharded.completed(config.arguments, model),
    }


def arguments_of(kind: type[TrainingArguments], settings: Mapping[str, Any]) -> TrainingArguments:
    """The library's arguments; what it does not take is a `UserError`."""
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"training arguments: {' '.join(str(error).split())}") from None


def _last_checkpoint(work: Path, *, first: bool) -> str | None:
    """The newest complete checkpoint; incomplete ones, which a kill left behind, are removed by the first process."""
    found = {int(folder.name.rpartition("-")[2]): folder for folder in work.glob("checkpoint-*")}
    complete = {step: folder for step, folder in found.items() if (folder / COMPLETE).exists()}
    if first:
        for step in found.keys() - complete.keys():
            shutil.rmtree(found[step])
    return str(complete[max(complete)]) if complete else None
