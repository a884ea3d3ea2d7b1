"""Small data sets in TRL's conversational form, as the package's own export writes them."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

COLOURS = ("red", "green", "blue", "yellow")
Data = list[dict[str, Any]]


def _png(colour: str, size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def _said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


@pytest.fixture(scope="session")
def rows() -> Callable[..., Data]:
    """Make n rows about coloured images: completions by default, else preference pairs."""

    def make(n: int, *, pairs: bool = False) -> Data:
        draw = random.Random(n)
        made = []
        for index in range(n):
            colour = COLOURS[index % 4]
            right, wrong = f"It is {colour}" + " indeed" * draw.randrange(4) + ".", "It is grey" + " perhaps" * draw.randrange(4)
            question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"what colour is it? {'please ' * draw.randrange(3)}"}]}
            answers = {"chosen": [_said("assistant", right)], "rejected": [_said("assistant", wrong)]} if pairs else {"completion": [_said("assistant", right)]}
            made.append({"id": f"row{index}", "images": [{"bytes": _png(colour, (32 + 8 * (index % 3), 32)), "path": None}], "prompt": [question], **answers})
        return made

    return make


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Data], Path]:
    """Write rows as a data folder."""

    def write(data: Data) -> Path:
        folder = tmp_path / f"data{len(list(tmp_path.glob('data*')))}"
        folder.mkdir()
        pyarrow.parquet.write_table(pa.Table.from_pylist(data), folder / "train.parquet")
        return folder

    return write


@pytest.fixture
def mixed(rows: Callable[..., Data], save: Callable[[Data], Path]) -> Path:
    """Eight rows of which the shorter four have no image, so that some steps have images in one of two processes alone."""
    data = rows(8)
    for row in data[1::2]:
        row |= {"images": [], "prompt": [_said("user", "what colour is the sky, " + "or the sea, " * int(row["id"][3:]))]}
    return save(data)
