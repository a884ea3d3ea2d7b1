from collections.abc import Callable
from typing import Any

import pytest
import torch

from insightv.models.vlm import VLM, load
from insightv.training.packing import Answer, Row, answer_logprobs, collate
from insightv.training.rows import encode_rows

MODELS = ("tiny_llava", "tiny_llava_next", "tiny_qwen")


@pytest.fixture(params=MODELS)
def vlm(request: pytest.FixtureRequest) -> VLM:
    return load(request.getfixturevalue(request.param))


def one_by_one(vlm: VLM, row: Row, answer: Answer) -> list[float]:
    """Log-probabilities of an answer's tokens from an unpadded forward pass of the row alone, with the whole head."""
    ids = torch.tensor([row.prompt_ids + answer.ids])
    extra: dict[str, Any] = dict(row.pixels)
    if "image_grid_thw" in extra:
        extra["mm_token_type_ids"] = (ids == vlm.model.config.image_token_id).int()
    logits = vlm.model(input_ids=ids, **extra).logits[0].log_softmax(-1)
    start = len(row.prompt_ids)
    return [logits[start + i - 1, token].item() * kept for i, (token, kept) in enumerate(zip(answer.ids, answer.mask, strict=True))]


def test_a_padded_batch_of_pairs_gives_what_each_answer_gives_alone(vlm: VLM, rows: Callable[..., Any]) -> None:
    encoded, _ = encode_rows(vlm, rows(3, pairs=True), 1000)
    with torch.no_grad():
        batched = answer_logprobs(vlm.model, collate(encoded, vlm.tokenizer.pad_token_id))
        alone = [one_by_one(vlm, row, answer) for row in encoded for answer in row.answers]
    assert batched.sums.shape == (3, 2)
    assert batched.tokens.shape[1] == max(len(answer) for answer in alone)
    for got, mask, expected in zip(batched.tokens, batched.mask, alone, strict=True):
        assert got[: len(expected)].tolist() == pytest.approx(expected, abs=2e-5)
        assert int(mask.sum()) == len(expected)
    assert batched.sums.flatten().tolist() == pytest.approx([sum(answer) for answer in alone], abs=1e-4)
    assert batched.counts.flatten().tolist() == [len(answer) for answer in alone]


def test_tokens_without_loss_inside_an_answer_do_not_count(vlm: VLM, rows: Callable[..., Any]) -> None:
    encoded, _ = encode_rows(vlm, rows(1), 1000)
    whole = encoded[0].answers[0]
    holed = Answer(whole.ids, [int(i % 3 != 1) for i in range(len(whole.ids))])
    row = Row("r", encoded[0].prompt_ids, encoded[0].pixels, [holed])
    with torch.no_grad():
        got = answer_logprobs(vlm.model, collate([row], 0))
        assert got.tokens[0].tolist() == pytest.approx(one_by_one(vlm, row, holed), abs=2e-5)
    assert got.mask[0].tolist() == [bool(kept) for kept in holed.mask]


def test_the_head_sees_only_positions_that_predict_a_token_with_loss(vlm: VLM, rows: Callable[..., Any]) -> None:
    encoded, _ = encode_rows(vlm, rows(2), 1000)
    seen: list[int] = []
    vlm.model.get_output_embeddings().register_forward_hook(lambda _, inputs, output: seen.append(len(output)))
    answer_logprobs(vlm.model, collate(encoded, 0)).sums.sum().backward()
    [width] = seen
    wanted = sum(len(row.answers[0].ids) for row in encoded)
    # Rounded up to 256, so that the head meets few shapes.
    assert width % 256 == 0 and wanted <= width < wanted + 256
    assert vlm.model.get_input_embeddings().weight.grad is not None


def test_rows_with_different_numbers_of_answers_are_refused() -> None:
    answer = Answer([1], [1])
    with pytest.raises(ValueError, match="same number"):
        collate([Row("a", [1], {}, [answer]), Row("b", [1], {}, [answer, answer])], 0)


def test_a_batch_may_mix_rows_with_and_without_images(vlm: VLM, rows: Callable[..., Any]) -> None:
    data = rows(2)
    data[1] |= {"images": [], "prompt": [{"role": "user", "content": "hello"}]}
    encoded, _ = encode_rows(vlm, data, 1000)
    with torch.no_grad():
        got = answer_logprobs(vlm.model, collate(encoded, 0)).sums.flatten().tolist()
        assert got == pytest.approx([sum(one_by_one(vlm, row, row.answers[0])) for row in encoded], abs=1e-4)
