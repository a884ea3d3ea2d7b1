"""Weights that lie in parts in all processes, for models that one GPU cannot hold with their optimizer: FSDP2, and DeepSpeed by its own config."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import FullyShardedDataParallelPlugin
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers.modeling_layers import GradientCheckpointingLayer

from insightv.config import UserError
from insightv.training.ranks import count, is_first


def completed(arguments: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The library's arguments with what FSDP2 must be told about this model: which layers are gathered one by one, those of the vision tower among them.

    The library's own choice names classes that a model may not have, and fails. Checkpoints are written in parts, which any number of processes can read.
    """
    if not arguments.get("fsdp"):
        return dict(arguments)
    if count() == 1:
        raise UserError("fsdp lays a model's weights in parts into several processes, and this training is one: set processes, or leave fsdp out")
    given = arguments.get("fsdp_config") or {}
    if isinstance(given, str):
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"fsdp_config: {given}: {error}") from None
    known = {name.removeprefix("fsdp_"): value for name, value in given.items()}
    layers = sorted({type(module).__name__ for module in model.modules() if isinstance(module, GradientCheckpointingLayer)})
    rest = {name: value for name, value in arguments.items() if name != "gradient_checkpointing"}
    wrapping = {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "transformer_layer_cls_to_wrap": layers}
    # Its own checkpointing gathers a layer's weights once in the backward pass, the other one twice.
    own = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT", "activation_checkpointing": bool(arguments.get("gradient_checkpointing"))}
    return {**rest, "fsdp_config": {**own, **wrapping, **known}}


def keep_sums_precise(plugin: FullyShardedDataParallelPlugin) -> None:
    """Let gradients be summed in float32, and what a model says be given as it is, whatever the passes run in; before the model is prepared.

    The library casts what a model says to bfloat16 too, and here that is log-probabilities: sums of some hundred would be off by tenths.
    """
    if isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None)


def gathered(model: Any) -> dict[str, Tensor] | None:
    """All weights of a model that lies in parts, on the CPU, in the process that writes, and nothing in the others; every process must call it.

    `None` for a model that is whole in each process.
    """
    if isinstance(model, FSDPModule):
        return _whole_of_fsdp(model)
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return _whole_of_deepspeed(model)
    return None


def _whole_of_fsdp(model: Any) -> dict[str, Tensor]:
    found: dict[str, Any] = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    # A head that is tied to the embeddings comes as a copy of them, which `save_pretrained` would take for weights of its own.
    named = [{name for name, _ in model.named_parameters(remove_duplicate=once)} for once in (False, True)]
    return {name: value for name, value in found.items() if name not in named[0] - named[1]}


@torch.no_grad()
def _whole_of_deepspeed(model: Any) -> dict[str, Tensor]:
    from deepspeed.runtime.zero import GatheredParameters

    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        with GatheredParameters([parameter]):
            if is_first():
                found[name] = parameter.detach().cpu().clone()
    # Buffers are whole in every process; those that are not saved are left out.
    kept = model.state_dict().keys()
    return found | {name: value.cpu() for name, value in model.named_buffers() if is_first() and name in kept}
