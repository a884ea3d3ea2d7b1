from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from insightv.config import UserError
from insightv.models.vlm import VLM, load
from insightv.training.rows import encode_rows, read_data


@pytest.fixture(params=["tiny_llava", "tiny_llava_next", "tiny_qwen"])
def vlm(request: pytest.FixtureRequest) -> VLM:
    return load(request.getfixturevalue(request.param))


def test_the_whole_completion_with_its_end_of_turn_has_loss_and_no_placeholder_has(vlm: VLM, rows: Callable[..., Any]) -> None:
    data = rows(1)
    row = encode_rows(vlm, data, 1000)[0][0]
    answer = row.answers[0]
    assert vlm.tokenizer.decode(answer.ids).startswith(data[0]["completion"][0]["content"][0]["text"] + vlm.tokenizer.eos_token)
    assert answer.mask == [1] * len(answer.ids)
    image = vlm.model.config.image_token_id
    assert row.prompt_ids.count(image) >= 4
    assert image not in answer.ids


def test_prompt_and_answer_together_are_the_processors_own_tokens(vlm: VLM, rows: Callable[..., Any]) -> None:
    data = rows(1)
    row = encode_rows(vlm, data, 1000)[0][0]
    from insightv.images import decode

    text = vlm.processor.apply_chat_template(data[0]["prompt"] + data[0]["completion"], tokenize=False)
    given = vlm.processor(text=[text], images=[decode(data[0]["images"][0]["bytes"])], add_special_tokens=False)
    assert row.prompt_ids + row.answers[0].ids == list(given["input_ids"][0])


def test_in_a_multi_turn_completion_only_the_assistants_turns_have_loss(vlm: VLM, rows: Callable[..., Any]) -> None:
    data = rows(1)
    turns = [{"role": role, "content": text} for role, text in (("assistant", "first"), ("user", "between"), ("assistant", "second"))]
    answer = encode_rows(vlm, [data[0] | {"completion": turns}], 1000)[0][0].answers[0]
    learnt = vlm.tokenizer.decode([token for token, kept in zip(answer.ids, answer.mask, strict=True) if kept])
    assert learnt.split(vlm.tokenizer.eos_token)[0].strip() == "first"
    assert "second" in learnt
    assert "between" not in learnt
    assert "between" in vlm.tokenizer.decode(answer.ids)
    assert 0 in answer.mask


def test_a_rejected_answer_that_was_cut_has_no_end_of_turn(vlm: VLM, rows: Callable[..., Any]) -> None:
    [pair] = rows(1, pairs=True)
    whole, cut = (encode_rows(vlm, [pair | {"rejected_truncated": truncated}], 1000)[0][0] for truncated in (False, True))
    text = pair["rejected"][0]["content"][0]["text"]
    assert vlm.tokenizer.decode(cut.answers[1].ids) == text
    assert cut.answers[1].mask == [1] * len(cut.answers[1].ids)
    # But for the end nothing changes, and the chosen answer keeps its own.
    assert whole.answers[1].ids[: len(cut.answers[1].ids)] == cut.answers[1].ids
    assert vlm.tokenizer.decode(whole.answers[1].ids).startswith(text + vlm.tokenizer.eos_token)
    assert cut.answers[0] == whole.answers[0] and vlm.tokenizer.eos_token_id in cut.answers[0].ids
    assert whole.answers == encode_rows(vlm, [pair], 1000)[0][0].answers


def test_of_several_turns_only_the_last_stays_open(vlm: VLM, rows: Callable[..., Any]) -> None:
    turns = [{"role": role, "content": text} for role, text in (("assistant", "first"), ("user", "between"), ("assistant", "second"))]
    [pair] = rows(1, pairs=True)
    answer = encode_rows(vlm, [pair | {"rejected": turns, "rejected_truncated": True}], 1000)[0][0].answers[1]
    learnt = vlm.tokenizer.decode([token for token, kept in zip(answer.ids, answer.mask, strict=True) if kept])
    assert learnt.startswith("first" + vlm.tokenizer.eos_token) and learnt.endswith("second")


def test_rows_that_are_too_long_are_dropped_and_named_never_cut(vlm: VLM, rows: Callable[..., Any]) -> None:
    data = rows(4)
    lengths = {row.row_id: row.length for row in encode_rows(vlm, data, 1000)[0]}
    limit = sorted(lengths.values())[1]
    kept, dropped = encode_rows(vlm, data, limit)
    assert {row.row_id: row.length for row in kept} == {name: length for name, length in lengths.items() if length <= limit}
    assert dropped == {name: f"too_long: {length} tokens" for name, length in lengths.items() if length > limit}


def test_rows_of_one_image_share_its_pixels(vlm: VLM, rows: Callable[..., Any]) -> None:
    data = rows(1)
    first, second = encode_rows(vlm, [data[0], data[0] | {"id": "again"}], 1000)[0]
    assert first.pixels["pixel_values"] is second.pixels["pixel_values"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "row0 has fewer images"),
        ({"prompt": [{"role": "user", "content": "no place"}]}, "row0 has more images"),
        ({"completion": [{"role": "assistant", "content": [{"type": "image"}]}]}, "row0 has fewer images"),
    ],
)
def test_images_that_do_not_fit_are_one_clear_line(tiny_llava: Path, rows: Callable[..., Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        encode_rows(load(tiny_llava), [rows(1)[0] | change], 1000)


def test_an_id_that_comes_twice_is_refused(tiny_llava: Path, rows: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="row0 comes twice"):
        encode_rows(load(tiny_llava), rows(1) * 2, 1000)


def test_data_are_read_back_in_order(rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    assert [row["id"] for row in read_data(save(rows(5)))] == [f"row{i}" for i in range(5)]
    with pytest.raises(UserError, match="no data set in"):
        read_data(tmp_path)
