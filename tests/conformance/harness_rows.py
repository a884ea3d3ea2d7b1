"""Rows of every benchmark as the harnesses want them, and a pair that answers every second one rightly: what it said decides what a harness must find."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.ImageColor
from datasets import Dataset, Image

from benchmarks.agents_stub import CHAIN, Agents, text_of
from insightv.evaluation.benchmarks import items
from insightv.images import decode, from_data_url
from insightv.records import Problem
from insightv.store import ImageStore
from tests.evaluation.benchmark_rows import COLOURS, HUGGING_FACE, TABLES, Row, write_table

Layout = dict[str, Callable[[int], Row]]

RUNS = [name for name in HUGGING_FACE if name != "mathvista"]
"""MathVista's answers are found by a judge, in both harnesses."""
CATEGORIES = ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"]
CATEGORIES += ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
"""Of MME: its harnesses want all of them, and two questions about each image."""
_SHADES = [PIL.ImageColor.getrgb(colour) for colour in COLOURS]


def rows(name: str, layout: Layout) -> list[Row]:
    """Five rows, or of MME two for each category; each question begins with the benchmark and its number."""
    found = [layout[name](n) for n in range(2 * len(CATEGORIES) if name == "mme" else 5)]
    if name == "mme":
        found = [row | {"category": CATEGORIES[n // 2], "answer": "No" if n % 2 else "Yes"} for n, row in enumerate(found)]
        found = [row | {"question": "Is this so? Please answer yes or no.", "image": found[n // 2 * 2]["image"]} for n, row in enumerate(found)]
    return [row | {"question": f"[{name} {n}] {row['question']}"} if "question" in row else row for n, row in enumerate(found)]


def gold(name: str, row: Row) -> str:
    """The right reply to a row of either layout."""
    answer = row["answers"] if "answers" in row else row["answer"]
    if isinstance(answer, str) and answer.startswith("["):
        answer = re.findall(r"'([^']*)'", answer)
    if isinstance(answer, list):
        return str(answer[0])
    return "ABCD"[int(answer)] if name.startswith("ai2d") and answer.isdigit() else str(answer)


def said(name: str, n: int, row: Row) -> str:
    """What the pair says: the right reply to rows 0, 2, 4 .., a plainly wrong one to others."""
    right = gold(name, row)
    if n % 2 == 0:
        return right
    if right in ("Yes", "No"):
        return "No" if right == "Yes" else "Yes"
    return ("B" if right == "A" else "A") if re.fullmatch("[A-J]", right) else "zebra"


def answering(layout: Layout) -> tuple[Agents, dict[tuple[str, int], list[int]]]:
    """The agents, and by benchmark and row the pictures that they were shown, as numbers of shades.

    The reasoner's chain names nothing that is right anywhere, and the summary agent says what `said` has.
    """
    pictures: dict[tuple[str, int], list[int]] = {}

    def summary(body: dict[str, Any]) -> str:
        message = body["messages"][-1]
        shown = [shade(from_data_url(part["image_url"]["url"])) for part in message["content"] if part["type"] == "image_url"]
        tag = re.search(r"\[([a-z0-9-]+) (\d+)\]", text_of(message))
        # The question stands in the picture where there is none in the text.
        name, n = (tag[1], int(tag[2])) if tag else ("mmmu-pro-vision", shown[0])
        pictures[name, n] = shown
        return said(name, n, rows(name, layout)[n])

    return Agents({"reasoner": CHAIN.replace("Answer: red", "Answer: Z"), "summarizer": summary}), pictures


def shade(data: bytes) -> int:
    """Which of the rows' pictures this is; a harness may have made a JPEG of it."""
    seen = decode(data).getpixel((3, 3))
    assert isinstance(seen, tuple)
    return min(range(5), key=lambda number: sum(abs(a - b) for a, b in zip(seen, _SHADES[number], strict=True)))


def parquet(folder: Path, name: str) -> Path:
    """The rows as the hub has them: columns of images are declared as such."""
    found = rows(name, HUGGING_FACE)
    data = Dataset.from_list(found)
    for column in data.column_names:
        if column == "decoded_image" or re.fullmatch(r"image(_\d)?", column):
            data = data.cast_column(column, Image())
    data.to_parquet(folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def table(folder: Path, name: str) -> Path:
    """The rows as VLMEvalKit's tables have them."""
    return write_table(folder / f"{name}.tsv", rows(name, TABLES))


def ours(folder: Path, name: str, path: Path) -> list[tuple[Problem, list[int]]]:
    """What we make of the same file, and the numbers of its pictures."""
    store = ImageStore(folder / "images")
    return [(problem, [shade(store.get(image)) for image in problem.images]) for problem in items(name, str(path), store)]
