"""How long it takes to leave out what benchmarks show, and in how much memory: synthetic pictures and questions, seeded.

Run: `python -m benchmarks.contamination --problems 100000 --items 20000` (the data are made first, which takes about as long again). Every hundredth
problem has the picture of an item in other bytes, every two hundredth a long question of one; what was found is held against that.
"""

import argparse
import io
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pyarrow
import pyarrow.parquet
from PIL import Image

from insightv.config import DecontaminateConfig
from insightv.datasets.foreign import make_problem
from insightv.evaluation.clean import decontaminate
from insightv.records import Problem
from insightv.store import ImageStore

TEXT = "area left blue chart which number of the red bar year total more less than between first second highest value line under shows what when"
WORDS = TEXT.split()
BATCH = 500


def picture(seed: int, side: int) -> Image.Image:
    """Some light and grain: what a photo's looks and its size as JPEG depend on."""
    rng = np.random.default_rng(seed)
    light = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
    grain = Image.fromarray(rng.integers(0, 255, (side * 3 // 16, side // 4), dtype=np.uint8)).resize(light.size, Image.Resampling.BILINEAR).convert("RGB")
    return Image.blend(light, grain, 0.1)


def jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def question(rng: random.Random, length: int) -> str:
    return " ".join(rng.choices(WORDS, k=length)).capitalize() + "?"


def write_items(path: Path, count: int, side: int, rng: random.Random) -> list[str]:
    """A benchmark in ChartQA's layout; returns the questions, of which every tenth is long."""
    asked = [question(rng, 20 if number % 10 == 0 else 7) for number in range(count)]
    writer = None
    for start in range(0, count, BATCH):
        rows = [
            {"type": "human_test", "question": asked[number], "answer": "1", "image": {"bytes": jpeg(picture(number, side), 90), "path": None}}
            for number in range(start, min(start + BATCH, count))
        ]
        table = pyarrow.Table.from_pylist(rows)
        writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()
    return asked


def problems(images: ImageStore, count: int, side: int, asked: list[str], rng: random.Random) -> Iterator[Problem]:
    for number in range(count):
        known = number % len(asked)
        data = jpeg(picture(known, side).resize((side * 3 // 4, side * 9 // 16)), 60) if number % 100 == 0 else jpeg(picture(10**7 + number, side), 90)
        text = asked[known // 10 * 10] if number % 200 == 50 else question(rng, 9)
        yield make_problem(text, ["1"], images=[images.add(data)], meta={"number": number})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=448, help="pixels of the longer side")
    given = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.monotonic()
        asked = write_items(folder / "items.parquet", given.items, given.side, rng)
        (folder / "data").mkdir()
        with (folder / "data" / "problems.jsonl").open("wb") as file:
            store = ImageStore(folder / "data" / "images", cache=0)
            file.writelines(problem.model_dump_json().encode() + b"\n" for problem in problems(store, given.problems, given.side, asked, rng))
        size = sum(path.stat().st_size for path in (folder / "data" / "images").rglob("*.jpg"))
        print(f"made in {time.monotonic() - begun:.0f} s: {size / 2**20:.0f} MB of pictures", flush=True)
        before, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        decontaminate(folder / "data", folder / "out", {"chartqa": folder / "items.parquet"}, DecontaminateConfig())
        seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF)
        found = Counter(orjson.loads(line)["by"] for line in (folder / "out" / "removed.jsonl").read_bytes().splitlines())
        print(f"{seconds:.0f} s, {after.ru_utime - before.ru_utime:.0f} s of processors; peak {after.ru_maxrss / 2**10:.0f} MB; removed {dict(found)}")
        print(f"meant: {len(range(0, given.problems, 100))} by picture, {len(range(50, given.problems, 200))} by question")


if __name__ == "__main__":
    main()
