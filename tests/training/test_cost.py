from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import config
from benchmarks.models import KINDS, save
from benchmarks.trainers.task import flops
from insightv.config import LoraConfig, TrainConfig, UserError
from insightv.models.vlm import freeze, load
from insightv.training.adapters import add
from insightv.training.cost import Row, Shape, memory, shape_of, work
from insightv.training.packing import answer_logprobs, collate
from insightv.training.rows import encode_row, tokenize_row


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Shape:
    """LLaVA-NeXT on Llama 3 8B."""
    folder = tmp_path_factory.mktemp("8b")
    config().save_pretrained(folder)
    return shape_of(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_the_model(kind: str, tiny: Callable[[str], Path]) -> None:
    shape, model = shape_of(tiny(kind)), load(tiny(kind)).model
    assert shape.total == sum(parameter.numel() for parameter in model.parameters()) and min(shape.parameters.values()) > 0
    ends = {id(weight): weight.numel() for weight in (model.get_output_embeddings().weight, model.get_input_embeddings().weight)}
    assert shape.body == shape.parameters["language"] - sum(ends.values()) and shape.tied == (len(ends) == 1)


@pytest.mark.parametrize("kind", ["llava_next", "qwen2_5_vl"])
@pytest.mark.parametrize("lora", [False, True])
def test_operations_are_those_that_torch_counts(kind: str, lora: bool, rows: Callable[..., Any], tmp_path: Path) -> None:
    # Wide and short, as real models are: attention, of which torch counts the masked half too, is a small part.
    vlm = load(save(kind, tmp_path, hidden_size=512, intermediate_size=2048, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4))
    freeze(vlm.model)
    model = add(vlm.model, LoraConfig(r=1)) if lora else vlm.model
    item = rows(1, pairs=True)[0]
    item["prompt"][0]["content"][1]["text"] = "what colour is it? " * 12
    row = encode_row(vlm, tokenize_row(vlm, item))
    batch = collate([row], 0)
    pixels = row.pixels["pixel_values"]
    patches = len(pixels) if kind == "qwen2_5_vl" else pixels.shape[1] * 4
    padding = batch["input_ids"].shape[1] - row.width
    expected = work(shape_of(tmp_path), Row(len(row.prompt_ids) + padding, [len(answer.ids) for answer in row.answers], patches), lora=lora)
    with torch.no_grad():
        forward = flops(lambda: answer_logprobs(model, batch))
    both = flops(lambda: answer_logprobs(model, batch).sums.sum().backward())
    assert forward == pytest.approx(expected.forward, rel=0.05)
    assert both == pytest.approx(sum(expected), rel=0.05)


def test_a_pair_of_the_papers_size_costs_what_was_computed_by_hand(large: Shape) -> None:
    assert large.total == pytest.approx(8.36e9, rel=0.01)
    pair = Row(2300, [400, 400], 2880)
    once, score = work(large, pair), work(large, pair).forward
    alone = work(large, Row(2300, [400], 2880))
    # Four encodes and two prompts a pair, twice, is what other trainers do: 329 TFLOP.
    others = 2 * (sum(alone) + alone.forward)
    assert others == pytest.approx(329e12, rel=0.06)
    assert others / (sum(once) + score) == pytest.approx(1.74, abs=0.06)
    eight = work(large, Row(2300, [400] * 8, 2880))
    assert 8 * sum(alone) / sum(eight) == pytest.approx(3.8, abs=0.3)
    assert work(large, pair, checkpointing=True).backward > once.backward * 1.4


def test_memory_of_full_fine_tuning_and_of_an_adapter(large: Shape) -> None:
    row, settings = Row(2300, [400], 2880), TrainConfig(batch_size=1, processes=8)
    whole = memory(large, settings, row)
    assert whole["weights"] == pytest.approx(33.4e9, rel=0.01) and whole["optimizer"] == 2 * whole["gradients"] == pytest.approx(64.4e9, rel=0.01)
    sharded = memory(large, settings.model_copy(update={"arguments": {"fsdp": "full_shard"}}), row)
    assert sharded["weights"] == whole["weights"] / 8 and sharded["activations"] == whole["activations"]
    adapter = memory(large, settings.model_copy(update={"lora": LoraConfig(r=16)}), row)
    assert adapter["gradients"] < whole["gradients"] / 100
    checkpointed = memory(large, settings.model_copy(update={"arguments": {"gradient_checkpointing": True}}), row)
    assert checkpointed["activations"] < whole["activations"] / 8


def test_what_is_no_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model at .*: config\.json is missing"):
        shape_of(tmp_path)
