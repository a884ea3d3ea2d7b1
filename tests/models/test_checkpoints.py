"""A small checkpoint in the original LLaVA-NeXT layout, and a forward pass written from the layout's facts alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import gelu, linear
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from benchmarks.models import KINDS, byte_tokenizer
from insightv.config import UserError
from insightv.images import encode_png
from insightv.models import checkpoints
from insightv.models.chat import Image, Message, Text
from insightv.models.vlm import encode, load

SIDE, PATCH, WIDTH = 32, 8, 128
PINPOINTS = [[32, 64], [64, 32], [64, 64]]
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
MARKS = ["<pad>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<thoughts>"]


class Original:
    """The checkpoint's folder and its modules."""

    def __init__(self, folder: Path, *, tower: Path | None = None, binary: bool = False, **config: Any) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.tokenizer = byte_tokenizer(MARKS, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
        self.text = {
            "vocab_size": len(self.tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_theta": 500.0,
            "rms_norm_eps": 1e-3,
        }
        self.llama = LlamaForCausalLM(LlamaConfig(**self.text)).eval()
        settings = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH}
        self.clip = CLIPVisionModel(CLIPVisionConfig(**settings)).eval()
        self.layers = [torch.nn.Linear(WIDTH, 64), torch.nn.Linear(64, 64)]
        self.newline = torch.randn(64)
        weights = {name: value.clone() for name, value in self.llama.state_dict().items()}
        for place, layer in zip((0, 2), self.layers, strict=True):
            weights |= {f"model.mm_projector.{place}.{name}": value.detach() for name, value in layer.state_dict().items()}
        seen = {f"vision_model.{name.removeprefix('vision_model.')}": value for name, value in self.clip.state_dict().items()}
        if tower:
            tower.mkdir()
            save_file(seen | {"text_model.final_layer_norm.bias": torch.zeros(3)}, tower / "model.safetensors")
            (tower / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": settings}))
        else:
            weights |= {f"model.vision_tower.vision_tower.{name}": value for name, value in seen.items()}
        weights["model.image_newline"] = self.newline
        folder.mkdir()
        if binary:
            torch.save(weights, folder / "pytorch_model.bin")
        else:
            save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
        told = {
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava_llama",
            "image_aspect_ratio": "anyres",
            "image_grid_pinpoints": PINPOINTS,
            "mm_patch_merge_type": "spatial_unpad",
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": "openai/clip-vit-large-patch14-336",
            **self.text,
        }
        (folder / "config.json").write_text(json.dumps(told | config))
        self.tokenizer.save_pretrained(folder)

    def features(self, picture: PIL.Image.Image) -> Tensor:
        """What stands for a picture: the squeezed whole, then the tiles of the grid that wastes least, padding cut off, each line with its end."""
        wide, high = picture.size
        rows, columns = _best_grid(wide, high)
        scale = min(columns * SIDE / wide, rows * SIDE / high)
        inner = (min(-(-wide * scale // 1), columns * SIDE), min(-(-high * scale // 1), rows * SIDE))
        size = (int(inner[0]), int(inner[1]))
        canvas = PIL.Image.new("RGB", (columns * SIDE, rows * SIDE))
        canvas.paste(picture.resize(size, PIL.Image.Resampling.BICUBIC), ((columns * SIDE - size[0]) // 2, (rows * SIDE - size[1]) // 2))
        tiles = [picture.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC)]
        tiles += [canvas.crop((x * SIDE, y * SIDE, (x + 1) * SIDE, (y + 1) * SIDE)) for y in range(rows) for x in range(columns)]
        pixels = np.stack([((np.asarray(tile) / 255 - MEAN) / STD).transpose(2, 0, 1) for tile in tiles])
        hidden = self.clip(torch.tensor(pixels, dtype=torch.float32), output_hidden_states=True).hidden_states[-2][:, 1:]
        first, second = self.layers
        seen = linear(gelu(linear(hidden, first.weight, first.bias)), second.weight, second.bias)
        side = SIDE // PATCH
        grid = seen[1:].view(rows, columns, side, side, -1).permute(4, 0, 2, 1, 3).reshape(64, rows * side, columns * side)
        grid = _unpadded(grid, wide, high)
        grid = torch.cat([grid, self.newline[:, None, None].expand(-1, grid.shape[1], 1)], dim=2)
        return torch.cat([seen[0], grid.flatten(1).T])

    def logits(self, before: str, picture: PIL.Image.Image, after: str) -> Tensor:
        ids = [torch.tensor(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (before, after)]
        embedded = [self.llama.model.embed_tokens(part) for part in ids]
        whole: Tensor = self.llama(inputs_embeds=torch.cat([embedded[0], self.features(picture), embedded[1]])[None]).logits[0]
        return whole


def _best_grid(wide: int, high: int) -> tuple[int, int]:
    def worth(grid: list[int]) -> tuple[int, int]:
        scale = min(grid[1] / wide, grid[0] / high)
        kept = min(int(wide * scale) * int(high * scale), wide * high)
        return kept, -(grid[0] * grid[1] - kept)

    best = max(PINPOINTS, key=worth)
    return best[0] // SIDE, best[1] // SIDE


def _unpadded(grid: Tensor, wide: int, high: int) -> Tensor:
    rows, columns = grid.shape[1:]
    if wide / high > columns / rows:
        cut = (rows - int(round(high * columns / wide, 7))) // 2
        return grid[:, cut : rows - cut]
    cut = (columns - int(round(wide * rows / high, 7))) // 2
    return grid[:, :, cut : columns - cut]


def picture(size: tuple[int, int]) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("form", ["whole", "tower apart", "binary"])
def test_logits_are_those_of_the_original_layout(form: str, tmp_path: Path) -> None:
    tower = tmp_path / "clip" if form == "tower apart" else None
    original = Original(tmp_path / "original", tower=tower, binary=form == "binary")
    told = checkpoints.convert(original.folder, tmp_path / "out", tower)
    vlm = load(tmp_path / "out")
    assert told == {"weights": len(vlm.model.state_dict()), "vocabulary": len(original.tokenizer) + 1, "template": "llama3", "image_token": 310 + 2}
    for size in ((48, 40), (32, 32), (120, 30), (30, 77)):
        seen = picture(size)
        encoded = encode(vlm, [Message("user", (Image("it"), Text("what is it?")))], lambda _, seen=seen: encode_png(seen))  # type: ignore[misc]
        with torch.no_grad():
            got = vlm.model(input_ids=torch.tensor([encoded.input_ids]), **encoded.pixels).logits[0]
            system = (
                "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
                "and assist the user with a variety of tasks using natural language."
            )
            head = "<|start_header_id|>{}<|end_header_id|>\n\n"
            before = f"<|begin_of_text|>{head.format('system')}{system}<|eot_id|>{head.format('user')}"
            expected = original.logits(before, seen, f"\nwhat is it?<|eot_id|>{head.format('assistant')}")
        assert got.shape[0] == expected.shape[0]
        # The row for the image's own token is new.
        torch.testing.assert_close(got[:, : expected.shape[1]], expected, atol=1e-4, rtol=1e-4)


def test_new_embeddings_are_the_mean_and_precision_stays(tmp_path: Path) -> None:
    original = Original(tmp_path / "original")
    halves = {name: value.bfloat16() for name, value in load_file(tmp_path / "original" / "model.safetensors").items()}
    save_file(halves, tmp_path / "original" / "model.safetensors")
    checkpoints.convert(tmp_path / "original", tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    for ours, theirs in (("model.embed_tokens", "model.embed_tokens"), ("lm_head", "lm_head")):
        old, new = halves[f"{theirs}.weight"], weights[f"language_model.{ours}.weight"]
        assert torch.equal(new[:-1], old) and torch.equal(new[-1], old.float().mean(0).bfloat16())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert len(original.tokenizer) == len(halves["lm_head.weight"])


def test_large_checkpoints_come_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_SHARD", 100_000)
    Original(tmp_path / "original")
    checkpoints.convert(tmp_path / "original", tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    shards = load(tmp_path / "out").model.state_dict()
    monkeypatch.setattr(checkpoints, "_SHARD", 2**30)
    checkpoints.convert(tmp_path / "original", tmp_path / "one")
    one = load(tmp_path / "one").model.state_dict()
    assert shards.keys() == one.keys() and all(torch.equal(value, one[name]) for name, value in shards.items())


def test_grids_written_as_a_range_count_tiles(tmp_path: Path) -> None:
    Original(tmp_path / "original", image_grid_pinpoints="(1x1),...,(2x3)", image_aspect_ratio="anyres_max_9")
    checkpoints.convert(tmp_path / "original", tmp_path / "out")
    grids = [[32, 32], [32, 64], [32, 96], [64, 32], [64, 64], [64, 96]]
    vlm = load(tmp_path / "out")
    assert vlm.model.config.image_grid_pinpoints == vlm.processor.image_processor.image_grid_pinpoints == grids


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', but only llava, llava_llama, llava_mistral, llava_qwen can be converted"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
        ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type is 'flat'"),
        ({"image_aspect_ratio": "pad"}, "image_aspect_ratio is 'pad', but LLaVA-NeXT cuts images into tiles"),
    ],
)
def test_another_layout_is_one_clear_line(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    Original(tmp_path / "original", **config)
    with pytest.raises(UserError, match=message):
        checkpoints.convert(tmp_path / "original", tmp_path / "out")


def test_what_is_missing_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no original checkpoint in"):
        checkpoints.convert(tmp_path, tmp_path / "out")
    Original(tmp_path / "original", tower=tmp_path / "clip")
    with pytest.raises(UserError, match="holds no vision tower; give the folder of openai/clip-vit-large-patch14-336 by --vision-tower"):
        checkpoints.convert(tmp_path / "original", tmp_path / "out")
    with pytest.raises(UserError, match="no chat template 'alpaca'; there are llama3, chatml, mistral, vicuna"):
        checkpoints.convert(tmp_path / "original", tmp_path / "out", tmp_path / "clip", "alpaca")
    (tmp_path / "original" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights in .*: neither \*\.safetensors nor"):
        checkpoints.convert(tmp_path / "original", tmp_path / "out", tmp_path / "clip")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded_as_it_was_and_named_as_servers_name_it(kind: str, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    vlm = load(tiny(kind))
    checkpoints.save(vlm, tmp_path / "out")
    again = load(tmp_path / "out")
    before, after = vlm.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    tower = [name for name in load_file(tmp_path / "out" / "model.safetensors") if name.startswith("vision_tower.")]
    prefixed = kind in ("llava", "llava_next", "llava_onevision")
    assert bool(tower) == (prefixed or kind == "internvl") and all(name.startswith("vision_tower.vision_model.") == prefixed for name in tower)
    assert not list((tmp_path / "out").glob("*.part"))


def test_a_video_processors_settings_are_kept_for_servers(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    vlm = load(tiny("qwen2_vl"))
    checkpoints.save(vlm, tmp_path / "source")
    (tmp_path / "source" / "video_preprocessor_config.json").write_text("{}")
    checkpoints.save(load(tmp_path / "source"), tmp_path / "out")
    assert (tmp_path / "out" / "video_preprocessor_config.json").read_text() == "{}"
