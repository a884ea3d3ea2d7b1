"""What a training step costs: floating-point operations and bytes, from a model's configuration alone.

Counted are matrix products and attention, a multiply-add as two operations, as torch's own counter does. A forward pass takes 2 operations per
weight and token; a backward pass as many again for the gradients of the inputs, and as many for those of the weights that are trained.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from insightv.config import TrainConfig, UserError
from insightv.models.vlm import Part, parts

_FLOAT, _HALF = 4, 2
"""Bytes of a number."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a vision-language model."""

    parameters: Mapping[Part, int]
    tied: bool
    """Whether the head is the embedding."""
    layers: int
    hidden: int
    attention: int
    """Heads times their dimension, in the language model."""
    vocabulary: int
    intermediate: int
    vision_layers: int
    vision_hidden: int
    tile: int
    """Patches that attend to each other in the tower; 0 where an image is not cut into tiles of one size."""

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())

    @property
    def body(self) -> int:
        """Weights of the language model that every token passes: without embedding and head."""
        return self.parameters["language"] - (1 if self.tied else 2) * self.vocabulary * self.hidden


class Work(NamedTuple):
    """One row's operations."""

    forward: float
    backward: float


@dataclass(frozen=True, slots=True)
class Row:
    """A row's tokens."""

    prompt: int
    """Image tokens included."""
    answers: Sequence[int]
    patches: int
    """That the vision tower sees, over all tiles."""


def shape_of(path: Path) -> Shape:
    """Read a checkpoint's sizes; no weights are loaded."""
    if not (path / "config.json").is_file():
        raise UserError(f"no model at {path}: config.json is missing; give the folder of a checkpoint in transformers' layout")
    with torch.device("meta"):
        return shape_of_model(AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(path, local_files_only=True)))


def shape_of_model(model: Any) -> Shape:
    """A model's sizes."""
    named = dict(model.named_parameters())
    text, vision = model.config.get_text_config(), model.config.vision_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        parameters={part: sum(named[name].numel() for name in names) for part, names in parts(model).items()},
        tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        attention=text.num_attention_heads * head,
        vocabulary=text.vocab_size,
        intermediate=text.intermediate_size,
        vision_layers=getattr(vision, "num_hidden_layers", None) or vision.depth,
        vision_hidden=getattr(vision, "embed_dim", None) or _first(vision.hidden_size),
        tile=(_first(vision.image_size) // _first(vision.patch_size)) ** 2 if hasattr(vision, "image_size") else 0,
    )


def _first(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


def work(shape: Shape, row: Row, train: Collection[Part] = ("projector", "language"), *, lora: bool = False, checkpointing: bool = False) -> Work:
    """A row's forward and backward pass, its answers sharing the prompt."""
    width, answered = row.prompt + sum(row.answers), sum(row.answers)
    seen = row.prompt**2 / 2 + sum(row.prompt * answer + answer**2 / 2 for answer in row.answers)
    language = 2.0 * shape.body * width + 4 * shape.attention * seen * shape.layers + 2 * shape.hidden * shape.vocabulary * answered
    tower = 2.0 * shape.parameters["vision"] * row.patches + 4 * shape.vision_hidden * row.patches * (shape.tile or row.patches) * shape.vision_layers
    projector = 2.0 * shape.parameters["projector"] * row.patches
    forward = language + tower + projector
    backward = language * (2 if "language" in train and not lora else 1) + projector * (2 if "projector" in train else 0)
    if "vision" in train and not lora:
        backward += 2 * tower
    return Work(forward, backward + (language if checkpointing else 0))


def memory(shape: Shape, config: TrainConfig, row: Row) -> dict[str, float]:
    """Bytes on each GPU: weights, gradients, the optimizer's moments, activations and logits of one row.

    Master weights, gradients and Adam's two moments are float32; a sharding engine (`fsdp` or `deepspeed` among the arguments) divides them.
    """
    trained = sum(shape.parameters[part] for part in config.train)
    if config.lora:
        # Both factors of each of the seven matrices of a layer.
        trained = shape.layers * config.lora.r * (4 * (shape.hidden + shape.attention) + 3 * (shape.hidden + shape.intermediate))
    shards = config.processes if {"fsdp", "deepspeed"} & config.arguments.keys() else 1
    width = config.batch_size * (row.prompt + sum(row.answers))
    layer = width * (2 * shape.attention + 4 * shape.hidden + 3 * shape.intermediate) * _HALF
    checkpointed = bool(config.arguments.get("gradient_checkpointing"))
    return {
        "weights": shape.total * _FLOAT / shards,
        "gradients": trained * _FLOAT / shards,
        "optimizer": 2 * trained * _FLOAT / shards,
        "activations": (shape.layers * width * shape.hidden * _HALF + layer) if checkpointed else shape.layers * layer,
        "logits": 3.0 * min(512, config.batch_size * sum(row.answers)) * shape.vocabulary * _FLOAT,
    }
