"""Our marks beside those of the real functions, on replies meant to tell rules apart: `make conformance HARNESS=PYTHON VLMEVAL=FOLDER OFFICIAL=FOLDER`.

PYTHON is the interpreter of an environment with lmms-eval 0.7.3; VLMEVAL a clone of VLMEvalKit at e8e78f0; OFFICIAL the published scripts, as
official_marks.py says. What is not named is left out.
"""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from insightv.evaluation.profiles import LMMS, PROFILES, VLMEVAL, mark
from tests.conformance.replies import LAYOUTS, reply, row

HARNESS = os.environ.get("CONFORMANCE_HARNESS", "")
FOLDERS = {name: os.environ.get(f"CONFORMANCE_{name}", "") for name in ("VLMEVAL", "OFFICIAL")}
REPLIES = int(os.environ.get("CONFORMANCE_REPLIES", "20000"))
GOLDEN = Path(__file__).parents[1] / "evaluation" / "golden" / "marks.jsonl"
UNPUBLISHED = ("chartqa", "docvqa")
"""Benchmarks of which there is no script by their authors that says more than their paper: held to it by hand."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HARNESS, reason="CONFORMANCE_HARNESS names no interpreter")]

Line = dict[str, Any]


def script(profile: str, benchmark: str) -> str:
    """Which of the scripts beside this one has the profile's rule of a benchmark; empty if none does."""
    if profile == "official":
        return "" if benchmark in UNPUBLISHED else "vlmeval" if benchmark in ("mmbench", "ai2d", "ai2d-no-mask") else "official"
    return {LMMS: "lmms", VLMEVAL: "vlmeval"}[profile]


def real(name: str, lines: list[Line]) -> list[Line]:
    """What the real functions make of the lines; skips where these are not at hand."""
    folder = FOLDERS.get(name.upper(), HARNESS)
    if not folder:
        pytest.skip(f"CONFORMANCE_{name.upper()} names no folder")
    command, given = [HARNESS, str(Path(__file__).with_name(f"{name}_marks.py"))], "".join(json.dumps(line) + "\n" for line in lines)
    ended = subprocess.run(command, input=given, capture_output=True, text=True, env=os.environ | {name.upper(): folder})
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]


def drawn(profile: str, benchmark: str, count: int, seed: str) -> list[Line]:
    random, lines = Random(f"{benchmark} {seed}"), []
    while len(lines) < count:
        given = row(benchmark, LAYOUTS[len(lines) // 5 % 2], random)
        lines += [{"profile": profile, "benchmark": benchmark, "row": given, "reply": reply(benchmark, given, random)} for _ in range(5)]
    return lines


def differs(line: Line, found: Line) -> bool:
    """Where the real function guesses, ours has read nothing."""
    ours = mark(line["profile"], line["benchmark"], line["reply"], line["row"])
    if found["guess"]:
        return ours.read is not None
    return abs(ours.value - found["value"]) > 1e-9 or (found["read"] is not None and ours.read != found["read"])


@pytest.mark.parametrize("benchmark", PROFILES["official"])
@pytest.mark.parametrize("profile", PROFILES)
def test_marks_are_those_of_the_real_functions(profile: str, benchmark: str) -> None:
    if not (name := script(profile, benchmark)):
        pytest.skip("its authors published no script")
    lines = drawn(profile, benchmark, REPLIES, "fuzz")
    found = real(name, lines)
    # MathVista's own rule has a reading of ours where its authors ask a model.
    compared = [pair for pair in zip(lines, found, strict=True) if not (pair[1]["guess"] and (profile, benchmark) == ("official", "mathvista"))]
    wrong = [(line, told) for line, told in compared if differs(line, told)]
    counts = Counter(told["guess"] for told in found)
    right = sum(told["value"] for told in found if not told["guess"])
    print(f"\n{profile} {benchmark}: {len(wrong)} of {len(compared)} differ; {counts[True]} by chance or a judge; {right:.0f} right")
    for line, told in wrong[:5]:
        print(f"  {line['reply']!r} of {line['row']}: {mark(profile, benchmark, line['reply'], line['row'])}, {told}")
    assert len(wrong) <= len(compared) / 1000 and right > len(lines) / 100
