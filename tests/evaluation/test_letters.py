"""Which option a reply chooses: frozen verdicts of the harnesses' own functions, and replies on which they disagree."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightv.evaluation.scorers.letters import lmms_letter, mmmu_letter, vlmeval_letter

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "golden" / "letters.jsonl").open(encoding="utf-8")]


def by_letter(options: list[str]) -> dict[str, str]:
    return dict(zip("ABCDEFGH", options, strict=False))


@pytest.mark.parametrize("row", GOLDEN, ids=range(len(GOLDEN)))
def test_harnesses_verdicts_are_met(row: dict[str, Any]) -> None:
    reply, options = row["reply"], row["options"]
    assert (lmms_letter(reply, len(options)) or "") == row["lmms"]
    assert mmmu_letter(reply, options, loose=True) == row["mmmu"]
    assert vlmeval_letter(reply, by_letter(options)) == row["vlmeval"]


@pytest.mark.parametrize(
    ("reply", "lmms", "mmmu", "vlmeval"),
    [
        ("B", "B", "B", "B"),
        ("(B) dog", "B", "B", "B"),
        ("The answer is C", "C", "C", "C"),
        # Read as A, the article, by who looks at the start first.
        ("A dog is what I see so the answer is B", "A", "B", "B"),
        ("The answer is C. It was not A or B", "B", "B", "C"),
        ("I see a red bird in the tree", None, "D", "D"),
        ("red bird", None, None, "D"),
        ("", None, None, None),
        ("b", None, None, None),
        ("Because", "B", None, None),
    ],
)
def test_where_rules_disagree(reply: str, lmms: str | None, mmmu: str | None, vlmeval: str | None) -> None:
    options = ["cat", "dog", "fish", "red bird"]
    assert (lmms_letter(reply, 4), mmmu_letter(reply, options, loose=True), vlmeval_letter(reply, by_letter(options))) == (lmms, mmmu, vlmeval)


@pytest.mark.parametrize(
    ("reply", "own", "loose"),
    [
        ("The USB port.", None, "B"),
        ("It is B. A dog.", "A", "A"),
        ("B. dog", None, "B"),
        ("B", "B", "B"),
        ("It says DNA and C here", "C", "C"),
        ("**B**", None, None),
    ],
)
def test_mmmus_own_rule_wants_a_letter_that_stands_alone(reply: str, own: str | None, loose: str | None) -> None:
    options = ["cat", "hound", "fish", "red bird"]
    assert (mmmu_letter(reply, options), mmmu_letter(reply, options, loose=True)) == (own, loose)


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=10), min_size=2, max_size=8))
def test_no_rule_fails_or_invents_a_letter(reply: str, options: list[str]) -> None:
    letters = {*by_letter(options), None}
    assert lmms_letter(reply, len(options)) in letters and mmmu_letter(reply, options) in letters
    assert mmmu_letter(reply, options, loose=True) in letters
    assert vlmeval_letter(reply, by_letter(options)) in letters | {"Z"}
