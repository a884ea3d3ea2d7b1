"""Rows that we made in each benchmark's own format: five in Hugging Face's layout and five in VLMEvalKit's."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow
import pyarrow.parquet

from insightv.images import encode_png

Row = dict[str, Any]
COLOURS = ("red", "green", "blue", "yellow", "black")


def picture(number: int) -> bytes:
    return encode_png(PIL.Image.new("RGB", (32, 24), COLOURS[number % 5]))


def image(number: int) -> Row:
    return {"bytes": picture(number), "path": f"{number}.png"}


def text(number: int) -> str:
    return base64.b64encode(picture(number)).decode()


def _mmmu(n: int) -> Row:
    options = "[]" if n == 4 else str(["a <image 2>", "it's b", "c", "d"] if n == 3 else ["one", "two", "three", "four"])
    own = {"question_type": "open" if n == 4 else "multiple-choice", "answer": "1250" if n == 4 else "ABCD"[n], "subfield": "Optics"}
    images = {f"image_{place}": image(n + place) if place <= (2 if n == 3 else 1) else None for place in range(1, 8)}
    return {"id": f"validation_Physics_{n}", "question": f"See <image 1>. What is {n}?", "options": options, **own, **images}


def _mmmu_pro(n: int) -> Row:
    options = str([f"option {place}" for place in range(10)])
    images = {f"image_{place}": image(n) if place == 1 else None for place in range(1, 8)}
    return {"id": f"test_Art_{n}", "question": f"<image 1> What is {n}?", "options": options, "answer": "ABCDEFGHIJ"[n * 2], "subject": "Art", **images}


def _mmbench(n: int) -> Row:
    rotation = {
        "index": 7 + (n % 2) * 1_000_000 if n < 2 else 20 + n,
        "A": f"cat{n}",
        "B": "dog",
        "C": "nan" if n == 4 else "bird",
        "D": "nan" if n == 4 else "fish",
    }
    own = {
        "answer": "AB"[n % 2],
        "category": "identity",
        "L2-category": "finegrained",
        "source": "x",
        "split": "dev",
        "hint": "Look closely." if n == 2 else "nan",
    }
    return {**rotation, "question": f"What is it? {n}", "image": image(n), **own}


HUGGING_FACE: dict[str, Callable[[int], Row]] = {
    "mmmu": _mmmu,
    "mmmu-pro": _mmmu_pro,
    "mmmu-pro-vision": lambda n: {
        "id": f"test_Art_{n}",
        "image": image(n),
        "options": str([str(place) for place in range(10)]),
        "answer": "J",
        "subject": "Art",
    },
    "mmbench": _mmbench,
    "mme": lambda n: {
        "question_id": f"artwork/{n // 2}.jpg",
        "image": image(n // 2),
        "question": f"Is this {n}? Please answer yes or no.",
        "answer": "Yes" if n % 2 else "No",
        "category": "artwork",
    },
    "chartqa": lambda n: {"type": "human_test", "question": f"How many? {n}", "answer": str(n), "image": image(n)},
    "mmstar": lambda n: {
        "index": n,
        "question": f"Which? {n}\nOptions: A: x, B: y, C: z, D: w",
        "image": image(n),
        "answer": "ABCD"[n % 4],
        "category": "math",
        "l2_category": "geometry",
        "meta_info": {"source": "MMMU"},
    },
    "mathvista": lambda n: {
        "pid": str(n + 1),
        "question": f"What is x? {n}",
        "image": f"images/{n}.jpg",
        "decoded_image": image(n),
        "choices": ["2", "4"] if n % 2 else None,
        "unit": "cm" if n == 2 else None,
        "precision": 1.0,
        "answer": "4",
        "question_type": "multi_choice" if n % 2 else "free_form",
        "answer_type": "text" if n % 2 else "integer",
        "metadata": {"task": "geometry"},
        "query": f"Hint: Please answer the question.\nQuestion: What is x? {n}",
    },
    "textvqa": lambda n: {"question_id": 100 + n, "question": f"what is written? {n}", "answers": ["stop"] * 8 + ["STOP", "go"], "image": image(n)},
    "docvqa": lambda n: {"questionId": str(300 + n), "docId": n // 2, "question": f"What is the date? {n}", "answers": ["Jan 1", "1 Jan"], "image": image(n)},
    "ocrbench": lambda n: {
        "dataset": "IIIT5K",
        "question": f"what is written? {n}",
        "question_type": "Regular Text Recognition",
        "answer": ["CENTRE"],
        "image": image(n),
    },
    "ai2d": lambda n: {"question": f"What is A? {n}", "options": ["sun", "moon", "star", "sky"], "answer": str(n % 4), "image": image(n)},
}
HUGGING_FACE["ai2d-no-mask"] = HUGGING_FACE["ai2d"]


def _table(n: int, **own: Any) -> Row:
    return {"index": str(n), "image": text(n), "question": f"What is it? {n}", "answer": "A"} | own


FOUR = {"A": "one", "B": "two", "C": "three", "D": "four"}
TEN = {letter: f"option {letter}" for letter in "ABCDEFGHIJ"}


def _rotated(n: int) -> Row:
    """A rotation shows the image of the row that it names."""
    rotation = {"index": str(7 + n * 1_000_000), "image": text(0) if n == 0 else "7"} if n < 3 else {"index": str(20 + n)}
    return _table(n, hint="", category="identity", **FOUR, **rotation)


TABLES: dict[str, Callable[[int], Row]] = {
    "mmmu": lambda n: _table(n, **({"image": json.dumps([text(n), text(n + 1)]), "question": f"<image 1> or <image 2>? {n}"} if n == 3 else {}), **FOUR),
    "mmmu-pro": lambda n: _table(n, **TEN),
    "mmmu-pro-vision": lambda n: {name: value for name, value in _table(n, **TEN).items() if name != "question"},
    "mmbench": _rotated,
    "mme": lambda n: _table(n, image_path=f"artwork/{n // 2}.jpg", answer="Yes", category="artwork"),
    "chartqa": lambda n: _table(n, answer=str(n), split="test_human"),
    "mmstar": lambda n: _table(n, category="math", l2_category="geometry", **FOUR),
    "mathvista": lambda n: _table(n, answer="4", answer_type="integer", question_type="free_form", answer_option="", choices="[]"),
    "textvqa": lambda n: _table(n, answer=str(["stop"] * 9 + ["go"])),
    "docvqa": lambda n: _table(n, answer=str(["Jan 1", "1 Jan"])),
    "ocrbench": lambda n: _table(n, answer=str(["CENTRE"]), category="Regular Text Recognition"),
    "ai2d": lambda n: _table(n, **FOUR),
}
TABLES["ai2d-no-mask"] = TABLES["ai2d"]


def write_parquet(path: Path, rows: list[Row]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_table(path: Path, rows: list[Row]) -> Path:
    import csv

    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path
