"""Quotas, duplicates, mixtures and manifests; and that memory does not grow with the rows."""

import io
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw
from pyarrow import parquet

from insightv import __version__
from insightv.config import UserError
from insightv.datasets.containers import read_rows
from insightv.datasets.importing import import_sources
from insightv.datasets.mixture import Source, read_mixture, sources_of
from insightv.datasets.sources import read_problems
from insightv.files import try_lock


def photo(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """Smooth light, some shapes, some grain: what the looks of a photo depend on."""
    rng = np.random.default_rng(seed)
    light = Image.fromarray(rng.integers(40, 215, (4, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(light)
    for _ in range(4):
        x, y = rng.integers(0, 60), rng.integers(0, 40)
        draw.ellipse((x, y, x + rng.integers(15, 35), y + rng.integers(15, 30)), fill=tuple(int(part) for part in rng.integers(0, 255, 3)))
    grain = rng.integers(-6, 7, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(light).astype(int) + grain, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, items: list[Any]) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return str(path)


def load(out: Path) -> tuple[list[Any], list[Any], Any]:
    rejections = [json.loads(line) for line in (out / "rejections.jsonl").read_text().splitlines()]
    return list(read_problems(out / "problems.jsonl")), rejections, json.loads((out / "manifest.json").read_text())


def near_rows(folder: Path) -> str:
    """A photo, the same pixels in another file, the same shrunk and in other words, another answer, another photo."""
    one = photo(1)
    files = {
        "a.png": encoded(one),
        "pixels.webp": encoded(one, "WEBP", lossless=True, quality=0),
        "half.jpg": encoded(one.resize((48, 36), Image.Resampling.BICUBIC), "JPEG", quality=75),
        "b.png": encoded(photo(2)),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    items = [
        {"question": "What colour is it?", "answer": "blue", "image": "a.png"},
        {"question": "What colour is it?", "answer": "blue", "image": "pixels.webp"},
        {"question": "what  colour is it", "answer": "Blue.", "image": "half.jpg"},
        {"question": "What colour is it?", "answer": "red", "image": "half.jpg"},
        {"question": "What colour is it?", "answer": "blue", "image": "b.png"},
        {"question": "What colour is it?", "answer": "blue"},
        {"question": "What colour is  it?", "answer": "blue"},
    ]
    return write(folder / "near.jsonl", items)


def test_what_comes_again_is_rejected_and_names_what_it_repeats(tmp_path: Path) -> None:
    source = Source(path=near_rows(tmp_path), images=tmp_path)
    import_sources([source], tmp_path / "drop")
    problems, rejections, manifest = load(tmp_path / "drop")
    first = problems[0].id
    assert [(item["row"], item["reason"], item["detail"]) for item in rejections] == [
        (2, "duplicate", f"same as problem {first}"),
        (3, "near_duplicate", f"same as problem {first}"),
        (7, "near_duplicate", f"same as problem {problems[-1].id}"),
    ]
    assert len(problems) == 4
    # Nothing of a rejected problem stays behind.
    assert len(list((tmp_path / "drop" / "images").rglob("*.*"))) == 3
    assert manifest["shared_images"] == {"images": 0, "uses": 0}
    import_sources([source], tmp_path / "keep", near_duplicates="keep")
    problems, rejections, manifest = load(tmp_path / "keep")
    assert (len(problems), [item["reason"] for item in rejections]) == (6, ["duplicate"])
    assert manifest["shared_images"] == {"images": 1, "uses": 2}


@pytest.mark.parametrize("kind", ["JPEG 50", "WEBP 60", "half", "larger"])
def test_a_picture_is_known_again_in_other_bytes_and_no_other_is_taken_for_it(tmp_path: Path, kind: str) -> None:
    items = []
    for seed in range(12):
        image = photo(seed)
        again = {
            "JPEG 50": lambda image=image: encoded(image, "JPEG", quality=50),
            "WEBP 60": lambda image=image: encoded(image, "WEBP", quality=60),
            "half": lambda image=image: encoded(image.resize((48, 36), Image.Resampling.BICUBIC)),
            "larger": lambda image=image: encoded(image.resize((144, 108), Image.Resampling.BICUBIC)),
        }[kind]()
        for name, data in ((f"{seed}.png", encoded(image)), (f"{seed}.again", again)):
            (tmp_path / name).write_bytes(data)
            items.append({"question": "Why?", "answer": "So.", "image": name})
    import_sources([Source(path=write(tmp_path / "rows.jsonl", items), images=tmp_path)], tmp_path / "out")
    problems, rejections, _ = load(tmp_path / "out")
    assert all(item["row"] % 2 == 0 and item["reason"] == "near_duplicate" for item in rejections)
    assert len(problems) + len(rejections) == 24 and len(rejections) >= 10


def test_a_small_thing_on_a_plain_ground_makes_another_picture(tmp_path: Path) -> None:
    """Their looks are the same 64 bits, but for the thing's place: colours and thumbs tell them apart."""
    items = []
    for place, colour in enumerate(("white", "red", "blue", "black")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{place}.png")
        dotted = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(dotted).ellipse((9 + 12 * place, 9, 17 + 12 * place, 17), fill="green")
        dotted.save(tmp_path / f"{place}-dot.png")
        items += [{"question": "q?", "answer": "a", "image": f"{place}{end}"} for end in (".png", "-dot.png")]
    import_sources([Source(path=write(tmp_path / "rows.jsonl", items), images=tmp_path)], tmp_path / "out")
    assert load(tmp_path / "out")[1] == []


def quota_rows(folder: Path) -> list[Any]:
    for seed in range(5):
        (folder / f"{seed}.png").write_bytes(encoded(photo(seed)))
    items: list[Any] = [{"question": f"Question {place}?", "answer": str(place), "image": f"{place % 5}.png", "meta": {"n": place}} for place in range(60)]
    items += [item | {"meta": {"n": -1}} for item in items[:20]]
    return items + [{"question": f"Broken {place}?", "answer": "x", "image": "gone.png"} for place in range(20)] + [{"question": "no answer?"}]


def test_a_quota_takes_the_same_problems_whatever_the_order_of_the_rows(tmp_path: Path) -> None:
    items = quota_rows(tmp_path)
    seen = []
    for shuffle in range(3):
        random.Random(shuffle).shuffle(items)
        path = write(tmp_path / "rows.jsonl", items)
        import_sources([Source(path=path, images=tmp_path, quota=15)], tmp_path / "out")
        problems, rejections, manifest = load(tmp_path / "out")
        assert len(problems) == 15
        seen.append([(tmp_path / "out" / name).read_bytes() for name in ("problems.jsonl", "manifest.json")])
        source = manifest["sources"][0]
        assert source["rows"] == 101 == 15 + len(rejections) + source["beyond_quota"]
        assert set(source["rejections"]) <= {"duplicate", "image_missing", "no_answer"} and source["rejections"]["no_answer"] == 1
    assert seen[0] == seen[1] == seen[2]
    import_sources([Source(path=path, images=tmp_path, quota=15)], tmp_path / "other", seed=1)
    assert {problem.id for problem in load(tmp_path / "other")[0]} != {problem.id for problem in problems}
    import_sources([Source(path=path, images=tmp_path, quota=500)], tmp_path / "all")
    whole, rejections, manifest = load(tmp_path / "all")
    assert (len(whole), manifest["sources"][0]["rejections"]) == (60, {"duplicate": 20, "image_missing": 20, "no_answer": 1})
    assert {problem.id for problem in problems} < {problem.id for problem in whole}
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) <= 5


def test_a_quota_decodes_few_of_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from insightv.datasets import pictures

    (tmp_path / "a.png").write_bytes(encoded(photo(1)))
    items = [{"question": f"Question {place}?", "answer": "x", "image": "a.png"} for place in range(2000)]
    asked = 0
    load_ = pictures.load

    def counted(value: Any, folder: Path) -> bytes:
        nonlocal asked
        asked += 1
        return load_(value, folder)

    monkeypatch.setattr(pictures, "load", counted)
    import_sources([Source(path=write(tmp_path / "rows.jsonl", items), images=tmp_path, quota=10)], tmp_path / "out")
    assert asked < 150


MIXTURE = """
- path: {folder}/near.jsonl
  images: {folder}
  name: first
  licence: CC-BY-4.0
- path: {folder}/rows.jsonl
  preset: plain
  images: {folder}
  columns: {{question: query}}
  quota: 2
  split: train
"""


def test_a_mixture_is_imported_and_its_manifest_says_what_came_of_it(tmp_path: Path) -> None:
    near_rows(tmp_path)
    (tmp_path / "more.png").write_bytes(encoded(photo(7)))
    items = [{"query": f"What {place}?", "answer": "x", "image": "more.png", "split": "train"} for place in range(5)]
    items += [items[0] | {"query": "What colour is it?", "answer": "blue", "image": "a.png"}, items[0] | {"split": "test"}]
    write(tmp_path / "rows.jsonl", items)
    path = tmp_path / "mix.yaml"
    path.write_text(MIXTURE.format(folder=tmp_path))
    report = import_sources(sources_of(str(path), {"preset": "", "images": Path()}, []), tmp_path / "out")
    problems, _, manifest = load(tmp_path / "out")
    first, second = manifest["sources"]
    assert manifest["tool"] == {"insightv": __version__}
    assert [row["problems"] for row in report.sources] == [first["problems"], second["problems"]]
    assert {name: first[name] for name in ("name", "licence", "rows", "problems", "rejections", "quota")} == {
        "name": "first",
        "licence": "CC-BY-4.0",
        "rows": 7,
        "problems": 4,
        "rejections": {"duplicate": 1, "near_duplicate": 2},
        "quota": None,
    }
    assert (second["name"], second["preset"], second["quota"], second["split"], second["rows"]) == ("rows", "plain", 2, "train", 6)
    assert {problem.source for problem in problems} == {"first", "rows"}
    assert {problem.meta.get("split") for problem in problems if problem.source == "rows"} == {"train"}
    again = tmp_path / "again"
    import_sources(read_mixture(path), again)
    for name in ("problems.jsonl", "rejections.jsonl", "manifest.json"):
        assert (again / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_same_row_in_two_sources_is_one_problem(tmp_path: Path) -> None:
    near_rows(tmp_path)
    sources = [Source(path=str(tmp_path / "near.jsonl"), images=tmp_path, name=name) for name in ("one", "two")]
    import_sources(sources, tmp_path / "out")
    problems, _, manifest = load(tmp_path / "out")
    assert ({problem.source for problem in problems}, manifest["sources"][1]["problems"]) == ({"one"}, 0)
    with pytest.raises(UserError, match="two sources are called 'near'"):
        import_sources([Source(path=str(tmp_path / "near.jsonl"))] * 2, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path: a", "must hold a list of sources"),
        ("- a.jsonl", "source 1 must hold settings"),
        ("- path: a\n  licens: MIT", "source 1: unknown key licens, did you mean licence"),
        ("- preset: llava", "source 1: path: Field required"),
        ("- path: a\n- path: b\n  preset: lava", "source 2: unknown preset 'lava', did you mean llava"),
        ("- path: a\n  quota: 0", "source 1: quota"),
        ("- path: a\n  columns: {query: question}", "columns: 'query' is no name of ours"),
        ("- path: [", "not valid YAML"),
    ],
)
def test_a_wrong_mixture_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_mixture(path)
    assert "\n" not in str(caught.value)


def test_the_command_lines_settings_are_those_of_one_source(tmp_path: Path) -> None:
    (source,) = sources_of("shards/*.tar", {"licence": "MIT", "quota": 3}, ["question=query", "answer=label"])
    assert (source.title, source.licence, source.columns) == ("shards", "MIT", {"question": "query", "answer": "label"})
    assert Source(path="hub:HuggingFaceM4/the_cauldron:ai2d:train").title == "HuggingFaceM4_the_cauldron_ai2d_train"
    with pytest.raises(UserError, match="must read OURS=THEIRS"):
        sources_of("a.jsonl", {}, ["question"])
    with pytest.raises(UserError, match="put --quota there"):
        sources_of("a.yaml", {"quota": 3}, [])


def test_two_imports_do_not_write_into_one_folder_and_scratch_of_a_killed_one_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a"}])
    (tmp_path / "out" / ".scratch" / "old").mkdir(parents=True)
    lock = try_lock(tmp_path / "out" / ".lock")
    assert lock
    with pytest.raises(UserError, match="another import"):
        import_sources([Source(path=path)], tmp_path / "out")
    lock.close()
    import_sources([Source(path=path)], tmp_path / "out")
    assert not (tmp_path / "out" / ".scratch").exists()


@pytest.mark.parametrize("container", ["jsonl", "json", "csv", "parquet"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, container: str) -> None:
    path, padding = tmp_path / f"rows.{container}", "x" * 1000
    items = ({"question": f"Question {place}? {padding}", "answer": "x"} for place in range(20_000))
    if container == "parquet":
        table = pa.Table.from_pylist(list(items))
        parquet.write_table(table, path, row_group_size=1000)
        del table
    else:
        with path.open("w") as file:
            start, end = {"jsonl": ("", "\n"), "json": ("[", ",\n"), "csv": ("question,answer\n", "\n")}[container]
            file.write(start)
            for place, item in enumerate(items):
                last = container == "json" and place == 19_999
                file.write((",".join(item.values()) if container == "csv" else json.dumps(item)) + ("]" if last else end))
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    count = most_arrow = 0
    for _ in read_rows(str(path)):
        count += 1
        if count % 500 == 0:
            most_arrow = max(most_arrow, pa.total_allocated_bytes() - before)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    # The rows are 20 MB as a whole, some 50 MB as Python objects.
    assert most < 8 * 2**20 and most_arrow < 8 * 2**20


def test_memory_of_a_whole_import_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photo(1)))

    def most(rows: int, quota: int | None) -> int:
        items = [{"question": f"Question {place}? {'x' * 300}", "answer": "x", "image": "a.png"} for place in range(rows)]
        source = Source(path=write(tmp_path / "rows.jsonl", items), images=tmp_path, quota=quota)
        del items
        tracemalloc.start()
        import_sources([source], tmp_path / f"out{rows}{quota}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(10, None)
    for quota in (None, 300):
        assert most(1500, quota) < most(300, quota) + 2**20
