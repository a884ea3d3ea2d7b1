"""TRL as the trainer, for those who prefer it (`trainer: trl`, `pip install 'insightv[trl]'`): the same data, checks, settings and outputs.

It runs prompt and image again for each answer and the reference in every step, and gives a rejected answer that was cut the end that it never wrote.
"""

from pathlib import Path
from typing import Any

from datasets import Features

from insightv.config import DpoConfig, TrainConfig, UserError
from insightv.datasets.export import features
from insightv.datasets.export import load as load_data
from insightv.models.vlm import VLM, load
from insightv.training.prepared import Rows
from insightv.training.run import Loop, Report, arguments_of, settings_of, trained

_NAMES = {
    "loss": "loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "logps/chosen": "logp_chosen",
    "logps/rejected": "logp_rejected",
}
"""What it logs -> what we call it."""


def sft(vlm: VLM, data: Path, rows: Rows, config: TrainConfig, work: Path, report: Report | None) -> list[dict[str, Any]]:
    """Fine-tune the model in place; returns the log, one entry per step."""
    trl = _library()
    return _fit(trl.SFTTrainer, trl.SFTConfig, {}, vlm, data, rows, config, work, report)


def dpo(vlm: VLM, data: Path, rows: Rows, config: DpoConfig, work: Path, report: Report | None, reference: Path, adapter: Path | None) -> list[dict[str, Any]]:
    """One round of DPO of the model in place, against the checkpoint `reference` with `adapter` on it."""
    trl = _library()
    losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.sft_weight]} if config.sft_weight else {}
    if config.label_smoothing:
        raise UserError("label_smoothing: TRL's sigmoid loss has none; leave it out, or trainer: trl")
    own = {"beta": config.beta, **losses}
    return _fit(trl.DPOTrainer, trl.DPOConfig, own, vlm, data, rows, config, work, report, ref_model=load(reference, adapter=adapter).model)


def _library() -> Any:
    try:
        import trl
    except ImportError:
        raise UserError("trainer: trl needs TRL: pip install 'insightv[trl]', or leave the setting out") from None
    return trl


def _fit(
    trainer: Any,
    arguments: Any,
    own: dict[str, Any],
    vlm: VLM,
    data: Path,
    rows: Rows,
    config: TrainConfig,
    work: Path,
    report: Report | None,
    **more: Any,
) -> list[dict[str, Any]]:
    # The rows that are not left out, in the order of the data set; TRL shuffles them itself.
    chosen = load_data(data, work / "arrow").select(rows.places)
    # A data set that others wrote may not say that these bytes are images.
    known = features([name for name in ("completion", "chosen", "rejected") if name in chosen.column_names])
    chosen = chosen.cast(Features({name: kind for name, kind in known.items() if name in chosen.column_names}))
    settings = {"max_length": None, "gradient_checkpointing": False} | own | settings_of(config, work, vlm.model, unused=not rows.pictured.all())
    # Its loop, but one that finds a checkpoint's weights again.
    resuming: Any = type(trainer.__name__, (Loop, trainer), {})
    loop = resuming(model=vlm.model, args=arguments_of(arguments, settings), train_dataset=chosen, processing_class=vlm.processor, **more)
    return [{_NAMES[name]: value for name, value in entry.items() if name in _NAMES} | {"step": entry["step"]} for entry in trained(loop, work, report)]
