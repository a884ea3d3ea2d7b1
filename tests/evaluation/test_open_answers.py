"""MMMU's open questions: frozen verdicts of its own code as lmms-eval 0.7.3 has it, and cases by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightv.evaluation.scorers.open_answers import mmmu_open

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "golden" / "open.jsonl").open()]


@pytest.mark.parametrize("row", GOLDEN, ids=range(len(GOLDEN)))
def test_the_benchmarks_own_verdicts_are_met(row: dict[str, Any]) -> None:
    assert mmmu_open(row["reply"], row["accepted"]) == row["lmms"]


@pytest.mark.parametrize(
    ("reply", "accepted", "right"),
    [
        ("1250.00", ["1250"], True),
        ("The total is 1,250 dollars.", ["1250"], True),
        ("It is 12 or 13.", ["12"], True),  # a substring of the end counts: the rule's own looseness
        ("First 7. So the answer is 8", ["7"], False),
        ("x = 0.333", ["1/3"], False),
        ("It is a red one", ["red"], True),
        ("a big bat", ["b"], True),  # the space beside it is enough
        ("a cab", ["b"], False),
        ("option b", ["b"], True),
        ("", ["5"], False),
    ],
)
def test_by_hand(reply: str, accepted: list[str], right: bool) -> None:
    assert mmmu_open(reply, accepted) == right


@given(st.text(max_size=60), st.lists(st.text(max_size=8), min_size=1, max_size=3))
def test_it_fails_on_no_text(reply: str, accepted: list[str]) -> None:
    assert mmmu_open(reply, accepted) in (True, False)
