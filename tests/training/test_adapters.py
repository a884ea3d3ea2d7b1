from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.models import KINDS
from insightv.config import LoraConfig, TrainConfig, UserError
from insightv.models.vlm import VLM, load
from insightv.training import adapters, sft, start
from insightv.training.packing import answer_logprobs, collate
from insightv.training.rows import encode_row, tokenize_row


def sums(vlm: VLM, model: Any, data: list[dict[str, Any]]) -> list[float]:
    with torch.no_grad():
        rows = [encode_row(vlm, tokenize_row(vlm, item)) for item in data]
        return answer_logprobs(model, collate(rows, vlm.tokenizer.pad_token_id)).sums.flatten().tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_sits_on_the_language_layers_only_and_changes_nothing(kind: str, tiny: Callable[[str], Path], rows: Callable[..., Any]) -> None:
    vlm = load(tiny(kind))
    before = sums(vlm, vlm.model, rows(2))
    wrapped = adapters.add(vlm.model, LoraConfig(r=2))
    trained = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 7 * 2
    assert all(".language_model.layers." in name or ".text_model.layers." in name for name in trained) and all("lora_" in name for name in trained)
    assert sums(vlm, wrapped, rows(2)) == before


def test_two_trained_adapters_share_one_base_by_name(tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    data = rows(4)
    for name, seed in (("reasoner", 1), ("summarizer", 2)):
        config = TrainConfig(dtype="float32", max_steps=2, batch_size=4, learning_rate=1e-2, warmup=0, seed=seed, lora=LoraConfig(r=2))
        sft.train(tiny_llava, save(data), tmp_path / name, config, tmp_path / f"work-{name}")
    alone = {}
    for name in ("reasoner", "summarizer"):
        merged = load(tiny_llava, adapter=tmp_path / name)
        alone[name] = sums(merged, merged.model, data)
    vlm = load(tiny_llava)
    base = sums(vlm, vlm.model, data)
    wrapped = adapters.attach(vlm.model, {name: tmp_path / name for name in alone}).eval()
    for name, expected in alone.items():
        wrapped.set_adapter(name)
        assert sums(vlm, wrapped, data) == pytest.approx(expected, abs=1e-3)
        assert sums(vlm, wrapped, data) != pytest.approx(base, abs=1e-2)
    with wrapped.disable_adapter():
        assert sums(vlm, wrapped, data) == base


def test_a_second_adapter_can_be_added_and_saved_under_any_name(tiny_llava: Path, tmp_path: Path) -> None:
    wrapped = adapters.add(load(tiny_llava).model, LoraConfig(r=2), "reasoner")
    adapters.add(wrapped, LoraConfig(r=3), "summarizer")
    adapters.save(wrapped, tmp_path / "saved", "summarizer")
    assert sorted(file.name for file in (tmp_path / "saved").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert str(tiny_llava) not in (tmp_path / "saved" / "adapter_config.json").read_text()
    assert adapters.attach(load(tiny_llava).model, {"again": tmp_path / "saved"}).peft_config["again"].r == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_tags_are_added_once(kind: str, tiny: Callable[[str], Path]) -> None:
    vlm = load(tiny(kind))
    start.add_tags(vlm)
    size = len(vlm.tokenizer)
    weights = vlm.model.get_output_embeddings().weight.clone()
    start.add_tags(vlm)
    assert len(vlm.tokenizer) == size == len(weights) == vlm.model.config.text_config.vocab_size
    assert torch.equal(vlm.model.get_output_embeddings().weight, weights)


def test_a_missing_adapter_is_one_clear_line(tiny_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no adapter in"):
        adapters.attach(load(tiny_llava).model, {"a": tmp_path})
