"""Our marks and totals beside those of the real functions: `make conformance HARNESS=PYTHON VLMEVAL=FOLDER OFFICIAL=FOLDER`, see harnesses.py.

The replies are drawn, and meant to tell rules apart. What is not named is left out.
"""

import os
from collections import Counter

import pytest

from insightv.evaluation.profiles import PROFILES, mark
from tests.conformance.harnesses import FOLDERS, HARNESS, TOTALS, VARIABLES, Line, drawn, drawn_wholes, real, script
from tests.evaluation.test_profiles import total_of

REPLIES = int(os.environ.get("CONFORMANCE_REPLIES", "20000"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HARNESS, reason="CONFORMANCE_HARNESS names no interpreter")]


def differs(line: Line, found: Line) -> bool:
    """Where the real function guesses, ours has read nothing."""
    ours = mark(line["profile"], line["benchmark"], line["reply"], line["row"])
    if found["guess"]:
        return ours.read is not None
    return abs(ours.value - found["value"]) > 1e-9 or (found["read"] is not None and ours.read != found["read"])


@pytest.mark.parametrize("benchmark", PROFILES["official"])
@pytest.mark.parametrize("profile", PROFILES)
def test_marks_are_those_of_the_real_functions(profile: str, benchmark: str) -> None:
    name = script(profile, benchmark)
    if not FOLDERS.get(name):
        pytest.skip(f"{VARIABLES[name]} names no folder" if name else "its authors published no script")
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


@pytest.mark.parametrize("profile", TOTALS)
def test_totals_are_those_of_the_real_functions(profile: str) -> None:
    name = script(profile, "mme")
    if not FOLDERS[name]:
        pytest.skip(f"{VARIABLES[name]} names no folder")
    lines = [line for seed in range(20) for line in drawn_wholes(profile, str(seed))]
    for line, found in zip(lines, real(name, lines), strict=True):
        assert total_of(line).score.value == pytest.approx(found["value"], abs=1e-9), line["benchmark"]
