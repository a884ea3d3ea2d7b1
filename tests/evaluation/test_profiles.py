"""Marks and totals under each profile: frozen ones of the real functions, cases on which rules disagree, and how totals are made."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightv.evaluation.profiles import PROFILES, mark
from insightv.evaluation.totals import Scored, Total, total
from tests.conformance import replies

GOLDEN = Path(__file__).parent / "golden"
Line = dict[str, Any]


def lines(name: str) -> list[Line]:
    return [json.loads(line) for line in (GOLDEN / name).open(encoding="utf-8")]


def total_of(line: Line) -> Total:
    """Of the rows and replies of one small file."""
    scored = []
    for number, (row, reply) in enumerate(line["items"]):
        cluster = row.get("question_id", row.get("image_path", int(row["index"]) % 10**6 if "index" in row else number))
        scored.append(Scored(str(number), str(cluster), row, mark(line["profile"], line["benchmark"], reply, row).value))
    return total(line["profile"], line["benchmark"], scored, resamples=20)


@pytest.mark.parametrize("benchmark", PROFILES["official"])
@pytest.mark.parametrize("profile", PROFILES)
def test_frozen_marks_of_the_real_functions_are_met(profile: str, benchmark: str) -> None:
    for line in lines("marks.jsonl"):
        for reply, marks in zip(line["replies"], line["marks"], strict=True):
            if line["benchmark"] != benchmark or profile not in marks:
                continue
            ours = mark(profile, benchmark, reply, line["row"])
            if marks[profile] is None:
                # Drawn by chance, or asked of a model; there MathVista's own profile has a reading of ours.
                assert ours.read is None or (profile, benchmark) == ("official", "mathvista"), reply
            else:
                value, read = marks[profile]
                assert ours.value == pytest.approx(value, abs=1e-9) and read in (None, ours.read), (reply, line["row"])


@pytest.mark.parametrize("line", lines("totals.jsonl"), ids=lambda line: f"{line['profile']}-{line['benchmark']}")
def test_frozen_totals_of_the_real_functions_are_met(line: Line) -> None:
    assert total_of(line).score.value == pytest.approx(line["value"], abs=1e-9)


@given(st.text(max_size=60), st.integers(0, 10**6))
def test_no_rule_fails_on_any_text_or_credits_what_it_has_not_read(reply: str, seed: int) -> None:
    for profile, rules in PROFILES.items():
        for benchmark in rules:
            found = mark(profile, benchmark, reply, replies.row(benchmark, replies.LAYOUTS[seed % 2], Random(seed)))
            assert 0 <= found.value <= (found.read is not None), (profile, benchmark)
