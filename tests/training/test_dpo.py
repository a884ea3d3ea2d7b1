import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from insightv.config import DpoConfig, UserError
from insightv.models.chat import Image as ImagePart
from insightv.models.chat import Message, Text
from insightv.models.vlm import encode, load
from insightv.training import dpo
from insightv.training.job import command
from insightv.training.packing import answer_logprobs


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
    dpo.train(tiny_llava, data, tmp_path / "m1", settings(lora=lora), tmp_path / "work1", reference=tiny_llava)
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
    dpo.train(start, data, tmp_path / "m3", settings(lora=lora), tmp_path / "work3", reference=tiny_llava, **place)
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


def test_the_references_log_probabilities_are_computed_once(
    tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = save(rows(3, pairs=True))
    dpo.train(tiny_llava, data, tmp_path / "out", settings(), tmp_path / "work")
    monkeypatch.setattr(dpo, "_score", None)
    dpo.train(tiny_llava, data, tmp_path / "again", settings(), tmp_path / "work")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "out" / "model.safetensors").read_bytes()


def test_a_killed_scoring_goes_on_and_ends_in_the_same_bytes(
    tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, config = save(rows(11, pairs=True)), settings(batch_size=2, max_steps=2)
    dpo.train(tiny_llava, data, tmp_path / "whole", config, tmp_path / "work-whole")
    scored: list[list[str]] = []

    def stopped(model: Any, batch: Any) -> Any:
        if len(scored) == stop_at:
            raise KeyboardInterrupt
        if not torch.is_grad_enabled():
            scored.append(batch["row_ids"])
        return answer_logprobs(model, batch)

    monkeypatch.setattr(dpo, "answer_logprobs", stopped)
    for batches in (2, 5):
        stop_at = batches
        with pytest.raises(KeyboardInterrupt):
            dpo.train(tiny_llava, data, tmp_path / "killed", config, tmp_path / "work")
    [kept] = (tmp_path / "work").glob("reference-*")
    # The kill came in the middle of a line.
    kept.write_bytes(kept.read_bytes()[:-7])
    stop_at = 99
    dpo.train(tiny_llava, data, tmp_path / "killed", config, tmp_path / "work")
    assert [len(batch) for batch in scored] == [2, 2, 2, 2, 2, 2, 1] and scored[4] == scored[5]
    assert len({row for batch in scored for row in batch}) == 11
    for name in ("model.safetensors", "log.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_two_processes_score_half_each_and_train_as_one(tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    data, config = save(rows(8, pairs=True)), settings(batch_size=4, max_steps=3)
    dpo.train(tiny_llava, data, tmp_path / "one", config, tmp_path / "work1", reference=tiny_llava)
    job = tmp_path / "job.json"
    halved = config.model_copy(update={"batch_size": 2, "processes": 2}).model_dump()
    paths = {"model": tiny_llava, "reference": tiny_llava, "data": data, "out": tmp_path / "two", "work": tmp_path / "work2"}
    job.write_text(json.dumps({name: str(path) for name, path in paths.items()} | {"config": halved}))
    finished = subprocess.run(command("dpo", job, processes=2), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    first, second = ({name for line in file.read_text().split("\n") if line for name in json.loads(line)} for file in (tmp_path / "work2").glob("reference-*"))
    assert len(first) == len(second) == 4 and first.isdisjoint(second)
    for key in ("loss", "margin", "logp_rejected"):
        assert [entry[key] for entry in log(tmp_path / "two")] == pytest.approx([entry[key] for entry in log(tmp_path / "one")], abs=1e-3)


def test_a_reference_of_another_vocabulary_is_refused(
    tiny_llava: Path, tiny_qwen: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="another vocabulary"):
        dpo.train(tiny_llava, save(rows(3, pairs=True)), tmp_path / "out", settings(), tmp_path / "work", reference=tiny_qwen)


def test_the_vision_tower_keeps_its_bytes(tiny_llava: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    dpo.train(tiny_llava, save(rows(3, pairs=True)), tmp_path / "out", settings(), tmp_path / "work")
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_llava, tmp_path / "out"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {name for name in before if "vision_tower" not in name}
