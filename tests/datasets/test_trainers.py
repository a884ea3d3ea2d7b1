import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from insightv.cli import main
from insightv.config import PromptsConfig, UserError
from insightv.datasets import trainers
from insightv.datasets.foreign import make_problem
from insightv.images import encode_png
from insightv.store import ImageStore

RED, BLUE = (encode_png(Image.new("RGB", (2, 2), colour)) for colour in ("red", "blue"))


def said(role: str, *parts: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "image", "text": None} if part == "IMAGE" else {"type": "text", "text": part} for part in parts]}


SFT = [
    {"images": [RED], "prompt": [said("user", "IMAGE", "what?")], "completion": [said("assistant", "red")]},
    {"images": [RED, BLUE], "prompt": [said("user", ["in", ", or"][0], "IMAGE", " or ", "IMAGE", "?")], "completion": [said("assistant", "both")]},
    {
        "images": [],
        "prompt": [said("system", "be brief"), said("user", "say <image>")],
        "completion": [said("assistant", "a"), said("user", "b"), said("assistant", "c")],
    },
]
PAIRS = [
    {
        "images": [BLUE],
        "prompt": [said("user", "IMAGE", "what?")],
        "chosen": [said("assistant", "blue")],
        "rejected": [said("assistant", "red")],
        "rejected_truncated": False,
    },
    {
        "images": [BLUE],
        "prompt": [said("user", "IMAGE", "what?")],
        "chosen": [said("assistant", "blue")],
        "rejected": [said("assistant", "re")],
        "rejected_truncated": True,
    },
]


@pytest.fixture
def data(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    def write(rows: list[dict[str, Any]]) -> Path:
        folder = tmp_path / "data"
        folder.mkdir()
        embedded = [row | {"id": f"row{number}", "images": [{"bytes": image, "path": None} for image in row["images"]]} for number, row in enumerate(rows)]
        pq.write_table(pa.Table.from_pylist(embedded), folder / "train-00000.parquet")
        return folder

    return write


def images(out: Path, paths: list[str]) -> list[bytes]:
    return [(out / path).read_bytes() for path in paths]


def test_llava(data: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert trainers.export(data(SFT), out, "llava") == {"rows": 3, "left_out_truncated": 0}
    first, second, third = json.loads((out / "data.json").read_text())
    assert first["id"] == "row0" and images(out, [first["image"]]) == [RED]
    assert first["conversations"] == [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "red"}]
    assert images(out, second["image"]) == [RED, BLUE]
    assert second["conversations"][0]["value"] == "in<image>\n or <image>\n?"
    assert "image" not in third and [turn["from"] for turn in third["conversations"]] == ["system", "human", "gpt", "human", "gpt"]
    assert third["conversations"][1]["value"] == "say < image>"
    assert len(list((out / "images").rglob("*.png"))) == 2


def test_llama_factory(data: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    trainers.export(data(SFT), out, "llama-factory")
    rows = json.loads((out / "data.json").read_text())
    assert rows[0] | {"images": images(out, rows[0]["images"])} == {
        "conversations": [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "red"}],
        "images": [RED],
    }
    # What its converter for this form asks: places for images as many as images, turns by turns.
    for row in rows:
        assert sum(turn["value"].count("<image>") for turn in row["conversations"]) == len(row["images"])
    columns = {"messages": "conversations", "images": "images"}
    info = json.loads((out / "dataset_info.json").read_text())
    assert info == {"insightv": {"file_name": "data.json", "formatting": "sharegpt", "ranking": False, "columns": columns}}


def test_llama_factory_pairs(data: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert trainers.export(data(PAIRS), out, "llama-factory") == {"rows": 1, "left_out_truncated": 1}
    [row] = json.loads((out / "data.json").read_text())
    assert (row["conversations"], row["chosen"], row["rejected"]) == (
        [{"from": "human", "value": "<image>what?"}],
        {"from": "gpt", "value": "blue"},
        {"from": "gpt", "value": "red"},
    )
    info = json.loads((out / "dataset_info.json").read_text())["insightv"]
    assert info["ranking"] and info["columns"] | {"chosen": "chosen", "rejected": "rejected"} == info["columns"]


def test_ms_swift(data: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    trainers.export(data(PAIRS), out, "ms-swift")
    [row] = [json.loads(line) for line in (out / "data.jsonl").read_text().splitlines()]
    assert row["messages"] == [{"role": "user", "content": "<image>what?"}, {"role": "assistant", "content": "blue"}]
    assert row["rejected_response"] == "red" and images(out, row["images"]) == [BLUE]


def test_verl_reads_problems_with_the_reasoners_prompt(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    names = [store.add(RED), store.add(BLUE)]
    problems = [
        make_problem("which, <image> or <image>?", ["red", "crimson"], images=names, source="mine"),
        make_problem("how many?", ["3"], answer_type="number"),
    ]
    (tmp_path / "train.jsonl").write_text("".join(problem.model_dump_json() + "\n" for problem in problems))
    run(tmp_path, "train.jsonl", "verl")
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "out" / "train.parquet"), split="train", cache_dir=str(tmp_path / "cache")).to_list()
    asked = PromptsConfig().reasoner.replace("{question}", problems[0].question)
    assert rows[0]["prompt"] == [{"role": "user", "content": asked}]
    assert [image["bytes"] for image in rows[0]["images"]] == [RED, BLUE]
    assert (rows[0]["data_source"], rows[0]["ability"], rows[0]["reward_model"]) == ("mine", "text", {"style": "rule", "ground_truth": "red"})
    assert rows[0]["extra_info"] == {"split": "train", "index": 0, "id": problems[0].id, "question": problems[0].question, "answers": ["red", "crimson"]}
    assert rows[1]["images"] == [] and rows[1]["ability"] == "number" and rows[1]["extra_info"]["index"] == 1


def run(folder: Path, data: str, layout: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("sys.argv", ["insightv", "export", str(folder / data), str(folder / "out"), "--to", layout])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code


def test_what_a_layout_cannot_hold_is_one_clear_line(data: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data set in"):
        trainers.export(tmp_path, tmp_path / "out", "llava")
    folder = data([PAIRS[0] | {"chosen": SFT[2]["completion"]}])
    with pytest.raises(UserError, match="LLaVA's layout has no place for them"):
        trainers.export(folder, tmp_path / "out", "llava")
    with pytest.raises(UserError, match="row row0 has a pair of several turns"):
        trainers.export(folder, tmp_path / "out", "ms-swift")
    from insightv.verbs import export

    with pytest.raises(UserError, match="verl trains on problems, so give a file of them"):
        export(folder, tmp_path / "out", "verl")
