"""Does memory stay flat while problems stream through generation? `python -m benchmarks.streaming --problems 100000`.

The very stage that `insightv generate` runs, against the stub server of the engine's benchmark with short latencies: journal, image store of 1,000
images, chains of two steps and a conclusion. The process's memory is read at every hundredth of the work.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import PIL.Image

from benchmarks.engines import payload
from benchmarks.engines.measure import status
from benchmarks.engines.process import serving
from benchmarks.engines.weather import Settings
from insightv.config import Config, EndpointConfig, GenerateConfig, ModelsConfig
from insightv.images import encode_png
from insightv.records import Problem
from insightv.stages.chains import generate
from insightv.stages.context import Context
from insightv.store import ImageStore, Run, write_records

IMAGES = 1000


def main() -> None:
    """One run in a folder that is removed; prints a table and, as the last line, the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=100_000)
    parser.add_argument("--paths", type=int, default=1, help="chains of each problem")
    parser.add_argument("--in-flight", type=int, default=256)
    given = parser.parse_args()
    weather = Settings(latency=20, slow=200, steps=2)
    with tempfile.TemporaryDirectory() as folder, serving(weather) as server:
        endpoint = EndpointConfig(url=server.url, concurrency=given.in_flight)
        config = Config(run=Path(folder) / "run", models=ModelsConfig(generator=endpoint), generate=GenerateConfig(n=given.paths, min_steps=1))
        print(json.dumps(measured(config, given.problems)))


def measured(config: Config, count: int) -> dict[str, Any]:
    """Megabytes at the tenths of the work, seconds and the stage's own summary."""
    run = Run(config.run)
    stage = run.stage("problems", inputs={}, config={}, version=1)
    stage.commit({"train": write_records(stage.work / "train.jsonl", problems(run.images, count))})
    seen: list[tuple[float, float]] = []
    begun = time.monotonic()

    def report(values: dict[str, Any]) -> None:
        share = values["step"] / values["of"]
        if not seen or share - seen[-1][0] >= 0.01 or share == 1:
            seen.append((share, status("VmRSS")))
            if len(seen) % 10 == 1:
                print(f"{share:5.0%} {seen[-1][1]:8.1f} MB  {values['step'] / (time.monotonic() - begun):7.0f} chains/s", flush=True)

    before = status("VmRSS")
    told = generate(Context(config, run, report), run.stage("generate", inputs={}, config={}, version=1).work)
    early = max(memory for share, memory in seen if share <= 0.1)
    return {
        "problems": count,
        "chains": told["chains"],
        "failed": told["failed"],
        "seconds": round(time.monotonic() - begun),
        "MB before": round(before, 1),
        "MB in the first tenth": round(early, 1),
        "MB at most": round(max(memory for _, memory in seen), 1),
        "peak MB, with the writing of the file": round(status("VmHWM"), 1),
    }


def problems(images: ImageStore, count: int) -> Iterator[Problem]:
    """Questions about one of a thousand small pictures of noise each; the stub knows them by their marker."""
    drawn = np.random.default_rng(0)
    digests = [images.add(encode_png(PIL.Image.fromarray(drawn.integers(0, 256, (28, 28, 3), dtype=np.uint8)))) for _ in range(IMAGES)]
    chosen = Random(0)
    for row in range(count):
        yield Problem(id=f"{row:032d}", question=payload.question(row), images=(chosen.choice(digests),), answers=("7",))


if __name__ == "__main__":
    main()
