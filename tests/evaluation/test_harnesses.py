"""What other harnesses are given to read: their files, and the command that is told; tests/conformance runs the harnesses themselves."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from insightv.config import UserError
from insightv.evaluation.benchmarks import BENCHMARKS
from insightv.evaluation.harnesses import PLACES, prepare
from tests.evaluation.benchmark_rows import HUGGING_FACE, TABLES, write_parquet, write_table

URL = "http://127.0.0.1:8000/"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the files by which both harnesses are known."""
    for place in PLACES.values():
        task = tmp_path / "package" / "tasks" / f"{place.task}.yaml"
        task.parent.mkdir(parents=True, exist_ok=True)
        task.touch()
    (tmp_path / "package" / "run.py").touch()
    return tmp_path / "package"


def test_every_benchmark_has_its_place() -> None:
    assert PLACES.keys() == BENCHMARKS.keys()


def test_lmms_eval_gets_a_task_for_each_file(tmp_path: Path, package: Path) -> None:
    star = write_parquet(tmp_path / "my stars.parquet", [HUGGING_FACE["mmstar"](0)])
    (tmp_path / "ai2d").mkdir()
    shards = [write_parquet(tmp_path / "ai2d" / f"test-{n}.parquet", [HUGGING_FACE["ai2d"](n)]) for n in range(2)]
    command = prepare("lmms-eval", {"mmstar": star, "ai2d-no-mask": tmp_path / "ai2d"}, tmp_path / "out", package, URL, "insight-v")
    first, second = (yaml.safe_load((tmp_path / "out" / f"local_{name}.yaml").read_text()) for name in ("mmstar", "ai2d_no_mask"))
    assert first == {
        "include": str(package / "tasks" / "mmstar" / "mmstar.yaml"),
        "task": "local_mmstar",
        "tag": [],
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"val": [str(star)]}},
    }
    assert second["dataset_kwargs"] == {"data_files": {"test": [str(shard) for shard in shards]}}
    words = shlex.split(command)
    assert words[:4] == ["HF_HUB_OFFLINE=1", "python", "-m", "lmms_eval"] and words[words.index("--tasks") + 1] == "local_mmstar,local_ai2d_no_mask"
    assert "base_url=http://127.0.0.1:8000/v1," in command and words[words.index("--include_path") + 1] == str(tmp_path / "out")


def test_vlmevalkit_gets_tables_under_names_of_their_own(tmp_path: Path, package: Path) -> None:
    path = write_table(tmp_path / "MMBench_DEV_EN.tsv", [TABLES["mmbench"](0)])
    for _ in range(2):
        command = prepare("vlmevalkit", {"mmbench": path}, tmp_path / "my data", package, URL, "insight-v")
    assert (tmp_path / "my data" / "MMBench_DEV_EN_local.tsv").read_bytes() == path.read_bytes()
    words = shlex.split(command)
    assert words[:3] == [f"LMUData={tmp_path / 'my data'}", "python", str(package / "run.py")]
    assert json.loads(words[words.index("--data-config") + 1]) == {"MMBench_DEV_EN_local": {"class": "ImageMCQDataset", "dataset": "MMBench_DEV_EN_local"}}


def test_what_a_harness_cannot_read_is_one_line(tmp_path: Path, package: Path) -> None:
    parquet, table = write_parquet(tmp_path / "a.parquet", [HUGGING_FACE["mmstar"](0)]), write_table(tmp_path / "a.tsv", [TABLES["mmstar"](0)])
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        write_table(tmp_path / "two" / f"{name}.tsv", [TABLES["mmstar"](0)])
    cases = [
        ("lmms-eval", {}, package, "name a benchmark and its file"),
        ("lmms-eval", {"mmlu": parquet}, package, "no benchmark 'mmlu'"),
        ("lmms-eval", {"mmstar": None}, package, "mmstar has no file"),
        ("lmms-eval", {"mmstar": tmp_path / "none"}, package, "there is no file or folder"),
        ("lmms-eval", {"mmstar": table}, package, "lmms-eval reads Hugging Face's Parquet"),
        ("lmms-eval", {"mmstar": parquet}, tmp_path, "is not the package lmms_eval"),
        ("vlmevalkit", {"mmstar": parquet}, package, "VLMEvalKit reads its own TSV tables"),
        ("vlmevalkit", {"mmstar": tmp_path / "two"}, package, "VLMEvalKit reads one table, and .* has 2"),
        ("vlmevalkit", {"mmmu-pro": table}, package, "put it into LMUData as MMMU_Pro_10c.tsv"),
        ("vlmevalkit", {"mmstar": table}, tmp_path, "is not VLMEvalKit's folder"),
    ]
    for to, files, place, said in cases:
        with pytest.raises(UserError, match=said) as caught:
            prepare(to, files, tmp_path / "out", place, URL, "insight-v")  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
