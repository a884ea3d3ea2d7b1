"""Every benchmark in both layouts: what is asked, about which images, and what its scoring will need."""

from pathlib import Path

import pytest

from insightv.config import UserError
from insightv.evaluation.benchmarks import BENCHMARKS, LETTER, PHRASE, items
from insightv.images import digest
from insightv.records import Problem
from insightv.store import ImageStore
from tests.evaluation.benchmark_rows import HUGGING_FACE, TABLES, Row, picture, write_parquet, write_table


def rows(name: str, layout: str) -> list[Row]:
    return [(HUGGING_FACE if layout == "parquet" else TABLES)[name](n) for n in range(5)]


def written(folder: Path, name: str, layout: str) -> Path:
    return (write_parquet if layout == "parquet" else write_table)(folder / f"{name}.{layout}", rows(name, layout))


def read(folder: Path, name: str, layout: str, **wishes: int | tuple[int, int] | None) -> list[Problem]:
    return list(items(name, str(written(folder, name, layout)), ImageStore(folder / "images"), **wishes))  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["parquet", "tsv"])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_read_in_both_layouts(tmp_path: Path, name: str, layout: str) -> None:
    found, given = read(tmp_path, name, layout), rows(name, layout)
    assert len({problem.meta["index"] for problem in found}) == 5
    for number, (problem, row) in enumerate(zip(found, given, strict=True)):
        assert problem.source == problem.meta["benchmark"] == name and problem.question.count("<image>") <= len(problem.images)
        assert problem.images[0] in {digest(picture(n)) for n in range(number - 3, number + 3)}
        assert {"bytes", "image", "image_1", "decoded_image"}.isdisjoint(problem.meta["row"]) and str(row.get("question", ""))[-3:] in problem.question


def test_multiple_choice_is_asked_as_the_papers_do(tmp_path: Path) -> None:
    first, *_, last = read(tmp_path, "mmbench", "parquet")
    assert first.question == f"What is it? 0\nA. cat0\nB. dog\nC. bird\nD. fish\n{LETTER}"
    assert last.question == f"What is it? 4\nA. cat4\nB. dog\n{LETTER}"
    assert read(tmp_path, "mmbench", "parquet")[2].question.startswith("Look closely.\nWhat is it? 2")
    assert read(tmp_path, "mmstar", "parquet")[0].question.endswith(f"D: w\n{LETTER}")
    assert read(tmp_path, "mmstar", "tsv")[0].question == f"What is it? 0\nA. one\nB. two\nC. three\nD. four\n{LETTER}"


def test_images_stand_where_question_and_options_name_them(tmp_path: Path) -> None:
    problem = read(tmp_path, "mmmu", "parquet")[3]
    assert problem.question == f"See <image>. What is 3?\nA. a <image>\nB. it's b\nC. c\nD. d\n{LETTER}"
    assert problem.images == (digest(picture(4)), digest(picture(5)))
    assert read(tmp_path, "mmmu", "tsv")[3].images == (digest(picture(3)), digest(picture(4)))
    assert read(tmp_path, "mmmu", "parquet")[4].question == f"See <image>. What is 4?\n{PHRASE}"


def test_a_row_may_show_the_image_of_another(tmp_path: Path) -> None:
    found = read(tmp_path, "mmbench", "tsv")
    assert found[0].images == found[1].images == found[2].images == (digest(picture(0)),)
    assert [problem.images for problem in read(tmp_path, "mmbench", "tsv", shard=(2, 2))] == [found[1].images, found[3].images]


@pytest.mark.parametrize(
    ("name", "layout", "clusters"),
    [
        ("mmbench", "parquet", ["7", "7", "22", "23", "24"]),
        ("mmbench", "tsv", ["7", "7", "7", "23", "24"]),
        ("mme", "parquet", ["artwork/0.jpg", "artwork/0.jpg", "artwork/1.jpg", "artwork/1.jpg", "artwork/2.jpg"]),
        ("mme", "tsv", ["artwork/0.jpg", "artwork/0.jpg", "artwork/1.jpg", "artwork/1.jpg", "artwork/2.jpg"]),
        ("docvqa", "parquet", ["0", "0", "1", "1", "2"]),
        ("chartqa", "tsv", ["0", "1", "2", "3", "4"]),
    ],
)
def test_what_belongs_together_shares_a_cluster(tmp_path: Path, name: str, layout: str, clusters: list[str]) -> None:
    assert [problem.meta["cluster"] for problem in read(tmp_path, name, layout)] == clusters


def test_limits_and_shards_choose_rows(tmp_path: Path) -> None:
    every = [problem.meta["index"] for problem in read(tmp_path, "chartqa", "parquet")]
    assert [problem.meta["index"] for problem in read(tmp_path, "chartqa", "parquet", limit=3)] == every[:3]
    parts = [[problem.meta["index"] for problem in read(tmp_path, "chartqa", "parquet", shard=(i, 2))] for i in (1, 2)]
    assert sorted(parts[0] + parts[1]) == every and len(parts[0]) == 3


@pytest.mark.parametrize("layout", ["parquet", "tsv"])
def test_a_missing_column_is_named(tmp_path: Path, layout: str) -> None:
    lacking = [{column: value for column, value in row.items() if column != "answer"} for row in rows("mmstar", layout)]
    path = (write_parquet if layout == "parquet" else write_table)(tmp_path / f"rows.{layout}", lacking)
    with pytest.raises(UserError, match=r"mmstar: .*rows\.\w+: row 1: .* has the column answer; the row has index"):
        list(items("mmstar", str(path), ImageStore(tmp_path / "images")))


def test_what_is_no_benchmark_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no benchmark 'mmlu'; there are mmmu, mmmu-pro"):
        list(items("mmlu", "", ImageStore(tmp_path)))
    broken = [{"index": "0", "image": "no base64!", "question": "q", "answer": "a"}]
    with pytest.raises(UserError, match="row 1"):
        list(items("chartqa", str(write_table(tmp_path / "broken.tsv", broken)), ImageStore(tmp_path)))


@pytest.mark.parametrize("number", [0, 3, 12])
def test_a_mark_without_an_image_is_refused(tmp_path: Path, number: int) -> None:
    row = HUGGING_FACE["mmmu"](0) | {"question": f"See <image {number}>."}
    with pytest.raises(UserError, match=f"row 1: bad mark: the question names image {number}, and there are 1"):
        list(items("mmmu", str(write_parquet(tmp_path / "rows.parquet", [row])), ImageStore(tmp_path / "images")))


def test_an_image_that_is_named_twice_stands_there_twice(tmp_path: Path) -> None:
    row = HUGGING_FACE["mmmu"](3) | {"question": "Is <image 2> in <image 2>?"}
    [problem] = items("mmmu", str(write_parquet(tmp_path / "rows.parquet", [row])), ImageStore(tmp_path / "images"))
    assert problem.question.startswith("Is <image> in <image>?\nA. a <image>") and problem.images == (digest(picture(4)), *[digest(picture(5))] * 3)
