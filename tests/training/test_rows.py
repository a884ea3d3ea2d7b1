from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.models import KINDS
from insightv.models.vlm import VLM, load
from insightv.training.packing import Row
from insightv.training.rows import encode_row, tokenize_row


@pytest.fixture(params=KINDS)
def vlm(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> VLM:
    return load(tiny(request.param))


def encoded(vlm: VLM, item: dict[str, Any]) -> Row:
    return encode_row(vlm, tokenize_row(vlm, item))


def test_the_whole_completion_with_its_end_of_turn_has_loss_and_no_placeholder_has(vlm: VLM, rows: Callable[..., Any]) -> None:
    data = rows(1)
    row = encoded(vlm, data[0])
    answer = row.answers[0]
    assert vlm.tokenizer.decode(answer.ids).startswith(data[0]["completion"][0]["content"][0]["text"] + vlm.tokenizer.eos_token)
    assert answer.mask == [1] * len(answer.ids)
    image = vlm.model.config.image_token_id
    assert row.prompt_ids.count(image) >= 4
    assert image not in answer.ids


def test_prompt_and_answer_together_are_the_processors_own_tokens(vlm: VLM, rows: Callable[..., Any]) -> None:
    data = rows(1)
    row = encoded(vlm, data[0])
    from insightv.images import decode

    text = vlm.processor.apply_chat_template(data[0]["prompt"] + data[0]["completion"], tokenize=False)
    given = vlm.processor(text=[text], images=[decode(data[0]["images"][0]["bytes"])], add_special_tokens=False)
    assert row.prompt_ids + row.answers[0].ids == list(given["input_ids"][0])


def test_in_a_multi_turn_completion_only_the_assistants_turns_have_loss(vlm: VLM, rows: Callable[..., Any]) -> None:
    data = rows(1)
    turns = [{"role": role, "content": text} for role, text in (("assistant", "first"), ("user", "between"), ("assistant", "second"))]
    answer = encoded(vlm, data[0] | {"completion": turns}).answers[0]
    learnt = vlm.tokenizer.decode([token for token, kept in zip(answer.ids, answer.mask, strict=True) if kept])
    assert learnt.split(vlm.tokenizer.eos_token)[0].strip() == "first"
    assert "second" in learnt
    assert "between" not in learnt
    assert "between" in vlm.tokenizer.decode(answer.ids)
    assert 0 in answer.mask


def test_a_rejected_answer_that_was_cut_has_no_end_of_turn(vlm: VLM, rows: Callable[..., Any]) -> None:
    [pair] = rows(1, pairs=True)
    whole, cut = (encoded(vlm, pair | {"rejected_truncated": truncated}) for truncated in (False, True))
    text = pair["rejected"][0]["content"][0]["text"]
    assert vlm.tokenizer.decode(cut.answers[1].ids) == text
    assert cut.answers[1].mask == [1] * len(cut.answers[1].ids)
    # But for the end nothing changes, and the chosen answer keeps its own.
    assert whole.answers[1].ids[: len(cut.answers[1].ids)] == cut.answers[1].ids
    assert vlm.tokenizer.decode(whole.answers[1].ids).startswith(text + vlm.tokenizer.eos_token)
    assert cut.answers[0] == whole.answers[0] and vlm.tokenizer.eos_token_id in cut.answers[0].ids
    assert whole.answers == encoded(vlm, pair).answers


def test_of_several_turns_only_the_last_stays_open(vlm: VLM, rows: Callable[..., Any]) -> None:
    turns = [{"role": role, "content": text} for role, text in (("assistant", "first"), ("user", "between"), ("assistant", "second"))]
    [pair] = rows(1, pairs=True)
    answer = encoded(vlm, pair | {"rejected": turns, "rejected_truncated": True}).answers[1]
    learnt = vlm.tokenizer.decode([token for token, kept in zip(answer.ids, answer.mask, strict=True) if kept])
    assert learnt.startswith("first" + vlm.tokenizer.eos_token) and learnt.endswith("second")
