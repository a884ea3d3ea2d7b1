import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.data_utils import is_conversational, prepare_multimodal_messages

from insightv.config import PreferenceDataConfig, PromptsConfig, ReasoningDataConfig, UserError
from insightv.datasets import export, preference, reasoning
from insightv.datasets.rows import Made, Row
from insightv.images import encode_png
from insightv.store import ImageStore

PROMPTS = PromptsConfig()


def read_data(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.fixture
def rated(pool: Any) -> Any:
    for number in range(3):
        problem = pool.problem()
        pool.chain(problem, True, 90, text=f"<thoughts>good {number}</thoughts>")
        pool.chain(problem, False, text=f"<thoughts>bad {number}</thoughts>", finish="length" if number == 1 else "stop")
    return pool


def made(pool: Any, kind: str) -> list[Made]:
    if kind == "pairs":
        return list(preference.build(pool.rated, PreferenceDataConfig(), PROMPTS, seed=0)[0])
    return list(reasoning.build(pool.rated, ReasoningDataConfig(), PROMPTS, reasoning.reasoning_row, seed=0))


def saved(pool: Any, folder: Path, kind: str) -> dict[str, Any]:
    return export.save(made(pool, kind), pool.store, folder, folder.with_name("scratch"))


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


def many(pool: Any, count: int) -> list[Row]:
    rows = [row for rows, _ in made(pool, "chains") for row in rows]
    return [rows[number % 3] | {"id": f"{number * 7 % count:04}"} for number in range(count)]


def test_rows_come_in_the_order_of_their_ids_over_groups_and_shards(rated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = many(rated, 600)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert export.save([(rows, [])], rated.store, whole, tmp_path / "scratch")["rows"] == 600
    monkeypatch.setattr(export, "_GROUP", 50)
    monkeypatch.setattr(export, "_SHARD_BYTES", 4000)
    # A shard that an interrupted attempt left is no part of the set.
    cut.mkdir()
    (cut / "train-00099.parquet").write_bytes(b"stale")
    export.save([(rows, [])], rated.store, cut, tmp_path / "scratch")
    names = sorted(path.name for path in cut.glob("train-*"))
    assert 1 < len(names) < 12 and names == [f"train-{number:05}.parquet" for number in range(len(names))]
    for folder in (whole, cut):
        assert export.load(folder, tmp_path / "cache")["id"][:] == [f"{number:04}" for number in range(600)]
    assert [row["id"] for row in read_data(cut)] == [row["id"] for row in read_data(whole)]
    assert (whole / "manifest.jsonl").read_bytes() == (cut / "manifest.jsonl").read_bytes()


def test_the_bytes_do_not_depend_on_the_memory_to_sort_in(rated: Any, tmp_path: Path) -> None:
    rows = many(rated, 300)
    for name, memory in (("much", 2**28), ("little", 2000)):
        export.save([([row], [{"reason": row["id"]}]) for row in rows], rated.store, tmp_path / name, tmp_path / "scratch", memory=memory)
    assert not (tmp_path / "scratch").exists()
    for name in ("train-00000.parquet", "manifest.jsonl", "rejections.jsonl"):
        assert (tmp_path / "much" / name).read_bytes() == (tmp_path / "little" / name).read_bytes()


def test_an_image_is_stored_once_in_a_group(pool: Any, tmp_path: Path) -> None:
    noise = pool.store.add(encode_png(Image.frombytes("RGB", (64, 64), Random(0).randbytes(3 * 64 * 64))))
    for _ in range(40):
        problem = pool.problem()
        pool.problems[-1] = problem.model_copy(update={"images": (noise, noise)})
        pool.chain(problem, True, 90)
    saved(pool, tmp_path / "out", "chains")
    assert len(pool.store.get(noise)) < (tmp_path / "out" / "train-00000.parquet").stat().st_size < 2 * len(pool.store.get(noise))
    assert all(len(row["images"]) == 2 and row["images"][1]["bytes"] == pool.store.get(noise) for row in read_data(tmp_path / "out"))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2), st.booleans()), min_size=1, max_size=8))
def test_any_text_and_any_number_of_images_come_back(texts: list[tuple[str, int, bool]]) -> None:
    with TemporaryDirectory() as folder:
        store = ImageStore(Path(folder) / "images")
        picture = encode_png(Image.new("RGB", (2, 2)))
        digest = store.add(picture)
        rows = []
        for number, (text, images, cut) in enumerate(texts):
            said = [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
            prompt = [{"role": "user", "content": [*[{"type": "image"}] * images, {"type": "text", "text": text}]}]
            row = {
                "id": str(number),
                "problem_id": text,
                "part": "p",
                "images": [digest] * images,
                "prompt": prompt,
                "chosen": said,
                "rejected": [],
                "trace": {},
            }
            rows.append(row | {"rejected_truncated": cut})
        export.save([(rows, [])], store, Path(folder), Path(folder) / "scratch")
        back = read_data(Path(folder))
    for row, (text, images, cut) in zip(back, texts, strict=True):
        assert [image["bytes"] for image in row["images"]] == [picture] * images
        assert row["chosen"][0]["content"] == [{"type": "text", "text": text}] and row["rejected"] == [] and row["rejected_truncated"] == cut
        assert row["prompt"][0]["content"] == [*[{"type": "image", "text": None}] * images, {"type": "text", "text": text}]


def test_nothing_is_left_behind_where_saving_fails(rated: Any, tmp_path: Path) -> None:
    (row,), (pair,) = (next(rows for rows, _ in made(rated, kind) if rows) for kind in ("chains", "pairs"))
    failures: list[tuple[type[Exception], str, list[Row]]] = [
        (UserError, "no rows to write", []),
        (UserError, "not in", [row | {"images": ["0" * 32]}]),
        (ValueError, "rows of one kind", [row, pair]),
        (ValueError, "comes twice", [row, row]),
    ]
    for kind, message, bad in failures:
        with pytest.raises(kind, match=message):
            export.save([(bad, [])], rated.store, tmp_path / "out", tmp_path / "scratch")
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match="build it first"):
        export.load(tmp_path / "out")
