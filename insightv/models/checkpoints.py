"""Checkpoints that every engine loads: how ours are written, and how the authors' layout becomes one."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoTokenizer,
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
)

from insightv.config import UserError
from insightv.models.templates import TEMPLATES, family
from insightv.models.vlm import VLM

_SHARD = 4 * 2**30
"""Bytes of a file of weights."""
_BARE_TOWER = re.compile(r"^(model\.)?vision_tower\.(?!vision_model\.)")
_TOWERS = ("clip_vision_model", "siglip_vision_model")
_VIDEO = "video_preprocessor_config.json"
_BACKBONES = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2"}
"""`model_type` of an original checkpoint -> that of its language model."""
_RENAMED = (
    (re.compile(r"^model\.mm_projector\.0\."), "multi_modal_projector.linear_1."),
    (re.compile(r"^model\.mm_projector\.2\."), "multi_modal_projector.linear_2."),
    (re.compile(r"^model\.vision_tower\.vision_tower\."), "vision_tower."),
    (re.compile(r"^model\.image_newline$"), "image_newline"),
    (re.compile(r"^(model\.|lm_head\.)"), r"language_model.\1"),
)
"""Names of an original checkpoint -> ours; the first that fits counts."""

Weights = dict[str, Callable[[], Tensor]]
"""By name, how to read each tensor."""


def save(vlm: VLM, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write model (or its `weights`, where they were gathered) and processor in transformers' layout, with names that vLLM knows too.

    transformers itself writes a CLIP or SigLIP tower without the prefix `vision_model`, which vLLM's classes want; it reads either.
    """
    vlm.model.save_pretrained(folder, state_dict=weights)
    vlm.processor.save_pretrained(folder)
    if (vlm.path / _VIDEO).is_file() and not (folder / _VIDEO).exists():
        # Without torchvision a video processor is never loaded, so it is not saved, but servers ask for it.
        shutil.copyfile(vlm.path / _VIDEO, folder / _VIDEO)
    if vlm.model.config.vision_config.model_type in _TOWERS:
        for file in folder.glob("*.safetensors"):
            _rename(file)
        for index in folder.glob("*.safetensors.index.json"):
            told = json.loads(index.read_text(encoding="utf-8"))
            told["weight_map"] = {_prefixed(name): file for name, file in told["weight_map"].items()}
            index.write_text(json.dumps(told, indent=2, sort_keys=True), encoding="utf-8")


def _prefixed(name: str) -> str:
    return _BARE_TOWER.sub(r"\g<0>vision_model.", name)


def _rename(file: Path) -> None:
    with safe_open(file, "pt") as opened:
        names = list(opened.keys())
        if all(name == _prefixed(name) for name in names):
            return
        tensors = {_prefixed(name): opened.get_tensor(name) for name in names}
    beside = file.with_suffix(".part")
    save_file(tensors, beside, {"format": "pt"})
    beside.replace(file)


def convert(source: Path, out: Path, tower: Path | None = None, template: str | None = None) -> dict[str, Any]:
    """Turn a checkpoint in the original LLaVA-NeXT layout, as the released Insight-V agents are, into `LlavaNextForConditionalGeneration`.

    `source` is a folder with config.json, a tokenizer and weights (*.safetensors, or *.bin, which are read as bare tensors and never executed). Where it
    holds no vision tower, `tower` is the folder of the CLIP model that its config names. `template` is a name in `TEMPLATES`; without it, the
    tokenizer's special tokens say which. Weights keep their precision. Returns what was found, for a line to the user.
    """
    config = _config_of(source)
    weights = {_renamed(name): read for name, read in _weights(source).items()}
    if not any(name.startswith("vision_tower.") for name in weights):
        if tower is None:
            raise UserError(f"{source} holds no vision tower; give the folder of {config['mm_vision_tower']} by --vision-tower")
        weights |= {f"vision_tower.{name}": read for name, read in _weights(tower).items() if name.startswith("vision_model.")}
    tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=True)
    if tokenizer.convert_tokens_to_ids("<image>") in (None, tokenizer.unk_token_id):
        tokenizer.add_tokens(["<image>"], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    vision: Any = _vision_config(weights, tower)
    vocabulary = _widened(weights, len(tokenizer))
    ours: Any = LlavaNextConfig(
        vision_config=vision,
        text_config=_text_config(config, vocabulary),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=_pinpoints(config, vision.image_size),
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default" if config.get("mm_vision_select_feature", "patch") == "patch" else "full",
        tie_word_embeddings=False,
        architectures=["LlavaNextForConditionalGeneration"],
        dtype=str(weights["language_model.model.embed_tokens.weight"]().dtype).removeprefix("torch."),
    )
    known = template or family(tokenizer.get_vocab())
    if known not in TEMPLATES:
        raise UserError(f"no chat template {known!r}; there are {', '.join(TEMPLATES)}")
    _write(weights, out)
    ours.save_pretrained(out)
    _processor(ours, tokenizer, TEMPLATES[known]).save_pretrained(out)
    return {"weights": len(weights), "vocabulary": vocabulary, "template": known, "image_token": ours.image_token_index}


def _config_of(source: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"no original checkpoint in {source}: config.json: {error}") from None
    wanted = {
        "model_type": tuple(_BACKBONES),
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_patch_merge_type": ("spatial_unpad",),
    }
    for name, values in wanted.items():
        if config.get(name) not in values:
            raise UserError(f"{source}: {name} is {config.get(name)!r}, but only {', '.join(values)} can be converted (the layout of LLaVA-NeXT)")
    if not str(config.get("image_aspect_ratio", "")).startswith("anyres"):
        raise UserError(f"{source}: image_aspect_ratio is {config.get('image_aspect_ratio')!r}, but LLaVA-NeXT cuts images into tiles (anyres)")
    return config


def _weights(folder: Path) -> Weights:
    """Every tensor of a folder, read when it is asked for."""
    found: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: _reader(file, name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    for file in [] if found else sorted(folder.glob("pytorch_model*.bin")):
        # Tensors alone: nothing that a pickle could run.
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        found |= {name: lambda tensor=tensor: tensor for name, tensor in tensors.items()}
    if not found:
        raise UserError(f"no weights in {folder}: neither *.safetensors nor pytorch_model*.bin")
    return found


def _reader(file: Path, name: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with safe_open(file, "pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor

    return read


def _renamed(name: str) -> str:
    for pattern, ours in _RENAMED:
        if pattern.search(name):
            return pattern.sub(ours, name)
    raise UserError(f"{name} is no weight of a LLaVA-NeXT checkpoint")


def _vision_config(weights: Weights, tower: Path | None) -> CLIPVisionConfig:
    """The tower's settings: its own, or what the shapes of its weights say."""
    if tower:
        told = json.loads((tower / "config.json").read_text(encoding="utf-8"))
        return CLIPVisionConfig(**told.get("vision_config", told))
    patches = weights["vision_tower.vision_model.embeddings.patch_embedding.weight"]().shape
    places = weights["vision_tower.vision_model.embeddings.position_embedding.weight"]().shape[0] - 1
    layers = {match[1] for name in weights if (match := re.search(r"^vision_tower\..*\.layers\.(\d+)\.", name))}
    return CLIPVisionConfig(
        hidden_size=patches[0],
        intermediate_size=weights["vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"]().shape[0],
        num_hidden_layers=len(layers),
        # Every published CLIP tower has heads of 64 dimensions.
        num_attention_heads=max(1, patches[0] // 64),
        patch_size=patches[-1],
        image_size=round(places**0.5) * patches[-1],
    )


def _text_config(config: Mapping[str, Any], vocabulary: int) -> Any:
    kind = CONFIG_MAPPING[_BACKBONES[config["model_type"]]]
    known = {*kind().to_dict(), "rope_theta", "rope_scaling"} - {"model_type", "architectures", "transformers_version", "dtype", "torch_dtype"}
    return kind(**{name: value for name, value in config.items() if name in known} | {"vocab_size": vocabulary})


def _pinpoints(config: Mapping[str, Any], side: int) -> list[list[int]]:
    """Sizes of grids of tiles; a text such as "(1x1),...,(6x6)" counts tiles and stands for all from the first to the last."""
    told = config["image_grid_pinpoints"]
    if not isinstance(told, str) or "x" not in told:
        return [list(size) for size in (json.loads(told.replace("(", "[").replace(")", "]")) if isinstance(told, str) else told)]
    corners = [(int(high), int(wide)) for high, wide in re.findall(r"\((\d+)x(\d+)\)", told)]
    (low, left), (top, right) = corners[0], corners[-1]
    return [[high * side, wide * side] for high in range(low, top + 1) for wide in range(left, right + 1)]


def _widened(weights: Weights, tokens: int) -> int:
    """Give embedding and head a row for every token, new ones the mean of all others; returns how many there are."""
    names = [f"language_model.{name}.weight" for name in ("model.embed_tokens", "lm_head")]
    rows = weights[names[0]]().shape[0]
    for name in names if rows < tokens else ():
        weights[name] = lambda read=weights[name]: _with_mean_rows(read(), tokens)  # type: ignore[misc]
    return max(rows, tokens)


def _with_mean_rows(weight: Tensor, rows: int) -> Tensor:
    mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - len(weight), -1)])


def _write(weights: Weights, out: Path) -> None:
    """Write shards one after the other, reading each tensor once, with an index where there are several."""
    out.mkdir(parents=True, exist_ok=True)
    shards: list[list[str]] = []
    left = sorted(weights)
    while left:
        tensors: dict[str, Tensor] = {}
        while left and sum(tensor.nbytes for tensor in tensors.values()) < _SHARD:
            name = left.pop(0)
            # A tensor that is a part of another's memory cannot be written as it is.
            tensors[name] = weights[name]().contiguous()
        save_file(tensors, out / f"{len(shards)}.part", {"format": "pt"})
        shards.append(list(tensors))
    places: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (out / f"{number}.part").replace(out / file)
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": places}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")


def _processor(config: Any, tokenizer: Any, template: str) -> LlavaNextProcessor:
    side = config.vision_config.image_size
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=config.image_grid_pinpoints
    )
    return LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        chat_template=template,
    )
