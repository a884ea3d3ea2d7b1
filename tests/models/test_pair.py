"""Two agents in one process say what each would alone, and look at an image once."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image as Picture

from benchmarks.models import KINDS
from insightv.config import LocalConfig
from insightv.images import encode_png
from insightv.models import towers
from insightv.models import vlm as vlms
from insightv.models.chat import Image, Message, Sampling, Text
from insightv.models.local import LocalChat
from insightv.models.pair import open_agents
from insightv.store import ImageStore

CONFIG = LocalConfig(batch_size=4)
GREEDY = Sampling(max_tokens=12, logprobs=True)


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def question(images: ImageStore) -> list[Message]:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 64, 3), dtype=np.uint8)
    return [Message("user", (Image(images.add(encode_png(Picture.fromarray(pixels)))), Text("what is it?")))]


def trained(path: Path, folder: Path, seed: int, part: vlms.Part) -> Path:
    """A checkpoint of the same model with other weights in one part."""
    vlm = vlms.load(path, device="cpu")
    torch.manual_seed(seed)
    names = set(vlms.parts(vlm.model)[part])
    with torch.no_grad():
        for name, parameter in vlm.model.named_parameters():
            if name in names:
                parameter += 0.05 * torch.randn_like(parameter)
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


def adapter(path: Path, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    layers = LoraConfig(r=4, target_modules=r".*(language_model|text_model).*(q|v)_proj", init_lora_weights=False)
    get_peft_model(vlms.load(path, device="cpu").model, layers).save_pretrained(folder)
    return folder


def said(chats: list[LocalChat], messages: list[Message]) -> list[Any]:
    """What each says: its tokens' log-probabilities, which no two models share."""

    async def run() -> list[Any]:
        replies = [pytest.approx((await chat.complete(messages, GREEDY))[0].logprobs, abs=1e-4) for chat in chats]
        for chat in chats:
            await chat.close()
        return replies

    return asyncio.run(run())


def counted(chat: LocalChat) -> list[int]:
    """Grows by one with each pass through the vision tower's first layer."""
    calls: list[int] = []
    tower = getattr(*towers._tower(chat._vlm.model))
    first = next(module for module in tower.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d))
    first.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_with_one_tower_encode_an_image_once(
    kind: str, tiny: Callable[[str], Path], images: ImageStore, question: list[Message], tmp_path: Path
) -> None:
    places = [trained(tiny(kind), tmp_path / str(seed), seed, "language") for seed in (1, 2)]
    expected = [said([LocalChat(vlms.load(place, device="cpu"), images, None, CONFIG)], question)[0] for place in places]
    assert list(expected[0].expected) != expected[1]
    chats = open_agents([(place, None) for place in places], images, CONFIG)
    calls = counted(chats[0])
    assert [list(one.expected) for one in said(chats, question)] == expected
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["llava_next", "qwen2_5_vl"])
def test_adapters_share_their_base(kind: str, tiny: Callable[[str], Path], images: ImageStore, question: list[Message], tmp_path: Path) -> None:
    places: list[Any] = [(tiny(kind), adapter(tiny(kind), tmp_path / str(seed), seed)) for seed in (1, 2)]
    expected = [said([LocalChat(vlms.load(path, adapter=own, device="cpu"), images, None, CONFIG)], question)[0] for path, own in places]
    assert list(expected[0].expected) != expected[1]
    chats = open_agents(places, images, CONFIG)
    calls = counted(chats[0])
    assert chats[0]._vlm.model is chats[1]._vlm.model and chats[0].identity != chats[1].identity
    assert chats[0].identity == vlms.load(*places[0][:1], adapter=places[0][1], device="cpu").identity
    assert [list(one.expected) for one in said(chats, question)] == expected
    assert len(calls) == 1


def test_towers_that_were_trained_are_not_shared(tiny_llava: Path, images: ImageStore, question: list[Message], tmp_path: Path) -> None:
    places = [tiny_llava, trained(tiny_llava, tmp_path / "other", 1, "vision")]
    expected = [said([LocalChat(vlms.load(place, device="cpu"), images, None, CONFIG)], question)[0] for place in places]
    chats = open_agents([(place, None) for place in places], images, CONFIG)
    assert [list(one.expected) for one in said(chats, question)] == expected
    assert not towers.share_tower([chat._vlm for chat in chats])


def test_what_a_tower_has_seen_is_forgotten_when_room_runs_out(tiny_llava: Path) -> None:
    vlm = vlms.load(tiny_llava, device="cpu")
    assert towers.share_tower([vlm], cache=0)
    tower = getattr(*towers._tower(vlm.model))
    calls: list[int] = []
    tower.embeddings.register_forward_pre_hook(lambda *_: calls.append(1))
    first, other = torch.rand(2, 1, 3, 32, 32)
    with torch.inference_mode():
        for pixels in (first, first, other, first):
            vlm.model.get_image_features(pixel_values=pixels)
    assert len(calls) == 3
