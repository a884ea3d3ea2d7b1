import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from insightv.config import UserError
from insightv.datasets import sources
from insightv.datasets.foreign import make_problem
from insightv.datasets.importing import import_sources
from insightv.datasets.mixture import Source
from insightv.store import ImageStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Image files: a PNG, a JPEG, a text that says it is a PNG, a picture outside."""
    images = tmp_path / "pictures"
    images.mkdir()
    Image.new("RGB", (9, 7), "red").save(images / "red.png")
    Image.new("RGB", (9, 7), "blue").save(images / "blue.jpg")
    (images / "fake.png").write_text("no picture")
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    frames[0].save(images / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (5, 5)).save(tmp_path / "outside.png")
    return images


def imported(tmp_path: Path, folder: Path, rows: list[Any], name: str = "rows.jsonl") -> tuple[list[Any], list[Any]]:
    """Problems and rejections of rows written to a file; no problem at all is no error here."""
    path = tmp_path / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text(json.dumps(rows) if name.endswith(".json") else "\n".join(lines))
    with suppress(UserError):
        import_sources([Source(path=str(path), images=folder)], tmp_path)
    rejections = [json.loads(line) for line in (tmp_path / "rejections.jsonl").read_text().splitlines()]
    return list(sources.read_problems(tmp_path / "problems.jsonl")), rejections


def test_a_plain_row_becomes_a_problem_with_its_images_stored(tmp_path: Path, folder: Path) -> None:
    row = {"question": "Is <image> like <image>?", "images": ["red.png", "blue.jpg"], "answers": [False, "not at all"], "meta": {"family": "x"}}
    (problem,), rejections = imported(tmp_path, folder, [row])
    store = ImageStore(tmp_path / "images")
    assert [store.get(digest) for digest in problem.images] == [(folder / "red.png").read_bytes(), (folder / "blue.jpg").read_bytes()]
    assert (problem.answers, problem.answer_type, problem.source, problem.meta) == (("no", "not at all"), "text", "rows", {"family": "x"})
    assert rejections == []


@pytest.mark.parametrize(
    ("answer", "kind"), [(3, "number"), ("1,200", "number"), ("-4.5 %", "number"), (True, "yes_no"), ("No", "yes_no"), ("a red dog", "text"), (".", "text")]
)
def test_the_answers_type_is_read_from_the_answer(tmp_path: Path, folder: Path, answer: Any, kind: str) -> None:
    (problem,), _ = imported(tmp_path, folder, [{"question": "What?", "answer": answer}])
    assert problem.answer_type == kind


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B.", "blue", "Blue"])
def test_a_choice_is_a_letter_however_it_was_written(tmp_path: Path, folder: Path, answer: str) -> None:
    rows = [
        {"question": "Which?", "options": ["red", "blue"], "answer": answer},
        {"question": "Which?\nA. red\nB. blue", "answer": answer},
    ]
    problems, rejections = imported(tmp_path, folder, rows)
    assert [(problem.question, problem.options, problem.answers, problem.answer_type) for problem in problems] == [
        ("Which?", ("red", "blue"), ("B",), "choice")
    ]
    assert [item["reason"] for item in rejections] == ["duplicate"]


BAD = {
    "bad_json": '{"question": ',
    "bad_row": [1, 2],
    "no_question": {"question": " <image> ", "answer": "x"},
    "no_answer": {"question": "q", "answer": " "},
    "bad_answer": {"question": "q", "options": ["x", "y"], "answer": "z"},
    "bad_options": {"question": "q", "options": ["x", "x"], "answer": "x"},
    "bad_value": {"question": "q", "answer": {"text": "x"}},
    "bad_answer_type": {"question": "q", "answer": "x", "answer_type": "choice"},
    "bad_meta": {"question": "q", "answer": "x", "meta": [1]},
    "image_missing": {"question": "q", "answer": "x", "image": "none.png"},
    "image_outside": {"question": "q", "answer": "x", "image": "../outside.png"},
    "bad_image": {"question": "q", "answer": "x", "image": "fake.png"},
    "bad_conversation": {"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "q"}]},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_rejected_by_its_reason_and_the_next_is_read(tmp_path: Path, folder: Path, reason: str) -> None:
    problems, rejections = imported(tmp_path, folder, [BAD[reason], {"question": "q", "answer": "fine"}])
    assert [(item["row"], item["reason"]) for item in rejections] == [(1, reason)]
    assert [problem.answers for problem in problems] == [("fine",)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "q", "answer": "x", "image": "moving.gif"}, "image_animated"),
        ({"question": "q", "answer": "x", "image": "a\0b"}, "image_missing"),
        ({"question": "q", "answer": "x", "image": "a" * 5000}, "image_missing"),
        ({"question": "q", "answer": "x", "image": "/etc/hostname"}, "image_outside"),
        ({"question": "<image> and <image>", "answer": "x", "image": "red.png"}, "image_missing"),
        ({"question": "q", "options": ["B", "A"], "answer": "A"}, "bad_answer"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "bad_conversation"),
        ({"question": "q", "options": "xy", "answer": "x"}, "bad_options"),
    ],
)
def test_hostile_and_ambiguous_rows_are_rejected(tmp_path: Path, folder: Path, row: Any, reason: str) -> None:
    problems, rejections = imported(tmp_path, folder, [row])
    assert problems == [] and [item["reason"] for item in rejections] == [reason]


def test_a_llava_conversation_gives_a_problem_for_each_pair_of_turns(tmp_path: Path, folder: Path) -> None:
    turns = [
        {"from": "human", "value": "<image>\nHow many?\nAnswer the question using a single word or phrase."},
        {"from": "gpt", "value": "3"},
        {"from": "human", "value": "Which?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."},
        {"from": "gpt", "value": "B"},
    ]
    problems, rejections = imported(tmp_path, folder, [{"id": "7", "image": "red.png", "conversations": turns}], "llava.json")
    assert rejections == []
    assert [(p.question, p.options, p.answers, p.answer_type) for p in problems] == [
        ("How many?", (), ("3",), "number"),
        ("Which?", ("red", "blue"), ("B",), "choice"),
    ]
    assert problems[0].images == problems[1].images != ()


def test_ids_are_hashes_of_the_content_but_not_of_meta() -> None:
    first = make_problem("q", ["x"], meta={"family": "a"})
    assert first.id == make_problem("q", ["x"], meta={"family": "b"}).id
    assert len({first.id, make_problem("q", ["y"]).id, make_problem("q", ["x"], images=["0" * 32]).id, make_problem("q", ["x"], source="s").id}) == 4


def test_an_import_leaves_problems_images_and_rejections_in_a_folder(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "q", "answer": "x", "image": "red.png"}\nnot json\n')
    report = import_sources([Source(path=str(path), images=folder)], tmp_path / "out")
    assert report.sources == [{"source": "mine", "rows": 2, "problems": 1, "rejections": 1, "beyond quota": 0}]
    assert [(row["reason"], row["count"]) for row in report.reasons] == [("bad_json", 1)]
    (problem,) = sources.read_problems(tmp_path / "out" / "problems.jsonl")
    assert ImageStore(tmp_path / "out" / "images").get(problem.images[0]) == (folder / "red.png").read_bytes()
    assert json.loads((tmp_path / "out" / "rejections.jsonl").read_text())["reason"] == "bad_json"


def test_what_the_user_can_mend_is_said_in_one_line(tmp_path: Path, folder: Path) -> None:
    problem = make_problem("q", ["x"])
    twice = tmp_path / "twice.jsonl"
    assert sources.write_problems(twice, [problem, problem]) == 2
    broken = tmp_path / "broken.json"
    broken.write_text("[1,")
    one = tmp_path / "one.json"
    one.write_text("{}")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("nonsense\n")
    attempts = {
        "comes twice": lambda: list(sources.read_problems(twice)),
        "no file to import": lambda: import_sources([Source(path=str(tmp_path / "none.jsonl"))], tmp_path / "out"),
        "not valid JSON": lambda: import_sources([Source(path=str(broken))], tmp_path / "out"),
        "list of rows": lambda: import_sources([Source(path=str(one))], tmp_path / "out"),
        "no row of": lambda: import_sources([Source(path=str(bad))], tmp_path / "out"),
    }
    for message, attempt in attempts.items():
        with pytest.raises(UserError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
