import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch

from insightv.config import DpoConfig
from insightv.models.chat import Image as ImagePart
from insightv.models.chat import Message, Text
from insightv.models.vlm import encode, load
from insightv.training import dpo


def settings(**values: Any) -> DpoConfig:
    return DpoConfig.model_validate({"dtype": "float32", "max_steps": 4, "batch_size": 3, "learning_rate": 1e-3, "warmup": 0, "schedule": "constant"} | values)


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_end_that_a_cut_chain_never_wrote_is_in_no_sum(tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    data = [row | {"rejected_truncated": row["id"] == "row1"} for row in rows(3, pairs=True)]
    dpo.train(tiny_llava, save(data), tmp_path / "out", settings(max_steps=1), tmp_path / "work")
    start, vlm = log(tmp_path / "out")[0], load(tiny_llava)
    sums, lengths = [], []
    for row in data:
        # An independent sum: the model's own logits over the text that was written, with an end of turn only where there was one.
        question = Message("user", (ImagePart("it"), Text(row["prompt"][0]["content"][1]["text"])))
        prompt = encode(vlm, [question], lambda _, row=row: row["images"][0]["bytes"])  # type: ignore[misc]
        text = row["rejected"][0]["content"][0]["text"] + ("" if row["rejected_truncated"] else "</s>")
        answer = vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([prompt.input_ids + answer])
        with torch.no_grad():
            logits = vlm.model(input_ids=ids, **prompt.pixels).logits[0, len(prompt.input_ids) - 1 : -1]
        sums.append(logits.log_softmax(-1)[range(len(answer)), answer].sum().item())
        lengths.append(len(answer))
    assert start["length_rejected"] == pytest.approx(sum(lengths) / 3)
    assert start["logp_rejected"] == pytest.approx(sum(sums) / 3, abs=1e-3)


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_the_first_loss_is_ln_2_where_policy_and_reference_are_equal(
    lora: dict[str, int] | None, tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path
) -> None:
    data = save(rows(6, pairs=True))
    dpo.train(tiny_llava, data, tmp_path / "m1", settings(lora=lora), tmp_path / "work1", reference_model=tiny_llava)
    first = log(tmp_path / "m1")
    assert first[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert first[-1]["margin"] > 0.1
    # A second round from the weights of the first, whatever these remember of where they came from.
    place = {"adapter": tmp_path / "m1"} if lora else {}
    start = tiny_llava if lora else tmp_path / "m1"
    dpo.train(start, data, tmp_path / "m2", settings(lora=lora), tmp_path / "work2", **place)
    assert log(tmp_path / "m2")[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    # Against the initial reference instead, the first round's gain is there from the start.
    dpo.train(start, data, tmp_path / "m3", settings(lora=lora), tmp_path / "work3", reference_model=tiny_llava, **place)
    assert log(tmp_path / "m3")[0]["loss"] < math.log(2) - 0.01


def test_label_smoothing_and_the_likelihood_term_are_those_of_the_formula(
    tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path
) -> None:
    data = save(rows(3, pairs=True))
    values = {"learning_rate": 1e-2, "beta": 0.3, "batch_size": 3, "max_steps": 2}
    dpo.train(tiny_llava, data, tmp_path / "both", settings(**values, label_smoothing=0.2, sft_weight=0.5), tmp_path / "work2")
    start = log(tmp_path / "both")[0]
    nll = -start["logp_chosen"] / start["length_chosen"]
    assert start["loss"] == pytest.approx(math.log(2) + 0.5 * nll, abs=1e-4)
    # By hand from the logged margin of a single pair's second step.
    one = save(rows(1, pairs=True))
    dpo.train(tiny_llava, one, tmp_path / "one", settings(**(values | {"batch_size": 1}), label_smoothing=0.2), tmp_path / "work3")
    second = log(tmp_path / "one")[1]
    margin = second["margin"]
    assert margin > 0.05
    by_hand = 0.8 * math.log1p(math.exp(-margin)) + 0.2 * math.log1p(math.exp(margin))
    assert second["loss"] == pytest.approx(by_hand, abs=1e-5)


def test_the_vision_tower_keeps_its_bytes(tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    dpo.train(tiny_llava, save(rows(3, pairs=True)), tmp_path / "out", settings(), tmp_path / "work")
    before, after = (load(folder).model.state_dict() for folder in (tiny_llava, tmp_path / "out"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {name for name in before if "vision_tower" not in name}


@pytest.mark.parametrize(
    ("longer", "shorter", "equal", "seen"), [(40, 12, 5, "longer"), (12, 40, 0, "shorter"), (14, 12, 3, "none seen"), (0, 0, 4, "none seen")]
)
def test_pairs_that_a_count_of_tokens_would_tell_apart_are_reported(longer: int, shorter: int, equal: int, seen: str) -> None:
    told = dpo.length_bias(np.array([[9, 3]] * longer + [[3, 9]] * shorter + [[5, 5]] * equal))
    assert told["length_bias"] == seen and orjson.loads(orjson.dumps(told)) == told
    if longer:
        share = told["chosen_longer"]
        assert share["low"] < share["share"] == longer / (longer + shorter) < share["high"]


def test_a_training_reports_the_lengths_of_its_pairs(tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    data = rows(8, pairs=True)
    told = dpo.train(tiny_llava, save(data), tmp_path / "out", settings(max_steps=1), tmp_path / "work")
    vlm = load(tiny_llava)
    lengths = [[len(vlm.tokenizer(row[side][0]["content"][0]["text"])["input_ids"]) for side in ("chosen", "rejected")] for row in data]
    assert told["chosen_longer"]["share"] == sum(chosen > rejected for chosen, rejected in lengths) / sum(chosen != rejected for chosen, rejected in lengths)
