"""The real functions of scoring, asked by a script each in the environment that is named: what is compared, and what is frozen.

`CONFORMANCE_HARNESS` names the interpreter of an environment with lmms-eval 0.7.3, `CONFORMANCE_VLMEVALKIT` a clone of VLMEvalKit at e8e78f0,
`CONFORMANCE_OFFICIAL` the published scripts, as official_marks.py says.

`python -m tests.conformance.harnesses` writes tests/evaluation/golden/marks.jsonl and totals.jsonl anew.
"""

import json
import os
import subprocess
from pathlib import Path
from random import Random
from typing import Any

from insightv.evaluation.profiles import LMMS, PROFILES, VLMEVAL
from tests.conformance.replies import LAYOUTS, reply, row, whole

Line = dict[str, Any]

HARNESS = os.environ.get("CONFORMANCE_HARNESS", "")
VARIABLES = {"lmms": "CONFORMANCE_HARNESS", "vlmeval": "CONFORMANCE_VLMEVALKIT", "official": "CONFORMANCE_OFFICIAL"}
FOLDERS = {name: os.environ.get(variable, "") for name, variable in VARIABLES.items()}
GOLDEN = Path(__file__).parents[1] / "evaluation" / "golden"
ROWS, REPLIES = 6, 7
"""Frozen of each benchmark and layout, and of each row."""
UNPUBLISHED = ("chartqa", "docvqa")
"""Benchmarks whose authors published no script that says more than their paper: held to it by hand."""
TOTALS = {"official": ("mme",), LMMS: ("mmstar", "mme", "mmbench"), VLMEVAL: ("mmstar", "mme", "mmbench", "ocrbench")}
"""Benchmarks whose totals are more than a mean, or are said by a function of their own."""


def script(profile: str, benchmark: str) -> str:
    """Which script has the profile's rule of a benchmark; empty if none does. MMBench's own rule is VLMEvalKit's."""
    if profile == "official":
        return "" if benchmark in UNPUBLISHED else "vlmeval" if benchmark in ("mmbench", "ai2d", "ai2d-no-mask") else "official"
    return {LMMS: "lmms", VLMEVAL: "vlmeval"}[profile]


def real(name: str, lines: list[Line]) -> list[Line]:
    """What the real functions make of the lines."""
    command, given = [HARNESS, str(Path(__file__).with_name(f"{name}_marks.py"))], "".join(json.dumps(line) + "\n" for line in lines)
    ended = subprocess.run(command, input=given, capture_output=True, text=True, env=os.environ | {name.upper(): FOLDERS[name]})
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]


def drawn(profile: str, benchmark: str, count: int, seed: str) -> list[Line]:
    """Lines in both layouts, five replies to a row."""
    random, lines = Random(f"{benchmark} {seed}"), []
    while len(lines) < count:
        given = row(benchmark, LAYOUTS[len(lines) // 5 % 2], random)
        lines += [{"profile": profile, "benchmark": benchmark, "row": given, "reply": reply(benchmark, given, random)} for _ in range(5)]
    return lines


def drawn_wholes(profile: str, seed: str) -> list[Line]:
    """Small files in both layouts."""
    files = [(name, layout) for name in TOTALS[profile] for layout in LAYOUTS]
    return [{"profile": profile, "benchmark": name, "items": whole(name, layout, Random(f"{name} {layout} {seed}"))} for name, layout in files]


def freeze() -> None:
    """Writes the frozen marks: of each row its replies, of each reply by profile (value, read), None where the real function guesses or none is."""
    given = []
    for benchmark in PROFILES["official"]:
        for layout in LAYOUTS:
            random = Random(f"{benchmark} {layout} golden")
            rows = [row(benchmark, layout, random) for _ in range(ROWS)]
            given += [{"benchmark": benchmark, "row": one, "replies": [reply(benchmark, one, random) for _ in range(REPLIES)]} for one in rows]
    lines = [{"benchmark": one["benchmark"], "row": one["row"], "reply": said} for one in given for said in one["replies"]]
    marks: list[dict[str, Any]] = [{} for _ in lines]
    for profile in PROFILES:
        for name in FOLDERS:
            places = [place for place, line in enumerate(lines) if script(profile, line["benchmark"]) == name]
            for place, found in zip(places, real(name, [lines[place] | {"profile": profile} for place in places]), strict=True):
                marks[place][profile] = None if found["guess"] else [found["value"], found["read"]]
    with (GOLDEN / "marks.jsonl").open("w", encoding="utf-8") as file:
        for number, one in enumerate(given):
            told = marks[number * REPLIES : (number + 1) * REPLIES]
            file.write(json.dumps(one | {"marks": told}, ensure_ascii=False) + "\n")
    with (GOLDEN / "totals.jsonl").open("w", encoding="utf-8") as file:
        for profile in PROFILES:
            lines = drawn_wholes(profile, "golden")
            for line, found in zip(lines, real({"official": "official", LMMS: "lmms", VLMEVAL: "vlmeval"}[profile], lines), strict=True):
                file.write(json.dumps(line | found, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    freeze()
