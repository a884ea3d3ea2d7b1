"""Exported data sets, read by the loaders of the trainers that they are for.

`make layouts LOADERS=PYTHON`: the interpreter of an environment that holds them; a layout whose trainer is not there is skipped.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from insightv.config import PromptsConfig
from insightv.datasets import trainers
from insightv.datasets.foreign import make_problem
from insightv.images import encode_png
from insightv.store import ImageStore

LOADERS = os.environ.get("CONFORMANCE_LOADERS", "")
MODULES = {"llama-factory": "llamafactory", "ms-swift": "swift", "verl": "verl"}
RED, BLUE = (encode_png(Image.new("RGB", (2, 2), colour)) for colour in ("red", "blue"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not LOADERS, reason="CONFORMANCE_LOADERS names no interpreter")]


def said(role: str, *parts: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "image", "text": None} if part == "IMAGE" else {"type": "text", "text": part} for part in parts]}


SFT = [
    {"id": "a", "images": [RED], "prompt": [said("user", "IMAGE", "what?")], "completion": [said("assistant", "red")]},
    {"id": "b", "images": [RED, BLUE], "prompt": [said("user", "IMAGE", " or ", "IMAGE", "?")], "completion": [said("assistant", "both")]},
]
PAIRS = [{"id": "a", "images": [BLUE], "prompt": [said("user", "IMAGE", "what?")]}]
PAIRS[0] |= {"chosen": [said("assistant", "blue")], "rejected": [said("assistant", "red")]}


def loaded(layout: str, folder: Path) -> list[dict[str, Any]]:
    if subprocess.run([LOADERS, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec('{MODULES[layout]}') is None)"]).returncode:
        pytest.skip(f"{MODULES[layout]} is not installed there")
    script = Path(__file__).with_name("loaders.py")
    paths = os.pathsep.join([str(script.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "ROOT_IMAGE_DIR": str(folder), "HF_HOME": str(folder / "hf"), "MODELSCOPE_CACHE": str(folder / "ms")}
    ended = subprocess.run([LOADERS, str(script), layout, str(folder)], capture_output=True, text=True, timeout=300, env=environment, cwd=folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.parametrize("layout", ["llama-factory", "ms-swift"])
def test_rows_and_pairs_arrive(layout: str, tmp_path: Path) -> None:
    for name, rows in (("sft", SFT), ("pairs", PAIRS)):
        (tmp_path / name).mkdir()
        given = [row | {"images": [{"bytes": data, "path": None} for data in row["images"]]} for row in rows]
        pq.write_table(pa.Table.from_pylist(given), tmp_path / name / "train-00000.parquet")
        trainers.export(tmp_path / name, tmp_path / f"{name}-out", layout)
    assert loaded(layout, tmp_path / "sft-out") == [
        {"texts": ["<image>what?", "red"], "images": 1},
        {"texts": ["<image> or <image>?", "both"], "images": 2},
    ]
    assert loaded(layout, tmp_path / "pairs-out") == [{"texts": ["<image>what?", "blue", "red"], "images": 1}]


def test_problems_arrive(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    problems = [make_problem("which, <image> or <image>?", ["red"], images=[store.add(RED), store.add(BLUE)]), make_problem("how many?", ["3"])]
    prompts = PromptsConfig(reasoner="{question}")
    trainers.export_verl(problems, store, prompts, "train", tmp_path / "out")
    assert loaded("verl", tmp_path / "out") == [{"texts": ["which, ", " or ", "?", "red"], "images": 2}, {"texts": ["how many?", "3"], "images": 0}]
