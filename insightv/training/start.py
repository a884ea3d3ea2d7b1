"""The state a model is in when its training begins: master weights, what is frozen, an adapter, the tags of a chain."""

from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import AddedToken

from insightv.config import TrainConfig, UserError
from insightv.models.vlm import TAGS, VLM, freeze, load


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
    # peft takes as long to import as all else together, and only LoRA needs it.
    from insightv.training.adapters import add, attach

    vlm = load(path)
    return replace(vlm, model=attach(vlm.model, {"default": adapter}, trainable=True) if adapter else add(vlm.model, config.lora))


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
