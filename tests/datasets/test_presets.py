"""Every layout in its own container, with the same broken rows in each: named, counted, and skipped or fatal."""

import base64
import csv
import gzip
import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from insightv.config import UserError
from insightv.datasets import formats
from insightv.datasets.importing import import_sources
from insightv.datasets.mixture import Source
from insightv.datasets.sources import read_problems
from insightv.images import decode, media_type
from insightv.records import Problem
from insightv.store import ImageStore


def noise(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A picture that looks like no other."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pictures() -> dict[str, bytes]:
    """Name -> bytes: what is good, what needs another form, what is broken."""
    photo = noise(1)
    deep = np.random.default_rng(2).integers(0, 65535, (20, 24), dtype=np.uint16)
    frames = [noise(3), noise(4)]
    palette = noise(5).quantize(8)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "good.png": encoded(photo),
        "good.jpg": encoded(noise(6), "JPEG", quality=95),
        "cmyk.jpg": encoded(noise(7).convert("CMYK"), "JPEG", quality=95),
        "deep.png": encoded(Image.fromarray(deep)),
        "palette.png": encoded(palette, transparency=palette.getpixel((0, 0))),
        "turned.jpg": encoded(noise(8), "JPEG", quality=95, subsampling=0, exif=turned),
        "still.gif": encoded(noise(9).quantize(16), "GIF"),
        "cut.png": encoded(noise(10, (80, 80)))[:900],
        "moving.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        "huge.png": encoded(Image.new("1", (9000, 9000))),
        "thin.png": encoded(Image.new("RGB", (900, 1))),
    }


GOOD = ("good.png", "good.jpg", "cmyk.jpg", "deep.png", "palette.png", "turned.jpg", "still.gif")
BROKEN = {"cut.png": "bad_image", "moving.webp": "image_animated", "huge.png": "image_size", "thin.png": "image_size"}
Row = tuple[str, bytes, str]
"""A name, the picture, the question."""


def rows() -> list[Row]:
    return [(name, data, f"What is in {name}?") for name, data in pictures().items()]


def write_llava(folder: Path, name: str = "llava.json") -> tuple[str, dict[str, int]]:
    items: list[Any] = []
    for file, data, question in rows():
        (folder / file).write_bytes(data)
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "a thing"}]
        items.append({"id": file, "image": file, "conversations": turns, "source": "ours"})
    items += [items[0] | {"image": "gone.png"}, items[0] | {"image": "https://example.org/a.png"}, {"id": "x", "talk": []}, items[0] | {"conversations": [{}]}]
    path = folder / name
    path.write_text(json.dumps(items) if name.endswith(".json") else "".join(json.dumps(item) + "\n" for item in items))
    return str(path), {"image_missing": 1, "image_url": 1, "no_question": 1, "bad_conversation": 1}


def write_cambrian(folder: Path) -> tuple[str, dict[str, int]]:
    path, reasons = write_llava(folder, "cambrian.jsonl")
    packed = folder / "cambrian.jsonl.gz"
    packed.write_bytes(gzip.compress(Path(path).read_bytes() + b'{"broken\n'))
    Path(path).unlink()
    return str(packed), reasons | {"bad_json": 1}


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_cauldron(folder: Path) -> tuple[str, dict[str, int]]:
    """Two shards in a folder, as the hub has them."""
    pair = pa.struct([("user", pa.string()), ("assistant", pa.string()), ("source", pa.string())])
    schema = pa.schema([("images", pa.list_(IMAGE)), ("texts", pa.list_(pair))])
    items: list[Any] = [
        {"images": [{"bytes": data, "path": None}], "texts": [{"user": question, "assistant": "a thing", "source": "ours"}]} for _, data, question in rows()
    ]
    items += [
        items[0] | {"images": [{"bytes": None, "path": None}]},
        items[0] | {"images": [{"bytes": None, "path": "../outside.png"}]},
        items[0] | {"texts": []},
        items[0] | {"texts": [{"user": "Fine?", "assistant": "", "source": "ours"}]},
    ]
    for shard, part in enumerate((items[:5], items[5:])):
        parquet.write_table(pa.Table.from_pylist(part, schema), folder / f"train-0000{shard}-of-00002.parquet", row_group_size=2)
    return str(folder), {"image_missing": 1, "image_outside": 1, "bad_conversation": 1, "no_answer": 1}


def write_next(folder: Path) -> tuple[str, dict[str, int]]:
    """A data set as `save_to_disk` leaves it, with datasets' own Image feature."""
    turn = {"from": datasets.Value("string"), "value": datasets.Value("string")}
    text = datasets.Value("string")
    features = datasets.Features({"id": text, "conversations": [turn], "data_source": text, "image": datasets.Image()})
    items = [
        {
            "id": file,
            "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "a thing"}],
            "data_source": "ours",
            "image": {"bytes": data, "path": file},
        }
        for file, data, question in rows()
    ]
    items += [items[0] | {"image": {"bytes": b"", "path": "empty.png"}}, items[0] | {"conversations": []}]
    datasets.Dataset.from_list(items, features=features).save_to_disk(folder / "next")
    return str(folder / "next"), {"bad_image": 1, "bad_conversation": 1}


def write_plain(folder: Path) -> tuple[str, dict[str, int]]:
    items: list[Any] = []
    for file, data, question in rows():
        (folder / file).write_bytes(data)
        items.append({"image": file, "question": question, "answer": "a thing", "meta": {"index": file}})
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder.parent / "outside.png").write_bytes(items and pictures()["good.png"])
    items += [items[0] | {"image": "link.png"}, items[0] | {"image": "gone.png"}, {"query": "q", "answer": "a"}]
    path = folder / "plain.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return str(path), {"image_outside": 1, "image_missing": 1, "no_question": 1}


def write_evalkit(folder: Path) -> tuple[str, dict[str, int]]:
    names = ["index", "image", "question", "A", "B", "answer", "category", "l2-category", "hint"]
    path = folder / "bench.tsv"
    with path.open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(names)
        for place, (file_name, data, question) in enumerate(rows()):
            image = base64.b64encode(data).decode()
            table.writerow([place, image, question, "a thing", "no thing", "A", file_name, "all", "look\ntwice" if place == 1 else ""])
        table.writerow([90, "999", "no such row?", "x", "y", "A", "", "", ""])
        table.writerow([91, "iVBORw0KGgoAAAANSUhEUgAA" * 5 + "A", "broken base64?", "x", "y", "A", "", "", ""])
        table.writerow([92, "0", "which?", "x", "", "C", "", "", ""])
        file.write("93\ttoo few\n")
    return str(path), {"image_missing": 1, "bad_image": 1, "bad_options": 1, "bad_row": 1}


def write_webdataset(folder: Path) -> tuple[str, dict[str, int]]:
    """Two shards, one of them compressed."""
    members: list[tuple[str, bytes]] = []
    for place, (file, data, question) in enumerate(rows()):
        suffix = file.partition(".")[2]
        members += [(f"a/{place:04}.json", json.dumps({"question": question, "answer": "a thing"}).encode()), (f"a/{place:04}.{suffix}", data)]
    half = len(members) // 4 * 2
    broken = [
        ("b/1.json", b'{"question"'),
        ("b/2.json", b"[]"),
        ("b/3.json", b'{"question": "q", "answer": "no picture"}'),
        ("b/4.png", pictures()["good.png"]),
    ]
    for shard, mode, part in (("0.tar", "w", members[:half]), ("1.tar.gz", "w:gz", members[half:] + broken)):
        with tarfile.open(folder / shard, mode) as archive:
            for name, data in part:
                header = tarfile.TarInfo(name)
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
    return str(folder), {"bad_json": 1, "bad_row": 1, "image_missing": 1, "no_question": 1}


WRITERS: dict[str, Callable[[Path], tuple[str, dict[str, int]]]] = {
    "llava": write_llava,
    "cambrian": write_cambrian,
    "cauldron": write_cauldron,
    "llava-next-data": write_next,
    "plain": write_plain,
    "vlmevalkit": write_evalkit,
    "webdataset": write_webdataset,
}


def load(out: Path) -> tuple[list[Problem], list[Any]]:
    return list(read_problems(out / "problems.jsonl")), [json.loads(line) for line in (out / "rejections.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("given", [True, False], ids=["given", "found-out"])
@pytest.mark.parametrize("preset", WRITERS)
def test_a_layout_is_read_whole_and_its_broken_rows_are_named_and_counted(tmp_path: Path, preset: str, given: bool) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path, reasons = WRITERS[preset](folder)
    # Told its preset, a row of another layout fails for that layout's reason.
    if preset in ("llava", "cambrian") and given:
        reasons = Counter(reasons) + Counter(bad_conversation=1) - Counter(no_question=1)
    report = import_sources([Source(path=path, preset=preset if given else "", images=folder, name="mine")], tmp_path / "out")
    problems, rejections = load(tmp_path / "out")
    assert Counter(item["reason"] for item in rejections) == Counter(reasons) + Counter(BROKEN.values())
    assert {row["reason"]: row["count"] for row in report.reasons} == Counter(item["reason"] for item in rejections)
    assert all(row["example"].startswith("row ") for row in report.reasons)
    assert [problem.question.split()[-1].rstrip("?") for problem in problems] == list(GOOD)
    assert {problem.source for problem in problems} == {"mine"}
    assert {problem.answers for problem in problems} == {("A",) if preset == "vlmevalkit" else ("a thing",)}
    check_pictures(problems, ImageStore(tmp_path / "out" / "images"))
    assert not (tmp_path / "out" / ".scratch").exists() and not list((tmp_path / "out").glob("*.part"))


def check_pictures(problems: list[Problem], store: ImageStore) -> None:
    """Good bytes are kept as they are; the others are PNG of what a viewer sees."""
    given = pictures()
    for name, problem in zip(GOOD, problems, strict=True):
        (image,) = problem.images
        data = store.get(image)
        assert (data == given[name]) == name.startswith("good"), name
        shown = decode(data)
        assert name.startswith("good") or media_type(data) == "image/png"
        assert shown.size == ((20, 24) if name == "turned.jpg" else (24, 20))
    by_name = {name: decode(store.get(problem.images[0])) for name, problem in zip(GOOD, problems, strict=True)}
    assert np.abs(np.asarray(by_name["cmyk.jpg"]).astype(int) - np.asarray(noise(7))).mean() < 6
    deep = np.random.default_rng(2).integers(0, 65535, (20, 24), dtype=np.uint16)
    assert np.array_equal(np.asarray(by_name["deep.png"])[:, :, 1], np.round(deep / 257))
    assert by_name["palette.png"].getpixel((0, 0)) == (255, 255, 255)
    assert np.abs(np.asarray(by_name["turned.jpg"]).astype(int) - np.asarray(noise(8).rotate(-90, expand=True))).mean() < 6


@pytest.mark.parametrize("preset", WRITERS)
def test_the_first_broken_row_ends_an_import_that_asks_for_it(tmp_path: Path, preset: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path, _ = WRITERS[preset](folder)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"row 8( \(.*\))?: bad_image") as caught:
        import_sources([Source(path=path, images=folder)], out, on_error="stop")
    assert "\n" not in str(caught.value)
    assert sorted(item.name for item in out.iterdir() if item.name != "images") == [".lock"]


def test_what_a_layout_knows_goes_into_meta(tmp_path: Path) -> None:
    path, _ = write_evalkit(tmp_path)
    import_sources([Source(path=path)], tmp_path / "out")
    problem = load(tmp_path / "out")[0][1]
    assert problem.question == "Hint: look\ntwice\nWhat is in good.jpg?"
    assert problem.options == ("a thing", "no thing")
    assert problem.meta == {"index": "1", "category": "good.jpg", "l2_category": "all"}


def table(path: Path, names: list[str], cells: list[list[Any]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([names, *cells])
    return str(path)


def test_an_image_is_found_in_another_row_before_or_after(tmp_path: Path) -> None:
    images = [base64.b64encode(encoded(noise(seed))).decode() for seed in (1, 2)]
    cells = [[1, "3", "a?", "x"], [2, images[0], "b?", "x"], [3, images[1], "c?", "x"], [4, "2", "d?", "x"], [5, "1", "e?", "x"]]
    import_sources([Source(path=table(tmp_path / "t.tsv", ["index", "image", "question", "answer"], cells))], tmp_path / "out")
    problems, rejections = load(tmp_path / "out")
    assert [problem.question for problem in problems] == ["a?", "b?", "c?", "d?"]
    assert problems[0].images == problems[2].images != problems[1].images == problems[3].images
    # Row 1 holds no image itself.
    assert [(item["row"], item["reason"]) for item in rejections] == [(5, "image_missing")]


def test_several_images_of_a_row_stand_where_the_question_names_them(tmp_path: Path) -> None:
    data = [encoded(noise(seed)) for seed in range(3)]
    cell = str([base64.b64encode(image).decode() for image in data])
    names = ["index", "image", "question", "A", "B", "answer"]
    cells = [[1, cell, "Is <image 3> like <image 1>?", "yes", "no", "A"], [2, cell, "Which is <image 3>?", "<image 1>", "<image 2>", "A"]]
    import_sources([Source(path=table(tmp_path / "t.tsv", names, cells))], tmp_path / "out")
    first, second = load(tmp_path / "out")[0]
    store = ImageStore(tmp_path / "out" / "images")
    assert first.question == "Is <image> like <image>?"
    assert [store.get(image) for image in first.images] == [data[1], data[2], data[0]]
    assert second.question == "Which is <image 3>?"
    assert [store.get(image) for image in second.images] == data


def test_the_cauldrons_choices_become_options(tmp_path: Path) -> None:
    user = "Question: What gives out oxygen?\nChoices:\nA. Fire\nB. Leaves\nAnswer with the letter."
    row = {"images": [], "texts": [{"user": user, "assistant": "Answer: B", "source": "AI2D"}, {"user": "And?", "assistant": " "}]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    import_sources([Source(path=str(path))], tmp_path / "out")
    (problem,), (rejection,) = load(tmp_path / "out")
    assert (problem.question, problem.options, problem.answers, problem.meta) == ("What gives out oxygen?", ("Fire", "Leaves"), ("B",), {"origin": "AI2D"})
    assert (rejection["row"], rejection["question"], rejection["reason"]) == (1, 2, "no_answer")


@pytest.mark.parametrize("container", ["jsonl", "csv", "parquet"])
def test_columns_are_read_under_any_names(tmp_path: Path, container: str) -> None:
    data = encoded(noise(1))
    (tmp_path / "a.png").write_bytes(data)
    items = [
        {"query": "Which?", "label": 1, "choices": ["a", "b", "2"], "img": "a.png", "answer": "not this"},
        {"query": "Which one?", "label": 7, "choices": ["a", "b"], "img": "a.png", "answer": "nor this"},
    ]
    path = tmp_path / f"rows.{container}"
    if container == "jsonl":
        path.write_text("".join(json.dumps(item) + "\n" for item in [*items, {"query": "no label", "img": "a.png"}]))
    elif container == "csv":
        table(path, list(items[0]), [[json.dumps(value) if isinstance(value, list) else value for value in item.values()] for item in items])
    else:
        parquet.write_table(pa.Table.from_pylist(items), path)
    columns = {"question": "query", "answer_index": "label", "options": "choices", "image": "img"}
    import_sources([Source(path=str(path), images=tmp_path, columns=columns)], tmp_path / "out")
    (problem,), rejections = load(tmp_path / "out")
    assert (problem.question, problem.options, problem.answers) == ("Which?", ("a", "b", "2"), ("B",))
    assert ImageStore(tmp_path / "out" / "images").get(problem.images[0]) == data
    assert [item["reason"] for item in rejections] == ["bad_answer", "no_column"][: 2 if container == "jsonl" else 1]
    with pytest.raises(UserError, match="no_column") as caught:
        import_sources([Source(path=str(path), images=tmp_path, columns={"question": "nothing"})], tmp_path / "none")
    assert "\n" not in str(caught.value)


def test_a_row_in_a_tar_holds_several_images_in_their_order(tmp_path: Path) -> None:
    data = {f"7.{place}.png": encoded(noise(place)) for place in (10, 2, 1)}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in {**data, "7.question.txt": b"Are <image>, <image>, <image> alike?", "7.answer.txt": b"no"}.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
        link = tarfile.TarInfo("8.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    import_sources([Source(path=str(tmp_path / "*.tar"))], tmp_path / "out")
    ((problem,), _), store = load(tmp_path / "out"), ImageStore(tmp_path / "out" / "images")
    assert [store.get(image) for image in problem.images] == [data["7.1.png"], data["7.2.png"], data["7.10.png"]]
    assert problem.answer_type == "yes_no" and problem.meta == {"index": "7"}


def test_a_split_is_chosen_by_data_set_file_name_or_column(tmp_path: Path) -> None:
    def parts(folder: Path) -> None:
        for split in ("train", "test"):
            parquet.write_table(pa.Table.from_pylist([{"question": f"{split}?", "answer": "x"}]), folder / f"{split}-00000-of-00001.parquet")

    files, stored = tmp_path / "files", tmp_path / "stored"
    files.mkdir()
    parts(files)
    datasets.DatasetDict({split: datasets.Dataset.from_list([{"question": f"{split}?", "answer": "x"}]) for split in ("train", "test")}).save_to_disk(stored)
    column = tmp_path / "column.jsonl"
    column.write_text("".join(json.dumps({"question": f"{split}?", "answer": "x", "split": split}) + "\n" for split in ("train", "test")))
    for place, path in enumerate((str(files), str(stored), str(column), f"hub:{files}::test")):
        import_sources([Source(path=path, split="test")], tmp_path / f"out{place}")
        (problem,), _ = load(tmp_path / f"out{place}")
        assert (problem.question, problem.meta["split"]) == ("test?", "test"), path
    with pytest.raises(UserError, match="has the splits train, test"):
        import_sources([Source(path=str(stored))], tmp_path / "none")
    column.write_text('{"question": "q", "answer": "a"}\n')
    with pytest.raises(UserError, match="no column `split`"):
        import_sources([Source(path=str(column), split="test")], tmp_path / "none")


def test_a_hub_data_set_streams_with_the_bytes_as_they_are_stored(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    write_cauldron(folder)
    report = import_sources([Source(path=f"hub:{folder}:default:train")], tmp_path / "out")
    problems, _ = load(tmp_path / "out")
    assert report.sources[0]["problems"] == len(GOOD)
    check_pictures(problems, ImageStore(tmp_path / "out" / "images"))
    with pytest.raises(UserError, match="cannot be loaded"):
        import_sources([Source(path=f"hub:{tmp_path / 'nothing'}")], tmp_path / "none")


def damaged(tmp_path: Path) -> list[Path]:
    """Shards of which the second breaks off: tar, Parquet and gzip."""
    rng = random.Random(0)
    items = [{"question": f"q{place}?", "answer": "x", "hint": str(rng.random()) * 50} for place in range(40)]
    for name in ("tar", "parquet", "gz"):
        (tmp_path / name).mkdir()
    for shard in range(3):
        part = [item | {"question": f"{shard} {item['question']}"} for item in items]
        parquet.write_table(pa.Table.from_pylist(part), tmp_path / "parquet" / f"{shard}.parquet", row_group_size=10)
        (tmp_path / "gz" / f"{shard}.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(item) + "\n" for item in part).encode()))
        with tarfile.open(tmp_path / "tar" / f"{shard}.tar", "w") as archive:
            for place, item in enumerate(part):
                for suffix, data in (("json", json.dumps(item).encode()), ("png", encoded(noise(place)))):
                    header = tarfile.TarInfo(f"{place}.{suffix}")
                    header.size = len(data)
                    archive.addfile(header, io.BytesIO(data))
    for name in ("parquet/1.parquet", "gz/1.jsonl.gz", "tar/1.tar"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2 + 300])
    return [tmp_path / "tar", tmp_path / "parquet", tmp_path / "gz"]


def test_after_a_file_that_breaks_off_the_next_one_is_read(tmp_path: Path) -> None:
    for folder in damaged(tmp_path):
        out = tmp_path / f"out-{folder.name}"
        import_sources([Source(path=str(folder))], out, near_duplicates="keep")
        problems, rejections = load(out)
        assert [item["reason"] for item in rejections] == ["damaged_file"] and "/1." in rejections[0]["detail"], folder
        assert {shard: sum(problem.question.startswith(shard) for problem in problems) for shard in "02"} == {"0": 40, "2": 40}
        with pytest.raises(UserError, match="damaged_file"):
            import_sources([Source(path=str(folder))], out, on_error="stop")


def test_a_row_of_absurd_size_is_rejected_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MOST_ROW", 2**20)
    bomb = {"question": "q" * 2**21, "answer": "x"}
    fine = {"question": "fine?", "answer": "x"}
    folder = tmp_path / "bombs"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(f"{json.dumps(bomb)}\n{json.dumps(fine)}\n".encode()))
    table(folder / "a.tsv", ["question", "answer"], [list(bomb.values()), ["a\n" * 2**19 + "\n" * 9, "x"], list(fine.values())])
    parquet.write_table(pa.Table.from_pylist([bomb, fine]), folder / "a.parquet")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        for name, data in (("1.json", json.dumps(bomb).encode()), ("1.png", b"x"), ("2.json", json.dumps(fine).encode()), ("2.png", encoded(noise(1)))):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    for path, bombs in (("a.jsonl.gz", 1), ("a.tsv", 2), ("a.parquet", 1), ("a.tar.gz", 1)):
        report = import_sources([Source(path=str(folder / path))], tmp_path / "out")
        assert [(row["reason"], row["count"]) for row in report.reasons if row["reason"] == "row_too_large"] == [("row_too_large", bombs)], path
        assert [problem.question for problem in load(tmp_path / "out")[0]] == ["fine?"], path
    (folder / "a.json").write_text(json.dumps([fine, bomb]))
    with pytest.raises(UserError, match="not valid JSON after row 1"):
        import_sources([Source(path=str(folder / "a.json"))], tmp_path / "out")


def test_a_tar_whose_header_is_a_bomb_is_not_read_into_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.XHDTYPE, 2**40
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + b"0" * 2**16)
    with pytest.raises(UserError, match="1 damaged_file"):
        import_sources([Source(path=str(tmp_path / "a.tar"))], tmp_path / "out")


def test_files_of_no_or_several_kinds_are_one_clear_line(tmp_path: Path) -> None:
    for name in ("a.zip", "mixed/a.tar", "mixed/b.tsv", "twice.tsv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a\ta\n")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "a.zip": "of no known kind",
        "mixed": "several kinds",
        "empty": "no file of a known kind",
        "*.json": "no file to import",
        "twice.tsv": "column names, each once",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            import_sources([Source(path=str(tmp_path / name))], tmp_path / "out")
        assert "\n" not in str(caught.value)
