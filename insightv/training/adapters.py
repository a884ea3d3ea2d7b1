"""LoRA adapters on the language model: several named ones on one base; and the state a model is in when its training begins."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken

from insightv.config import LoraConfig, TrainConfig, UserError
from insightv.models.vlm import TAGS, VLM, freeze, load

LANGUAGE_LAYERS = r"(?!.*(vision|visual))(.*\.)?(language_model|text_model)\.(.*\.)?layers\.\d+\..*_proj"
"""Full names of the linear layers that get an adapter. Short names such as q_proj would also hit the vision tower."""


def prepare(path: Path, config: TrainConfig, adapter: Path | None = None) -> VLM:
    """Load a checkpoint ready for training: master weights float32, and gradients only for what `config` trains.

    With `config.lora` that is `adapter`, continued, or a new one; otherwise `adapter` is merged and `config.train` says which parts.
    """
    # A new adapter begins at random.
    torch.manual_seed(config.seed)
    if config.lora is None:
        vlm = load(path, adapter=adapter)
        if config.special_tags:
            add_tags(vlm)
        freeze(vlm.model, config.train)
        return vlm
    if config.special_tags:
        raise UserError("special_tags needs full fine-tuning: an adapter trains no embeddings (set lora to null, or special_tags to false)")
    vlm = load(path)
    return replace(vlm, model=attach(vlm.model, {"default": adapter}, trainable=True) if adapter else add(vlm.model, config.lora))


def add(model: Any, lora: LoraConfig, name: str = "default") -> Any:
    """Put a new adapter, which at first changes nothing, on the language model's linear layers; the rest is frozen. Returns the wrapped model."""
    settings = peft.LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=LANGUAGE_LAYERS)
    if isinstance(model, peft.PeftModel):
        model.add_adapter(name, settings)
        return model
    return peft.get_peft_model(model, settings, adapter_name=name)


def save(model: Any, folder: Path, name: str = "default") -> None:
    """Write one adapter as adapter_config.json and adapter_model.safetensors straight into `folder`, whatever its name."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = peft.get_peft_model_state_dict(model, adapter_name=name)
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


@torch.no_grad()
def add_tags(vlm: VLM) -> None:
    """Make the tags of a chain special tokens, their input and output embeddings the mean of all others'. Does nothing the second time."""
    special = {str(token) for token in vlm.tokenizer.added_tokens_decoder.values() if token.special}
    missing = [AddedToken(tag, special=True, normalized=False) for tag in TAGS if tag not in special]
    if not missing:
        return
    means = [layer.weight.mean(0) for layer in (vlm.model.get_input_embeddings(), vlm.model.get_output_embeddings())]
    vlm.tokenizer.add_tokens(missing, special_tokens=True)
    if len(vlm.tokenizer) > len(vlm.model.get_input_embeddings().weight):
        vlm.model.resize_token_embeddings(len(vlm.tokenizer), mean_resizing=False)
    new = vlm.tokenizer.convert_tokens_to_ids([token.content for token in missing])
    for layer, mean in zip((vlm.model.get_input_embeddings(), vlm.model.get_output_embeddings()), means, strict=True):
        layer.weight[new] = mean
