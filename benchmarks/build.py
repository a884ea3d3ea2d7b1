"""What it takes to build all data sets from N problems with four chains of about 1 KB each: seconds, CPU seconds and memory.

Run: `python benchmarks/build.py --problems 1000000 --folder FOLDER` (about 30 GB of disk; FOLDER is made, and removed at the end unless `--keep`).
It makes the stages before `build` as seeded noise: 1,000 pictures, problems, the teacher's chains with verdicts (60% right) and scores, and a model's own
chains for a fifth as many problems. Then every set is built in a process of its own, `--parallel` at a time, as `insightv build` does it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import orjson
from PIL import Image

from insightv.config import Config
from insightv.images import encode_png
from insightv.store import ImageStore, Run, content_hash

PATHS, PICTURES = 4, 1000
FAMILIES = ("count", "relative", "compare", "entry", "height", "attribute", "sum", "path")


def write(path: Path, lines: Iterator[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)


def problem(name: str, draw: Random, pictures: list[str]) -> dict[str, Any]:
    asked = f"How many of the {draw.choice(('red', 'blue', 'green'))} things in row {draw.randrange(40)} lie left of column {draw.randrange(40)}?"
    fields = {"id": name, "question": asked, "images": [draw.choice(pictures)], "answers": [str(draw.randrange(50))], "answer_type": "number"}
    return {**fields, "source": "noise", "meta": {"family": draw.choice(FAMILIES), "difficulty": draw.random()}}


def chain(name: str, index: int, mode: str, draw: Random, sentences: list[str]) -> dict[str, Any]:
    said = draw.sample(sentences, 5)
    steps = [{"summary": text[:20], "reasoning": text, "action": "continue"} for text in said[:4]]
    fate = draw.random()
    status, defects = ("defect", ["truncated"]) if fate < 0.02 else ("ok", ["retried"] if fate < 0.05 else [])
    texts = {"steps": [*steps[:3], steps[3] | {"action": "summary"}], "conclusion": said[4][:100], "answer": str(draw.randrange(50))}
    if mode == "single":
        texts["text"] = f"<thoughts>\n{' '.join(said)}\n</thoughts>"
    told = {"status": status, "defects": defects, "usage": {"prompt": 850, "completion": 200, "cached": 0, "reasoning": 0}}
    return {"id": content_hash([name, index, mode]), "problem_id": name, "model": "teacher@noise", "mode": mode, "index": index, **texts, **told}


def write_chains(run: Path, stage: str, judged: str, names: list[str], paths: int, mode: str, draw: Random) -> None:
    """Chains, verdicts and scores, sorted by problem."""
    words = ["".join(draw.choices("abcdefghiklmnoprstuvw", k=draw.randint(2, 9))) for _ in range(400)]
    sentences = [" ".join(draw.choices(words, k=draw.randint(28, 36))) + "." for _ in range(3000)]
    made = ((name, [chain(name, index, mode, draw, sentences) for index in range(paths)]) for name in sorted(names))
    files = [run / stage / "chains.jsonl", run / judged / "verdicts.jsonl", run / judged / "scores.jsonl"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    with files[0].open("wb") as chains, files[1].open("wb") as verdicts, files[2].open("wb") as scores:
        for name, group in made:
            for position, one in enumerate(group):
                chains.write(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE))
                right, of = draw.random() < 0.6, {"chain_id": one["id"], "problem_id": name}
                verdicts.write(orjson.dumps(of | {"correct": right, "by": "rule", "reason": ""}, option=orjson.OPT_APPEND_NEWLINE))
                if right and paths > 1 and one["status"] == "ok":
                    score = {"value": draw.randint(20, 100), "reason": "Most steps agree with the picture.", "position": position}
                    scores.write(orjson.dumps(of | score, option=orjson.OPT_APPEND_NEWLINE))


def prepare(run: Path, count: int, side: int) -> None:
    draw, store = Random(0), ImageStore(run / "images")
    pictures = [store.add(encode_png(Image.frombytes("RGB", (side, side), draw.randbytes(3 * side * side)))) for _ in range(PICTURES)]
    names = {"train": [content_hash([0, n]) for n in range(count)], "own": [content_hash([1, n]) for n in range(count // 5)]}
    for split, seed in (("train", 1), ("plain", 1), ("own", 2)):
        write(run / "problems" / f"{split}.jsonl", map(partial(problem, draw=Random(seed), pictures=pictures), names["own" if split == "own" else "train"]))
    write_chains(run, "generate", "assess", names["train"], PATHS, "progressive", draw)
    write_chains(run, "own-chains", "own-chains-assess", names["own"], 1, "single", draw)


def build(run: Path, name: str) -> None:
    """One set, as its stage makes it."""
    from insightv.datasets import reasoning
    from insightv.stages import sets
    from insightv.stages.context import Context

    of_teacher = {"source": "generate", "judged": "assess", "split": "train"}
    builders: dict[str, Callable[[Context, Path], dict[str, Any]]] = {
        "reasoning-data": partial(sets.build_reasoning, form=reasoning.reasoning_row),
        "single-data": partial(sets.build_reasoning, form=reasoning.single_row),
        "multi-turn-data": partial(sets.build_reasoning, form=reasoning.multi_turn_row),
        "round1-data": partial(sets.build_pairs, **of_teacher),
        "summary-data": partial(sets.build_summary, own="own-chains"),
        "single-fair-data": sets.build_fair,
    }
    stage = Run(run).stage(name, inputs={}, config=None, version=0)
    stage.commit(builders[name](Context(Config(run=run), Run(run), lambda _: None), stage.work))


def measured(run: Path, name: str, after: Future[None] | None) -> None:
    if after:
        after.result()
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, __file__, "--folder", str(run), "--only", name])
    _, code, used = os.wait4(child.pid, 0)
    wall, cpu = time.monotonic() - began, used.ru_utime + used.ru_stime
    child.returncode = os.waitstatus_to_exitcode(code)
    if child.returncode:
        raise SystemExit(f"{name} failed")
    shards = list((run / name).glob("*.parquet"))
    rows = orjson.loads((run / name / "manifest.json").read_bytes())["summary"]["rows"]
    size, digest = sum(shard.stat().st_size for shard in shards) / 1e9, sha256((run / name / "manifest.json").read_bytes()).hexdigest()[:8]
    facts = f"{rows} | {wall:.0f} | {cpu:.0f} | {used.ru_maxrss / 1024:.0f} | {size:.2f} in {len(shards)} | {digest}"
    print(f"| {name} | {facts} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--side", type=int, default=26, help="of a picture, in pixels: 26 gives 2 KB, 130 gives 50 KB")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--only", help="build this set of a folder that is there, in this process")
    given = parser.parse_args()
    if given.only:
        build(given.folder, given.only)
        return
    began = time.monotonic()
    given.folder.mkdir(parents=True)
    prepare(given.folder, given.problems, given.side)
    print(f"{given.problems} problems made in {time.monotonic() - began:.0f} s\n", flush=True)
    print("| set | rows | wall s | CPU s | peak MB | GB in shards | manifest |\n| --- | --- | --- | --- | --- | --- | --- |")
    began, used = time.monotonic(), os.times()
    with ThreadPoolExecutor(given.parallel) as pool:
        start = partial(pool.submit, measured, given.folder)
        # The summary set first: the fair control's is made from it.
        summary = start("summary-data", None)
        others = [start(name, None) for name in ("round1-data", "reasoning-data", "single-data", "multi-turn-data")]
        for future in [summary, *others, start("single-fair-data", summary)]:
            future.result()
    cpu = os.times().children_user + os.times().children_system - used.children_user - used.children_system
    print(f"\nall: {time.monotonic() - began:.0f} s, {cpu:.0f} s of CPU time")
    if not given.keep:
        shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
