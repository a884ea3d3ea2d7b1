"""Training problems without those that a benchmark shows too: out of a folder or a file of problems, into a folder of their own."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import orjson

from insightv import __version__
from insightv.config import DecontaminateConfig, UserError
from insightv.datasets.contamination import Item, Overlap, Shown, bare, checked
from insightv.datasets.pictures import Picture
from insightv.datasets.sources import read_problems
from insightv.evaluation.benchmarks import find, read_items
from insightv.files import replacing
from insightv.images import digest
from insightv.records import Problem
from insightv.store import Images, ImageStore, read_manifest


def shown(benchmarks: Mapping[str, Path | None], settings: DecontaminateConfig) -> Shown:
    """What the benchmarks show, read side by side; a name, a file or a row that is of no use is a `UserError`."""
    for name, path in benchmarks.items():
        find(name)
        if path and not path.exists():
            raise UserError(f"{name}: there is no file or folder {path}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = list(pool.map(lambda one: list(_items(*one)), benchmarks.items()))
    return Shown((item for items in read for item in items), settings)


def clean(problems: Iterable[Problem], images: Images, known: Shown, removed: IO[bytes], counts: Counter[str], **where: str) -> Iterator[Problem]:
    """The problems that no benchmark shows; of the others each overlap becomes a line of `removed` (with `where`), and is counted.

    `counts` has `removed` problems, and those by benchmark (`NAME`) and by what they share (`NAME by picture`).
    """
    for problem, overlaps in checked(problems, images, known):
        if not overlaps:
            yield problem
            continue
        counts["removed"] += 1
        for overlap in overlaps:
            counts[overlap.benchmark] += 1
            counts[f"{overlap.benchmark} by {overlap.by}"] += 1
            removed.write(_line(problem, overlap, where))


def decontaminate(data: Path, out: Path, benchmarks: Mapping[str, Path | None], settings: DecontaminateConfig) -> list[dict[str, object]]:
    """Write what is left of `data`, a folder of an import or a file of problems, to `out` as an import does, with `removed.jsonl`; returns counts.

    `data` stays as it is. Images are linked where the file system can, else copied. Nothing left is a `UserError`.
    """
    path = data / "problems.jsonl" if data.is_dir() else data
    if path.parent.resolve() == out.resolve():
        raise UserError(f"{out} holds {path.name} itself, and nothing is overwritten; choose another folder")
    source, target = ImageStore(path.parent / "images"), ImageStore(out / "images", cache=0)
    known, counts = shown(benchmarks, settings), Counter[str]()
    with replacing(out / "problems.jsonl") as file, replacing(out / "removed.jsonl") as removed:
        for problem in clean(read_problems(path), source, known, removed, counts):
            counts["kept"] += 1
            for name in problem.images:
                target.adopt(name, source)
            file.write(problem.model_dump_json().encode() + b"\n")
    if not counts["kept"]:
        raise UserError(f"{path}: of {counts['removed']} problems none is left; see {out / 'removed.jsonl'}")
    rows = _counted(benchmarks, known, counts)
    facts = {
        "tool": {"insightv": __version__},
        "problems": counts["kept"],
        "removed": counts["removed"],
        **settings.model_dump(mode="json"),
        "benchmarks": rows,
    }
    with replacing(out / "manifest.json") as file:
        file.write(orjson.dumps(read_manifest(path.parent) | {"decontaminated": facts}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
    return [*rows, {"benchmark": "all", "items": known.counts.total(), "removed": counts["removed"], "picture": "", "question": "", "both": ""}]


def _items(name: str, path: Path | None) -> Iterator[Item]:
    looks: dict[str, Picture] = {}

    def keep(picture: Picture) -> str:
        seen = digest(picture.data)
        looks.setdefault(seen, bare(picture))
        return seen

    for problem in read_items(name, str(path or ""), keep):
        question = problem.meta["row"].get("question")
        yield Item(name, problem.meta["index"], str(question or ""), tuple(looks[image] for image in problem.images))


def _line(problem: Problem, overlap: Overlap, where: Mapping[str, str]) -> bytes:
    facts = {name: value for name, value in asdict(overlap).items() if value not in (None, "")}
    return orjson.dumps({**where, "problem_id": problem.id, "question": problem.question, **facts}) + b"\n"


def _counted(benchmarks: Mapping[str, Path | None], known: Shown, counts: Counter[str]) -> list[dict[str, Any]]:
    return [
        {"benchmark": name, "items": known.counts[name], "removed": counts[name]} | {by: counts[f"{name} by {by}"] for by in ("picture", "question", "both")}
        for name in benchmarks
    ]
