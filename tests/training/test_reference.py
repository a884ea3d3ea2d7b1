import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from insightv.config import DpoConfig, LoraConfig, TrainConfig, UserError
from insightv.models.vlm import load
from insightv.training import dpo, reference, sft
from insightv.training.job import command
from insightv.training.packing import answer_logprobs, collate
from insightv.training.rows import encode_row, tokenize_row

VALUES = {"dtype": "float32", "max_steps": 4, "batch_size": 3, "learning_rate": 1e-3, "warmup": 0, "schedule": "constant"}


def settings(**values: Any) -> DpoConfig:
    return DpoConfig.model_validate(VALUES | values)


def trained(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("model.safetensors", "log.jsonl")]


@pytest.fixture
def pairs(rows: Callable[..., Any], save: Callable[..., Path]) -> Callable[[int], Path]:
    return lambda count: save(rows(count, pairs=True))


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The rows of each batch that was scored."""
    batches: list[list[str]] = []

    def noted(model: Any, batch: Any) -> Any:
        batches.append(batch["row_ids"])
        return answer_logprobs(model, batch)

    monkeypatch.setattr(reference, "answer_logprobs", noted)
    return batches


def test_the_file_says_what_the_reference_gives_to_each_pair(tiny_qwen: Path, pairs: Callable[[int], Path], rows: Callable[..., Any], tmp_path: Path) -> None:
    summary = reference.score(tiny_qwen, pairs(7), tmp_path / "scores", settings(), tmp_path / "work")
    table = pq.read_table(tmp_path / "scores" / "reference.parquet")
    vlm = load(tiny_qwen)
    assert table.schema.metadata == {b"reference": vlm.identity.encode()} and summary == {"rows": 7, "dropped": {}, "reference": vlm.identity}
    encoded = [encode_row(vlm, tokenize_row(vlm, item)) for item in rows(7, pairs=True)]
    with torch.no_grad():
        expected = [answer_logprobs(vlm.model, collate([row], 0)).sums[0].tolist() for row in encoded]
    got = {row["id"]: [row["ref_chosen_logps"], row["ref_rejected_logps"]] for row in table.to_pylist()}
    assert [got[row.row_id] for row in encoded] == [pytest.approx(sums, abs=1e-4) for sums in expected]


def test_pairs_are_scored_once_for_all_epochs_and_all_trainings(
    tiny_llava: Path, pairs: Callable[[int], Path], scored: list[list[str]], tmp_path: Path
) -> None:
    data = pairs(6)
    reference.score(tiny_llava, data, tmp_path / "scores", settings(), tmp_path / "scoring")
    assert sorted(name for batch in scored for name in batch) == [f"row{number}" for number in range(6)]
    for name, values in {"two": {"max_steps": -1, "epochs": 2}, "other": {"beta": 0.5}}.items():
        dpo.train(tiny_llava, data, tmp_path / name, settings(**values), tmp_path / f"work-{name}", scores=tmp_path / "scores")
    assert len(scored) == 2
    # Without them a training scores for itself, once, and comes to the same.
    for _ in range(2):
        dpo.train(tiny_llava, data, tmp_path / "alone", settings(max_steps=-1, epochs=2), tmp_path / "work")
    assert len(scored) == 4 and trained(tmp_path / "alone") == trained(tmp_path / "two")


def test_scores_of_another_model_are_refused(tiny_llava: Path, pairs: Callable[[int], Path], rows: Callable[..., Any], save: Any, tmp_path: Path) -> None:
    data = pairs(3)
    config = TrainConfig.model_validate(VALUES | {"max_steps": 1, "lora": LoraConfig(r=2)})
    sft.train(tiny_llava, save(rows(3)), tmp_path / "adapter", config, tmp_path / "sft")
    reference.score(tiny_llava, data, tmp_path / "scores", settings(), tmp_path / "work")
    here: dict[str, Any] = {"scores": tmp_path / "scores"}
    ours, theirs = (reference.identity(tiny_llava, adapter, settings()) for adapter in (tmp_path / "adapter", None))
    assert ours != theirs
    with pytest.raises(UserError, match=rf"reference\.parquet holds log-probabilities of the reference {theirs}, but this training's is {ours}: score"):
        dpo.train(tiny_llava, data, tmp_path / "out", settings(lora={"r": 2}), tmp_path / "dpo", adapter=tmp_path / "adapter", **here)
    # The adapter disabled: the reference is the bare base.
    disabled = here | {"reference_model": tiny_llava, "adapter": tmp_path / "adapter"}
    assert dpo.train(tiny_llava, data, tmp_path / "out", settings(lora={"r": 2}), tmp_path / "dpo", **disabled)["steps"] == 4
    half = DpoConfig.model_validate(VALUES | {"dtype": "bfloat16"})
    with pytest.raises(UserError, match=f"this training's is {theirs}-bfloat16"):
        dpo.train(tiny_llava, data, tmp_path / "out", half, tmp_path / "half", **here)


def test_scores_of_other_pairs_are_refused(tiny_llava: Path, tiny_qwen: Path, rows: Callable[..., Any], save: Callable[..., Path], tmp_path: Path) -> None:
    data = rows(3, pairs=True)
    reference.score(tiny_llava, save(data), tmp_path / "scores", settings(), tmp_path / "work")
    data[1]["rejected"][0]["content"][0]["text"] += "?"
    with pytest.raises(UserError, match=r"of other pairs, or of .* 1 of 3 are not in it as they are now, row1 among them"):
        dpo.train(tiny_llava, save(data), tmp_path / "out", settings(), tmp_path / "dpo", scores=tmp_path / "scores")
    with pytest.raises(UserError, match="of a reference with another vocabulary: 3 of 3"):
        dpo.train(tiny_llava, save(data), tmp_path / "out", settings(), tmp_path / "two", reference_model=tiny_qwen)
    with pytest.raises(UserError, match="no log-probabilities of a reference at"):
        dpo.train(tiny_llava, save(data), tmp_path / "out", settings(), tmp_path / "dpo", scores=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"3 of 3 rows in .* cannot be trained on: row0 \(\d+ tokens, more than max_length = 16\)"):
        reference.score(tiny_llava, save(data), tmp_path / "scores", settings(max_length=16), tmp_path / "work")


def test_a_killed_scoring_goes_on_and_ends_in_the_same_bytes(
    tiny_llava: Path, pairs: Callable[[int], Path], scored: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, config = pairs(11), settings(batch_size=2)
    reference.score(tiny_llava, data, tmp_path / "whole", config, tmp_path / "work-whole")
    scored.clear()
    noted, stops = reference.answer_logprobs, [2, 5]

    def stopped(*given: Any) -> Any:
        if len(scored) in stops:
            stops.remove(len(scored))
            raise KeyboardInterrupt
        return noted(*given)

    monkeypatch.setattr(reference, "answer_logprobs", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reference.score(tiny_llava, data, tmp_path / "killed", config, tmp_path / "work")
    assert not (tmp_path / "killed").exists()
    [kept] = (tmp_path / "work").glob("*-0.jsonl")
    # The kill came in the middle of a line.
    kept.write_bytes(kept.read_bytes()[:-7])
    told: list[dict[str, Any]] = []
    reference.score(tiny_llava, data, tmp_path / "killed", config, tmp_path / "work", report=told.append)
    assert [len(batch) for batch in scored] == [2, 2, 2, 2, 2, 2, 1] and scored[4] == scored[5]
    assert len({row for batch in scored for row in batch}) == 11
    assert told == [{"step": 5, "of": 6}, {"step": 6, "of": 6}]
    whole, killed = ((tmp_path / name / "reference.parquet").read_bytes() for name in ("whole", "killed"))
    assert whole == killed


def test_two_processes_score_half_each_and_train_as_one(tiny_llava: Path, pairs: Callable[[int], Path], tmp_path: Path) -> None:
    data, config = pairs(8), settings(batch_size=4, max_steps=3)
    dpo.train(tiny_llava, data, tmp_path / "one", config, tmp_path / "work1")
    job = tmp_path / "job.json"
    halved = config.model_copy(update={"batch_size": 2, "processes": 2}).model_dump()
    paths = {"model": tiny_llava, "reference_model": tiny_llava, "data": data, "out": tmp_path / "two", "work": tmp_path / "work2"}
    job.write_text(json.dumps({name: str(path) for name, path in paths.items()} | {"config": halved}))
    finished = subprocess.run(command("dpo", job, processes=2), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    files = (tmp_path / "work2" / "reference").glob("*-[01].jsonl")
    first, second = ({name for line in file.read_text().split("\n") if line for name in json.loads(line)} for file in files)
    assert len(first) == len(second) == 4 and first.isdisjoint(second)
    one, two = ([json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] for name in ("one", "two"))
    for key in ("loss", "margin", "logp_rejected"):
        assert [entry[key] for entry in two] == pytest.approx([entry[key] for entry in one], abs=1e-3)


def test_scoring_runs_as_a_process_of_its_own(tiny_llava: Path, pairs: Callable[[int], Path], tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    paths = {"model": tiny_llava, "data": pairs(5), "out": tmp_path / "scores", "work": tmp_path / "work"}
    job.write_text(json.dumps({name: str(path) for name, path in paths.items()} | {"config": settings().model_dump()}))
    finished = subprocess.run(command("reference", job, processes=2), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout.splitlines()[-1])["rows"] == 5
    assert pq.read_table(tmp_path / "scores" / "reference.parquet").num_rows == 5
