import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.data_utils import is_conversational, prepare_multimodal_messages

from insightv.config import PreferenceDataConfig, PromptsConfig, ReasoningDataConfig, UserError
from insightv.datasets import export, preference, reasoning

PROMPTS = PromptsConfig()


@pytest.fixture
def rated(pool: Any) -> Any:
    for number in range(3):
        problem = pool.problem()
        pool.chain(problem, True, 90, text=f"<thoughts>good {number}</thoughts>")
        pool.chain(problem, False, text=f"<thoughts>bad {number}</thoughts>", finish="length" if number == 1 else "stop")
    return pool


def saved(pool: Any, folder: Path, kind: str) -> dict[str, Any]:
    if kind == "pairs":
        rows, rejections, _ = preference.build(*pool.rated, PreferenceDataConfig(), PROMPTS, seed=0)
    else:
        rows, rejections = reasoning.build(*pool.rated, ReasoningDataConfig(), PROMPTS)
    return export.save(rows, rejections, pool.store, folder)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_rows_give_the_same_bytes(rated: Any, tmp_path: Path) -> None:
    first, second = saved(rated, tmp_path / "a", "pairs"), saved(rated, tmp_path / "b", "pairs")
    assert first == second == {"rows": 3, "parts": {"correctness": 3}, "rejections": {}}
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["manifest.jsonl", "rejections.jsonl", "train-00000.parquet"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_images_are_embedded_byte_for_byte_and_decode(rated: Any, tmp_path: Path) -> None:
    saved(rated, tmp_path / "out", "chains")
    data = export.load(tmp_path / "out", tmp_path / "cache")
    assert data.column_names == ["id", "images", "prompt", "completion"]
    raw = data.cast_column("images", datasets.List(datasets.Image(decode=False)))
    digests = {line["id"]: line["images"] for line in read_lines(tmp_path / "out" / "manifest.jsonl")}
    for row, bare in zip(data, raw, strict=True):
        assert row["images"][0].size == (8, 8)
        assert bare["images"][0]["bytes"] == rated.store.get(digests[row["id"]][0])


def test_the_manifest_traces_every_row_to_chain_verdict_and_score(rated: Any, tmp_path: Path) -> None:
    counts = saved(rated, tmp_path / "out", "chains")
    assert counts == {"rows": 3, "parts": {"reasoning": 3}, "rejections": {"wrong_answer": 3}}
    lines = read_lines(tmp_path / "out" / "manifest.jsonl")
    chains = {chain.id: chain for chain in rated.chains}
    for line in lines:
        trace = line["chains"]["chain"]
        assert chains[trace["chain_id"]].problem_id == line["problem_id"]
        assert trace["verdict"]["correct"] is True and trace["score"]["value"] == 90 and trace["model"] == "m@1"
    used = {line["chains"]["chain"]["chain_id"] for line in lines}
    rejected = {line["chain_id"] for line in read_lines(tmp_path / "out" / "rejections.jsonl")}
    assert used | rejected == set(chains) and used.isdisjoint(rejected)


def test_pairs_say_of_a_rejected_chain_that_it_was_cut(rated: Any, tmp_path: Path) -> None:
    saved(rated, tmp_path / "out", "pairs")
    data = export.load(tmp_path / "out", tmp_path / "cache")
    assert data.column_names == ["id", "images", "prompt", "chosen", "rejected", "rejected_truncated"]
    cut = {row["rejected"][0]["content"][0]["text"]: row["rejected_truncated"] for row in data}
    assert cut == {f"<thoughts>bad {number}</thoughts>": number == 1 for number in range(3)}
    finishes = [line["chains"]["rejected"]["finish"] for line in read_lines(tmp_path / "out" / "manifest.jsonl")]
    assert sorted(finishes) == ["length", "stop", "stop"]


@pytest.mark.parametrize("kind", ["chains", "pairs"])
def test_the_folder_loads_as_any_hub_data_set_and_trl_fills_its_images_in(rated: Any, tmp_path: Path, kind: str) -> None:
    saved(rated, tmp_path / "out", kind)
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"] and len(loaded["train"]) == 3
    for row in loaded["train"]:
        assert is_conversational(row)
        (turn,) = prepare_multimodal_messages(row["prompt"], images=row["images"])
        assert turn["content"][0]["image"].size == (8, 8)
        assert "How many dots" in turn["content"][1]["text"]
        assert {"completion", "chosen", "rejected"} & row.keys() == ({"chosen", "rejected"} if kind == "pairs" else {"completion"})


@pytest.mark.parametrize("kind", ["chains", "pairs"])
def test_trl_trains_on_it_as_it_is(rated: Any, tmp_path: Path, tiny_llava: Path, kind: str) -> None:
    saved(rated, tmp_path / "out", kind)
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava)
    settings = {
        "output_dir": str(tmp_path / "trained"),
        "max_steps": 1,
        "per_device_train_batch_size": 3,
        "max_length": None,
        "use_cpu": True,
        "report_to": "none",
    }
    data = export.load(tmp_path / "out", tmp_path / "cache")
    processor = AutoProcessor.from_pretrained(tiny_llava)
    trainer: SFTTrainer | DPOTrainer
    if kind == "chains":
        trainer = SFTTrainer(model, SFTConfig(**settings), train_dataset=data, processing_class=processor)
    else:
        trainer = DPOTrainer(model, args=DPOConfig(**settings), train_dataset=data, processing_class=processor)
    assert trainer.train().training_loss > 0


def test_more_rows_than_one_group_keep_their_order(rated: Any, tmp_path: Path) -> None:
    rows, _ = reasoning.build(*rated.rated, ReasoningDataConfig(), PROMPTS)
    many = [rows[number % 3] | {"id": f"{number:04}"} for number in range(600)]
    assert export.save(iter(many), [], rated.store, tmp_path / "out")["rows"] == 600
    assert export.load(tmp_path / "out", tmp_path / "cache")["id"][:] == [f"{number:04}" for number in range(600)]


def test_nothing_is_left_behind_where_saving_fails(rated: Any, tmp_path: Path) -> None:
    rows, _ = reasoning.build(*rated.rated, ReasoningDataConfig(), PROMPTS)
    pairs, _, _ = preference.build(*rated.rated, PreferenceDataConfig(), PROMPTS, seed=0)
    failures: list[tuple[type[Exception], str, list[dict[str, Any]]]] = [
        (UserError, "no rows to write", []),
        (UserError, "not in", [rows[0] | {"images": ["0" * 32]}]),
        (ValueError, "rows of one kind", [rows[0], pairs[0]]),
        (ValueError, "comes twice", [rows[0], rows[0]]),
    ]
    for kind, message, bad in failures:
        with pytest.raises(kind, match=message):
            export.save(bad, [], rated.store, tmp_path / "out")
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match="build it first"):
        export.load(tmp_path / "out")
