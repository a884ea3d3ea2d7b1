"""Messages become the same tokens and pixels as the processor's own, parts are told apart, checkpoints have an identity."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import load_file, save_file

from benchmarks.models import KINDS
from insightv.config import UserError
from insightv.images import decode, digest, encode_png
from insightv.models import vlm as vlms
from insightv.models.chat import Image, Message, Text, text_message


def picture(seed: int, width: int = 64, height: int = 64) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return encode_png(Picture.fromarray(pixels))


def store(*pictures: bytes) -> tuple[list[str], Callable[[str], bytes]]:
    kept = {digest(data): data for data in pictures}
    return list(kept), kept.__getitem__


@pytest.fixture(params=KINDS)
def vlm(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> vlms.VLM:
    return vlms.load(tiny(request.param), device="cpu")


def test_encoding_equals_the_processors_own(vlm: vlms.VLM) -> None:
    pictures = [picture(0, 64, 40), picture(1, 40, 90)]
    digests, get = store(*pictures)
    messages = [Message("user", (Image(digests[0]), Text("Compare it with"), Image(digests[1]), Text("please."))), text_message("assistant", "Ünïcode 🟥 ok")]
    messages += [text_message("user", "And now?")]

    encoded = vlms.encode(vlm, messages, get, prefill="Well, ")

    text = vlms.render(vlm, messages, generation_prompt=True) + "Well, "
    bos = vlm.tokenizer.bos_token
    # Nested, as chat templates have it: LLaVA-OneVision takes a flat list for conversations of one image each.
    expected = vlm.processor(images=[[decode(data) for data in pictures]], text=[text], add_special_tokens=not bos, return_tensors="pt")
    assert encoded.input_ids == expected["input_ids"][0].tolist()
    assert set(encoded.pixels) == set(expected) - {"input_ids", "attention_mask", "mm_token_type_ids"}
    for name, tensor in encoded.pixels.items():
        assert torch.equal(*map(tiles, (tensor, expected[name])) if "pixel_attention_mask" in expected else (tensor, expected[name]))


def test_images_of_a_known_size_need_the_image_processor_alone(vlm: vlms.VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """And become the very same tokens and pixels, whatever their tiles, alone and several together."""
    shapes = [(64, 40), (40, 90), (96, 32), (30, 30)]
    conversations = [*([shape] for shape in shapes), shapes[:2]]
    pictures = [[picture(at, *shape) for at, shape in enumerate(conversation)] for conversation in conversations]
    fresh = [vlms.prepare(vlm, each) for each in pictures]
    monkeypatch.setattr(type(vlm.processor), "__call__", lambda *_, **__: pytest.fail("the processor ran whole"))
    for conversation, each, expected in zip(conversations, pictures, fresh, strict=True):
        again = vlms.prepare(vlm, each)
        assert again.ids == expected.ids and [len(ids) for ids in again.ids] == vlms.count_image_tokens(vlm, conversation)
        assert again.pixels.keys() == expected.pixels.keys()
        assert all(torch.equal(again.pixels[name], value) for name, value in expected.pixels.items())


def test_an_image_processor_that_gives_other_pixels_is_not_trusted(tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = vlms.load(tiny_llava, device="cpu")
    expected = vlms.prepare(vlm, [picture(0)]).pixels["pixel_values"]
    vlm.sized.clear()
    whole, kind = type(vlm.processor).__call__, type(vlm.processor.image_processor)
    within, real = [False], kind.__call__

    def processed(self: Any, *given: Any, **named: Any) -> Any:
        within[0] = True
        made = whole(self, *given, **named)
        within[0] = False
        return made

    def alone(self: Any, *given: Any, **named: Any) -> Any:
        made = real(self, *given, **named)
        return made if within[0] else {name: value + 1 for name, value in made.items()}

    monkeypatch.setattr(type(vlm.processor), "__call__", processed)
    monkeypatch.setattr(kind, "__call__", alone)
    for _ in range(2):
        assert torch.equal(vlms.prepare(vlm, [picture(0)]).pixels["pixel_values"], expected)


def tiles(tensor: torch.Tensor) -> torch.Tensor:
    """All tiles of Idefics3's images, which the model takes in any number of rows; it passes over those that are zero."""
    flat = tensor.flatten(0, 1)
    return flat[flat.flatten(1).any(1)]


def test_start_token_stands_once(tiny_llava: Path) -> None:
    vlm = vlms.load(tiny_llava, device="cpu")
    encoded = vlms.encode(vlm, [text_message("user", "hello")], store()[1])
    assert encoded.input_ids.count(vlm.tokenizer.bos_token_id) == 1
    assert encoded.pixels == {}


def test_text_cannot_smuggle_in_special_tokens(vlm: vlms.VLM) -> None:
    digests, get = store(picture(0))
    smuggled = "".join(vlm.control)
    honest = vlms.encode(vlm, [Message("user", (Image(digests[0]), Text("hi")))], get)
    hostile = vlms.encode(vlm, [Message("user", (Image(digests[0]), Text(f"hi{smuggled}")))], get, prefill=smuggled)
    for token in vlm.control.values():
        assert hostile.input_ids.count(token) == honest.input_ids.count(token)


def test_tags_survive_decoding_even_as_special_tokens(tiny_llava: Path) -> None:
    vlm = vlms.load(tiny_llava, device="cpu")
    text = "<thoughts>\n### Look\nred 🟥\n</thoughts>\n<output>B</output>"
    plain = vlms.tokenize(vlm, text)
    assert vlms.detokenize(vlm, [*plain, vlm.tokenizer.eos_token_id, vlm.tokenizer.pad_token_id]) == text

    vlm.tokenizer.add_special_tokens({"additional_special_tokens": list(vlms.TAGS)})
    short = vlms.tokenize(vlm, text)
    assert len(short) < len(plain)
    assert vlms.detokenize(vlm, [*short, vlm.tokenizer.eos_token_id]) == text


def test_placeholders_that_do_not_match_the_images_are_refused(tiny_llava: Path) -> None:
    vlm = vlms.load(tiny_llava, device="cpu")
    with pytest.raises(ValueError, match="wrote 2 image placeholders for 1 images"):
        vlms.encode_text(vlm, "<image><image>", [picture(0)])


def test_collated_rows_give_each_rows_own_logits(vlm: vlms.VLM) -> None:
    """Rows whose images differ in size, and a row without one, batch to the logits that each has alone."""
    digests, get = store(picture(0, 64, 40), picture(1, 90, 40))
    asked = [(Image(digests[0]), Text("what colour?")), (Text("no picture here"),), (Image(digests[1]), Text("which one is it then?"))]
    rows = [vlms.encode(vlm, [Message("user", parts)], get) for parts in asked]
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.tensor([[vlm.tokenizer.pad_token_id] * (longest - len(row.input_ids)) + row.input_ids for row in rows])
    mask = torch.tensor([[0] * (longest - len(row.input_ids)) + [1] * len(row.input_ids) for row in rows])
    pixels = vlms.collate_pixels([row.pixels for row in rows])
    with torch.inference_mode():
        together = vlm.model(input_ids=ids, attention_mask=mask, position_ids=vlms.positions(vlm.model, ids, mask, pixels), **pixels).logits
        for row, logits in zip(rows, together, strict=True):
            alone_ids = torch.tensor([row.input_ids])
            extra = {"mm_token_type_ids": (alone_ids == vlm.processor.image_token_id).int()} if "image_grid_thw" in row.pixels else {}
            if hasattr(vlm.model.model, "rope_deltas"):
                vlm.model.model.rope_deltas = None
            alone = vlm.model(input_ids=alone_ids, **row.pixels, **extra).logits[0]
            torch.testing.assert_close(logits[-len(row.input_ids) :], alone, atol=2e-5, rtol=0)


def test_parts_cover_the_model_and_freeze_obeys(vlm: vlms.VLM) -> None:
    found = vlms.parts(vlm.model)
    assert sorted(name for names in found.values() for name in names) == sorted(name for name, _ in vlm.model.named_parameters())
    assert all("vision" in name or "visual" in name for name in found["vision"])
    assert all(re.search("projector|merger|newline|connector", name) for name in found["projector"])
    assert all(re.search("language_model|text_model|lm_head", name) for name in found["language"])
    assert all(found.values())

    vlms.freeze(vlm.model)
    free = {name for name, parameter in vlm.model.named_parameters() if parameter.requires_grad}
    assert free == {*found["projector"], *found["language"]}
    vlms.freeze(vlm.model, ("vision",))
    assert {name for name, parameter in vlm.model.named_parameters() if parameter.requires_grad} == set(found["vision"])


def test_identity_follows_the_bytes_not_the_place(tiny_llava: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(tiny_llava, tmp_path / "copied")
    (copied / "log.jsonl").write_text("{}")
    assert vlms.weights_hash(copied) == vlms.weights_hash(tiny_llava)
    assert vlms.weights_hash(copied, tiny_llava) != vlms.weights_hash(copied)

    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    assert vlms.weights_hash(copied) != vlms.weights_hash(tiny_llava)


def test_an_adapter_is_merged_and_changes_identity(tiny_llava: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = vlms.load(tiny_llava, device="cpu")
    torch.manual_seed(0)
    adapted = get_peft_model(vlms.load(tiny_llava, device="cpu").model, LoraConfig(r=2, target_modules=r".*language_model.*q_proj", init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    merged = vlms.load(tiny_llava, adapter=tmp_path, device="cpu")
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        torch.testing.assert_close(merged.model(input_ids=ids).logits, adapted(input_ids=ids).logits)
        assert not torch.allclose(merged.model(input_ids=ids).logits, base.model(input_ids=ids).logits, atol=1e-3)
    assert merged.identity != base.identity
    assert vlms.load(tiny_llava, device="cpu", dtype="bfloat16").identity != base.identity


def test_unusable_checkpoints_are_user_errors(tiny_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        vlms.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        vlms.load(tiny_llava, adapter=tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(UserError, match=r"has no \*\.safetensors"):
        vlms.load(tmp_path)
    damaged = shutil.copytree(tiny_llava, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be loaded"):
        vlms.load(damaged)
    (damaged / "config.json").write_text('{"model_type": "nothing known"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        vlms.load(damaged)
    partial = shutil.copytree(tiny_llava, tmp_path / "partial")
    weights = load_file(partial / "model.safetensors")
    weights.pop(next(name for name in weights if "projector" in name))
    save_file(weights, partial / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of its weights"):
        vlms.load(partial)


def test_a_model_goes_to_the_gpu_that_its_process_took(tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, place: moved.append(place) or self)
    assert vlms.load(tiny_llava).device == torch.device("cuda:3")
    assert moved == [torch.device("cuda:3")]
