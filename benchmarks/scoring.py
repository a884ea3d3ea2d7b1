"""Seconds to score predictions of all benchmarks, chains and all, under each profile: `python -m benchmarks.scoring --predictions 100000`."""

import argparse
import random
import tempfile
import time
from pathlib import Path

from insightv.evaluation.benchmarks import BENCHMARKS, items
from insightv.evaluation.profiles import PROFILES
from insightv.evaluation.suite.predictions import Asking, Prediction, adding, folder, prompt_hash, save_asking
from insightv.records import Problem
from insightv.scoring import scored
from insightv.store import ImageStore, write_records
from tests.evaluation.benchmark_rows import HUGGING_FACE, write_parquet

_TEXT = "the picture shows a red disc on the left of two blue bars so that the answer is B because 12 of 1,250 are larger yes no (C) A."


def fill(run: Path, scratch: Path, name: str, count: int, draw: random.Random) -> None:
    """A benchmark's items, the fixtures over and over, with a chain of some 300 words and an answer of up to 30 each."""
    path = scratch / f"{name}.parquet"
    write_parquet(path, [HUGGING_FACE[name](n) for n in range(5)])
    five = list(items(name, str(path), ImageStore(run / "images")))
    asking = Asking(row="pair", model="m", prompts="p")
    problems = [_renamed(five[n % 5], n) for n in range(count)]
    write_records(run / "benchmarks" / name / "items" / "1-of-1.jsonl", problems)
    save_asking(folder(run, name, "pair"), asking)
    with adding(folder(run, name, "pair") / "1-of-1.jsonl") as lines:
        for problem in problems:
            texts = [" ".join(draw.choices(_TEXT.split(), k=words)) for words in (300, draw.choice((1, 1, 5, 30)))]
            lines.add(
                Prediction(
                    benchmark=name,
                    item=str(problem.meta["index"]),
                    prompt=prompt_hash(problem, "p"),
                    model="m",
                    row="pair",
                    seed=0,
                    reasoning=texts[0],
                    content=texts[1],
                )
            )


def _renamed(problem: Problem, number: int) -> Problem:
    index = str(number)
    row = problem.meta["row"] | ({"index": number} if "index" in problem.meta["row"] else {})
    return problem.model_copy(update={"id": f"{number:032d}", "meta": problem.meta | {"index": index, "cluster": str(number // 2), "row": row}})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run, draw = Path(scratch) / "run", random.Random(arguments.seed)
        for name in BENCHMARKS:
            fill(run, Path(scratch), name, arguments.predictions // len(BENCHMARKS), draw)
        for profile in PROFILES:
            begun = time.monotonic()
            results, _ = scored(run, profile, [], judged=False, overrides=[])
            seconds = time.monotonic() - begun
            print(f"{profile}: {sum(len(result.verdicts) for result in results)} predictions in {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
