"""LoRA adapters on the language model: several named ones on one base."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
from safetensors.torch import save_file
from torch import Tensor

from insightv.config import LoraConfig, UserError

LANGUAGE_LAYERS = r"(?!.*(vision|visual))(.*\.)?(language_model|text_model)\.(.*\.)?layers\.\d+\..*_proj"
"""Full names of the linear layers that get an adapter. Short names such as q_proj would also hit the vision tower."""


def add(model: Any, lora: LoraConfig, name: str = "default") -> Any:
    """Put a new adapter, which at first changes nothing, on the language model's linear layers; the rest is frozen. Returns the wrapped model."""
    settings = peft.LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=LANGUAGE_LAYERS)
    if isinstance(model, peft.PeftModel):
        model.add_adapter(name, settings)
        return model
    return peft.get_peft_model(model, settings, adapter_name=name)


def save(model: Any, folder: Path, name: str = "default", gathered: dict[str, Tensor] | None = None) -> None:
    """Write one adapter as adapter_config.json and adapter_model.safetensors straight into `folder`, whatever its name.

    `gathered` are the model's weights, where it does not hold them itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if gathered is None:
        weights = peft.get_peft_model_state_dict(model, adapter_name=name)
    else:
        # The library looks for the modules of these names, which FSDP's checkpointing has wrapped in others.
        weights = {key.replace(f".{name}.", "."): value for key, value in gathered.items() if ".lora_" in key and f".{name}." in key}
    save_file({key: value.detach().cpu().contiguous() for key, value in weights.items()}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = copy.copy(model.peft_config[name])
    settings.inference_mode = True
    # The path of the base is this machine's; whoever loads an adapter says on which base.
    settings.base_model_name_or_path = None
    settings.save_pretrained(str(folder))


def attach(model: Any, folders: Mapping[str, Path], *, trainable: bool = False) -> Any:
    """Put saved adapters on a base model by name (`reasoner`, `summarizer`); the first is active, `set_adapter` switches."""
    wrapped: Any = None
    for name, folder in folders.items():
        if not (folder / "adapter_config.json").exists():
            raise UserError(f"no adapter in {folder}: adapter_config.json is missing")
        if wrapped is None:
            wrapped = peft.PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=trainable)
        else:
            wrapped.load_adapter(folder, name, is_trainable=trainable)
    return wrapped
