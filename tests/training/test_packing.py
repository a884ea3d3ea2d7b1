from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.models import KINDS
from insightv.config import LoraConfig
from insightv.models.vlm import VLM, freeze, load, parts
from insightv.training import adapters, attention, packing
from insightv.training.packing import Answer, Row, answer_logprobs, collate
from insightv.training.rows import encode_row, tokenize_row


@pytest.fixture(params=KINDS)
def vlm(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> VLM:
    return load(tiny(request.param))


def encoded(vlm: VLM, data: Any) -> list[Row]:
    return [encode_row(vlm, tokenize_row(vlm, item)) for item in data]


@pytest.fixture
def groups(rows: Callable[..., Any]) -> Callable[[VLM, int], list[Row]]:
    """Three rows of N answers of different lengths: of one picture, of two of other sizes, and of none."""

    def make(vlm: VLM, count: int) -> list[Row]:
        data = rows(3)
        data[1]["images"] = data[1]["images"] + data[2]["images"]
        data[1]["prompt"][0]["content"].insert(0, {"type": "image"})
        data[2] |= {"images": [], "prompt": [{"role": "user", "content": "hello"}]}
        texts = ["yes.", "it is red, because the picture is.", "grey", "I cannot say what colour it is", "blue and blue", "no", "so B.", "red."]
        answers = [Answer(ids, [1] * len(ids)) for ids in (vlm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)]
        return [Row(row.row_id, row.prompt_ids, row.pixels, (answers[at:] + answers[:at])[:count]) for at, row in enumerate(encoded(vlm, data))]

    return make


def one_by_one(vlm: VLM, row: Row, answer: Answer, model: Any = None) -> Tensor:
    """Log-probabilities of an answer's tokens from an unpadded forward pass of prompt and answer alone, with the whole head."""
    ids = torch.tensor([row.prompt_ids + answer.ids])
    extra: dict[str, Any] = dict(row.pixels)
    if "image_grid_thw" in extra:
        extra["mm_token_type_ids"] = (ids == vlm.model.config.image_token_id).int()
    logits = (model or vlm.model)(input_ids=ids, **extra).logits[0].float().log_softmax(-1)
    start = len(row.prompt_ids)
    kept = torch.tensor(answer.mask)
    return logits[range(start - 1, start - 1 + len(answer.ids)), answer.ids] * kept


def separately(vlm: VLM, rows: list[Row], model: Any = None) -> list[Tensor]:
    return [one_by_one(vlm, row, answer, model) for row in rows for answer in row.answers]


def weighted(sums: Tensor) -> Tensor:
    """A loss in which every answer has another weight."""
    return (sums * torch.linspace(-1, 1, sums.numel()).view_as(sums)).sum() / 100


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys() and any(bool(gradient.any()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("form", ["sdpa", attention.SHARED])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_answers_that_share_their_prompt_get_what_each_gets_alone(form: str, count: int, vlm: VLM, groups: Callable[..., list[Row]]) -> None:
    vlm.model.set_attn_implementation({"text_config": form})
    rows = groups(vlm, count)
    packed = answer_logprobs(vlm.model, collate(rows, vlm.tokenizer.pad_token_id))
    alone = separately(vlm, rows)
    assert packed.sums.shape == packed.counts.shape == (3, count)
    assert packed.tokens.shape == packed.mask.shape == (3 * count, max(map(len, alone)))
    for got, mask, expected in zip(packed.tokens, packed.mask, alone, strict=True):
        torch.testing.assert_close(got[: len(expected)], expected, atol=1e-4, rtol=0)
        assert mask.tolist() == [True] * len(expected) + [False] * (len(got) - len(expected)) and not got[len(expected) :].any()
    assert packed.counts.flatten().tolist() == list(map(len, alone))
    expected_sums = torch.stack([one.sum() for one in alone]).view(3, count)
    torch.testing.assert_close(packed.sums, expected_sums, atol=1e-3, rtol=0)
    assert_same(gradients(vlm.model, weighted(packed.sums)), gradients(vlm.model, weighted(expected_sums)))


@pytest.mark.parametrize("form", ["sdpa", "eager", attention.SHARED])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_do_not_depend_on_attention_adapter_or_checkpointing(
    form: str, lora: bool, checkpointing: bool, vlm: VLM, groups: Callable[..., list[Row]]
) -> None:
    torch.manual_seed(0)
    freeze(vlm.model)
    model = adapters.add(vlm.model, LoraConfig(r=2)) if lora else vlm.model
    rows = groups(vlm, 2)
    expected = gradients(model, weighted(torch.stack([one.sum() for one in separately(vlm, rows, model)])))
    vlm.model.set_attn_implementation({"text_config": form})
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if lora:
            model.enable_input_require_grads()
    assert_same(gradients(model, weighted(answer_logprobs(model, collate(rows, 0)).sums.flatten())), expected)


def test_the_logits_of_few_positions_exist_at_once(vlm: VLM, groups: Callable[..., list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collate(groups(vlm, 2), 0)
    whole = answer_logprobs(vlm.model, batch)
    expected = gradients(vlm.model, weighted(whole.sums))
    seen: list[int] = []
    real = packing._chosen
    monkeypatch.setattr(packing, "CHUNK", 7)
    monkeypatch.setattr(packing, "_chosen", lambda logits, hidden, targets: (seen.append(len(hidden)), real(logits, hidden, targets))[1])
    chunked = answer_logprobs(vlm.model, batch)
    forward = list(seen)
    assert_same(gradients(vlm.model, weighted(chunked.sums)), expected)
    torch.testing.assert_close(chunked.tokens, whole.tokens, atol=1e-5, rtol=0)
    # Only positions that predict a token with loss, and each chunk again in the backward pass instead of keeping its logits.
    assert sum(forward) == int(whole.counts.sum()) < batch["input_ids"].numel() and max(forward) == 7
    assert sorted(seen[len(forward) :]) == sorted(forward)


def test_nothing_as_wide_as_the_vocabulary_is_kept_for_the_backward_pass(vlm: VLM, groups: Callable[..., list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collate(groups(vlm, 2), 0)
    monkeypatch.setattr(packing, "CHUNK", 7)
    vocabulary, kept = vlm.model.config.get_text_config().vocab_size, []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor):
        answer_logprobs(vlm.model, batch)
    # What has the vocabulary's size may only be a weight of embedding or head.
    wide = [shape for shape in kept if vocabulary in shape and len(shape) == 2 and shape[0] != vocabulary and shape[-1] == vocabulary]
    assert kept and all(shape == (64, vocabulary) for shape in wide)


def test_tokens_without_loss_inside_an_answer_do_not_count(vlm: VLM, rows: Callable[..., Any]) -> None:
    [row] = encoded(vlm, rows(1))
    whole = row.answers[0]
    holed = Answer(whole.ids, [int(i % 3 != 1) for i in range(len(whole.ids))])
    row = Row("r", row.prompt_ids, row.pixels, [whole, holed])
    with torch.no_grad():
        got = answer_logprobs(vlm.model, collate([row], 0))
        torch.testing.assert_close(got.tokens[1], one_by_one(vlm, row, holed), atol=1e-4, rtol=0)
    assert got.mask[1].tolist() == [bool(kept) for kept in holed.mask]
    assert got.counts.tolist() == [[len(whole.ids), sum(holed.mask)]]


@pytest.fixture
def encodes(vlm: VLM) -> Iterator[list[int]]:
    """How many tiles or patches the vision tower was given, call by call."""
    tower = next(module for name, module in vlm.model.named_modules() if name.split(".")[-1] in ("vision_tower", "vision_model", "visual"))
    calls: list[int] = []
    handle = tower.register_forward_pre_hook(lambda _, inputs, named: calls.append(len(next(iter([*inputs, *named.values()])))), with_kwargs=True)
    yield calls
    handle.remove()


def test_images_are_prepared_and_encoded_once_a_row_however_many_answers_it_has(
    vlm: VLM, groups: Callable[..., list[Row]], encodes: list[int], rows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    for count in (1, 8):
        encodes.clear()
        answer_logprobs(vlm.model, collate(groups(vlm, count), 0)).sums.sum().backward()
        sizes.append(list(encodes))
    assert len(sizes[0]) >= 1 and sizes[0] == sizes[1]
    pairs = rows(3, pairs=True)
    encoded(vlm, pairs)  # A size met for the first time is prepared once more, as `prepare_rows` does when it counts tokens.
    prepared: list[int] = []
    whole = type(vlm.processor.image_processor)
    real = whole.__call__
    monkeypatch.setattr(whole, "__call__", lambda self, *given, **named: (prepared.append(1), real(self, *given, **named))[1])
    collate(encoded(vlm, pairs), 0)
    assert len(prepared) == 3


def test_in_bfloat16_sharing_errs_no_more_than_separate_rows_do(vlm: VLM, groups: Callable[..., list[Row]]) -> None:
    rows = groups(vlm, 8)
    with torch.no_grad():
        exact = torch.stack([one.sum() for one in separately(vlm, rows)])
        with torch.autocast("cpu", torch.bfloat16):
            alone = torch.stack([one.sum() for one in separately(vlm, rows)])
            packed = answer_logprobs(vlm.model, collate(rows, 0)).sums.flatten()
    errors = [(sums.float() - exact).square().mean().sqrt().item() for sums in (packed, alone)]
    assert 0 < errors[0] <= 1.5 * errors[1]


def test_a_spare_row_uses_the_vision_tower_and_counts_for_nothing(vlm: VLM, groups: Callable[..., list[Row]]) -> None:
    pictured, _, plain = groups(vlm, 2)
    expected = answer_logprobs(vlm.model, collate([plain], 0))
    gradient = gradients(vlm.model, weighted(expected.sums))
    batch = collate([plain], 0, spare=pictured)
    got = answer_logprobs(vlm.model, batch)
    assert got.sums.shape == (1, 2) and got.tokens.shape == expected.tokens.shape and batch["row_ids"] == [plain.row_id]
    assert int((batch["labels"] != -100).sum()) == int(expected.counts.sum())
    torch.testing.assert_close(got.sums, expected.sums, atol=1e-4, rtol=0)
    used = gradients(vlm.model, weighted(got.sums))
    projector = [name for name in used if name in parts(vlm.model)["projector"]]
    assert projector and not any(used[name].any() for name in projector) and not any(name in gradient for name in projector)
    for name, value in gradient.items():
        torch.testing.assert_close(used[name], value, atol=1e-5, rtol=0)
    # Where a row has an image, none is added.
    assert len(collate([pictured, plain], 0, spare=pictured)["input_ids"]) == 2


def test_rows_with_different_numbers_of_answers_are_refused() -> None:
    answer = Answer([1], [1])
    with pytest.raises(ValueError, match="same number"):
        collate([Row("a", [1], {}, [answer]), Row("b", [1], {}, [answer, answer])], 0)
