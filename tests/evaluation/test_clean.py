"""A folder of problems without what benchmark files show: what is left, what is said of the rest, and what a run does of itself."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from insightv import verbs
from insightv.config import Config, DecontaminateConfig, UserError
from insightv.config_file import load_config
from insightv.datasets.foreign import make_problem
from insightv.datasets.importing import import_sources
from insightv.datasets.mixture import Source
from insightv.datasets.sources import read_problems, write_problems
from insightv.evaluation.benchmarks import named
from insightv.evaluation.clean import decontaminate
from insightv.images import encode_png
from insightv.loop import plan
from insightv.records import Problem
from insightv.store import ImageStore, read_manifest
from insightv.world.problems import make_split
from tests.datasets.test_contamination import LONG, SHORT, painted_over, photo, smaller
from tests.evaluation.benchmark_rows import HUGGING_FACE, TABLES, write_parquet, write_table

SMALL = Path(__file__).parent.parent / "small.yaml"
SETTINGS = DecontaminateConfig()


def benchmark(folder: Path) -> dict[str, Path | None]:
    """MMStar's Parquet with one long and one short question, and ChartQA's table."""
    star = [HUGGING_FACE["mmstar"](n) | {"image": {"bytes": encode_png(photo(n)), "path": None}} for n in range(3)]
    star[0]["question"], star[1]["question"] = f"{LONG}\nOptions: A: 1, B: 2, C: 3, D: 4", SHORT
    return {
        "mmstar": write_parquet(folder / "mmstar.parquet", star),
        "chartqa": write_table(folder / "chartqa.tsv", [TABLES["chartqa"](n) for n in range(2)]),
    }


def imported(folder: Path) -> Path:
    """An import of six rows: a copy of a picture, a long question, a short one beside a picture painted over and beside another, and two clean rows."""
    pictures = {"copy.jpg": smaller(photo(2)), "over.png": encode_png(painted_over(photo(1)))} | {f"{n}.png": encode_png(photo(n)) for n in range(10, 14)}
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    asked = [("Who?", "copy.jpg"), (f"Say: {LONG}", "10.png"), (SHORT, "over.png"), (SHORT, "11.png"), ("Which? 0", "12.png"), ("And this?", "13.png")]
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": question, "answer": "x", "image": image}) + "\n" for question, image in asked))
    import_sources([Source(path=str(rows), images=folder, name="mine", licence="MIT")], folder / "data")
    return folder / "data"


def removed(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_what_is_left_is_an_import_and_what_is_not_is_listed(tmp_path: Path) -> None:
    data, files = imported(tmp_path), benchmark(tmp_path)
    problems = list(read_problems(data / "problems.jsonl"))
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    counts = decontaminate(data, tmp_path / "out", files, SETTINGS)
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before

    kept = list(read_problems(tmp_path / "out" / "problems.jsonl"))
    assert kept == problems[3:]
    store = ImageStore(tmp_path / "out" / "images")
    assert all(store.get(name) for problem in kept for name in problem.images) and len([*(tmp_path / "out" / "images").rglob("*.*")]) == 3
    facts = [(row["problem_id"], row["benchmark"], row["index"], row["by"]) for row in removed(tmp_path / "out" / "removed.jsonl")]
    assert facts == [
        (problems[0].id, "mmstar", "2", "picture"),
        (problems[1].id, "mmstar", "0", "question"),
        (problems[2].id, "mmstar", "1", "both"),
    ]
    first, second, third = removed(tmp_path / "out" / "removed.jsonl")
    assert first["distance"] <= 5 and "words" not in first and len(second["words"].split()) == 13 and "distance" not in second and third["distance"] <= 10
    assert counts[0] == {"benchmark": "mmstar", "items": 3, "removed": 3, "picture": 1, "question": 1, "both": 1}
    assert counts[1] | counts[2] == {"benchmark": "all", "items": 5, "removed": 3, "picture": "", "question": "", "both": ""}
    manifest = read_manifest(tmp_path / "out")
    assert manifest["decontaminated"]["benchmarks"] == counts[:2] and manifest["decontaminated"]["problems"] == 3
    # Where the data come from, and under which licence, is still said.
    assert manifest["sources"] == read_manifest(data)["sources"] and manifest["sources"][0]["licence"] == "MIT"


def test_a_file_of_problems_and_other_measures(tmp_path: Path) -> None:
    data, files = imported(tmp_path), benchmark(tmp_path)
    decontaminate(data / "problems.jsonl", tmp_path / "out", {"mmstar": files["mmstar"]}, DecontaminateConfig(distance=0, words=20))
    assert {row["by"] for row in removed(tmp_path / "out" / "removed.jsonl")} == {"question"}
    shutil.rmtree(data / "images")
    with pytest.raises(UserError, match="is not in"):
        decontaminate(data, tmp_path / "other", files, SETTINGS)
    assert not (tmp_path / "other" / "problems.jsonl").exists()


@pytest.mark.parametrize(
    ("against", "said"),
    [
        (["mmlu=x"], "no benchmark 'mmlu'; there are mmmu"),
        (["mmstar="], "must read NAME=PATH"),
        (["mmstar=a", "mmstar=b"], "mmstar is named twice"),
        (["mmstar=/nowhere/x.parquet"], r"^mmstar: there is no file or folder /nowhere/x\.parquet$"),
    ],
)
def test_what_is_no_benchmark_is_one_line(tmp_path: Path, against: Sequence[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        decontaminate(tmp_path, tmp_path / "out", named(against), SETTINGS)


def test_data_are_never_overwritten_nor_all_taken(tmp_path: Path) -> None:
    data, files = imported(tmp_path), benchmark(tmp_path)
    with pytest.raises(UserError, match="choose another folder"):
        decontaminate(data, data, files, SETTINGS)
    write_problems(data / "one.jsonl", list(read_problems(data / "problems.jsonl"))[:1])
    with pytest.raises(UserError, match="of 1 problems none is left"):
        decontaminate(data / "one.jsonl", tmp_path / "out", files, SETTINGS)


def mine(folder: Path, name: str, problems: Sequence[Problem]) -> Path:
    for problem in problems:
        for image in problem.images:
            ImageStore(folder / name / "images").add(ImageStore(folder / "drawn").get(image))
    write_problems(folder / name / "problems.jsonl", problems)
    return folder / name / "problems.jsonl"


def small(folder: Path, *overrides: str) -> Config:
    endpoints = [f"models.{role}.url=http://127.0.0.1:9/v1" for role in ("generator", "judge", "scorer")]
    return load_config(SMALL, [f"run={folder / 'run'}", "models.base=/nowhere", *endpoints, *overrides])


def test_a_run_drops_what_its_benchmarks_show_from_what_it_trains_on_and_from_nothing_else(tmp_path: Path) -> None:
    drawn = ImageStore(tmp_path / "drawn")
    splits = {split: list(make_split(drawn, split, 9, seed=0, difficulty=0.2)) for split in ("train", "preference", "own", "plain", "test")}
    files = [f"problems.{split}={mine(tmp_path, split, problems)}" for split, problems in splits.items()]
    # The benchmark has the first picture of each split.
    rows = [HUGGING_FACE["chartqa"](n) | {"image": {"bytes": drawn.get(problems[0].images[0]), "path": None}} for n, problems in enumerate(splits.values())]
    path = write_parquet(tmp_path / "chartqa.parquet", rows)
    config = small(tmp_path, "world=null", *files, f"benchmarks={{chartqa: {path}}}")
    verbs.run(config, {"problems"})
    folder = config.run / "problems"
    kept = {split: list(read_problems(folder / f"{split}.jsonl")) for split in splits}
    shown = {image for problems in splits.values() for image in problems[0].images}
    assert all(kept[split] == [problem for problem in splits[split] if not shown & {*problem.images}] for split in ("train", "preference", "own", "plain"))
    assert kept["test"] == splits["test"]
    lines = removed(folder / "contamination" / "removed.jsonl")
    assert {(row["split"], row["benchmark"]) for row in lines} == {(split, "chartqa") for split in ("train", "preference", "own", "plain")}
    summary = read_manifest(folder)["summary"]
    assert summary["removed"] == summary["in chartqa"] == len(lines) == sum(len(splits[split]) - len(kept[split]) for split in kept)
    assert summary["train"] == len(kept["train"])

    # Another benchmark file is another stage, and so is none at all.
    def identity(*overrides: str) -> str:
        changed = small(tmp_path, "world=null", *files, *overrides)
        stage = plan(changed).steps["problems"]
        return repr((stage.settings, stage.outside))

    without = identity()
    assert identity(f"benchmarks={{chartqa: {path}}}", "decontaminate=null") == without and str(path) not in without
    before = identity(f"benchmarks={{chartqa: {path}}}")
    write_parquet(path, rows[:1])
    assert identity(f"benchmarks={{chartqa: {path}}}") != before != without
    assert str(path) in identity(f"benchmarks={{chartqa: {path.parent}}}")


def test_a_world_and_a_benchmark_meet_in_the_same_way(tmp_path: Path) -> None:
    drawn = ImageStore(tmp_path / "drawn")
    [first, *_] = make_split(drawn, "train", 18, seed=0, difficulty=0.2)
    path = write_parquet(tmp_path / "mme.parquet", [HUGGING_FACE["mme"](0) | {"image": {"bytes": drawn.get(first.images[0]), "path": None}}])
    config = small(tmp_path, f"benchmarks.mme={path}")
    verbs.run(config, {"problems"})
    assert first.id not in {problem.id for problem in read_problems(config.run / "problems" / "train.jsonl")}
    assert read_manifest(config.run / "problems")["summary"]["in mme"] >= 1


def test_a_split_that_benchmarks_show_whole_and_a_bad_benchmark_end_the_run(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "drawn")
    names = [store.add(encode_png(photo(number))) for number in range(3)]
    file = mine(tmp_path, "train", [make_problem(f"What is {n}?", ["x"], images=[name]) for n, name in enumerate(names)])
    files = ["world=null", f"problems.train={file}", f"problems.preference={file}", f"problems.own={mine(tmp_path, 'own', [make_problem('q?', ['x'])])}"]
    rows = [HUGGING_FACE["chartqa"](n) | {"image": {"bytes": smaller(photo(n)), "path": None}} for n in range(3)]
    path = write_parquet(tmp_path / "chartqa.parquet", rows)
    with pytest.raises(UserError, match=r"^problems: train: benchmarks show every one of its problems; .*set decontaminate to null$"):
        verbs.run(small(tmp_path, *files, f"benchmarks.chartqa={path}"), {"problems"})
    with pytest.raises(UserError, match=r"^problems: no benchmark 'chart'; there are"):
        verbs.run(small(tmp_path, *files, f"benchmarks.chart={path}"), {"problems"})
    with pytest.raises(UserError, match=r"^problems: mme: there is no file or folder"):
        verbs.run(small(tmp_path, *files, "benchmarks.mme=/nowhere/mme.tsv"), {"problems"})
    verbs.run(small(tmp_path, *files, f"benchmarks.chartqa={path}", "decontaminate=null"), {"problems"})
