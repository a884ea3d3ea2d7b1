"""Rules for free text: against frozen verdicts of lmms-eval 0.7.3 and VLMEvalKit, and by hand where harnesses and benchmarks disagree."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightv.evaluation.scorers.texts import anls, begins_with_yes_or_no, contains, relaxed, relaxed_number, says_yes_or_no
from insightv.evaluation.scorers.vqa import vqa_accuracy, worded

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "golden" / "texts.jsonl").open()]


@pytest.mark.parametrize("row", GOLDEN, ids=range(len(GOLDEN)))
def test_harnesses_verdicts_are_met(row: dict[str, Any]) -> None:
    reply, accepted = row["reply"], row["accepted"]
    lmms = {
        "vqa": vqa_accuracy(reply, accepted),
        "chart": relaxed(reply, accepted[0]),
        "ocr": contains(reply, accepted[:2], fold=True),
        "hme": contains(reply, accepted[:2], formula=True),
        "mme": begins_with_yes_or_no(reply, loose=True) or "other",
        "anls": anls(reply, accepted[:3]),
    }
    vlmeval = {"vqa": vqa_accuracy(reply, accepted, separate=False), "anls": anls(reply, accepted[:3]), "chart": relaxed(reply.strip(), accepted[0])}
    assert lmms == pytest.approx(row["lmms"], abs=1e-9) and vlmeval == pytest.approx(row["vlmeval"], abs=1e-9)


@pytest.mark.parametrize(
    ("reply", "answer", "harness", "paper"),
    [
        ("0.0", "0", False, True),  # a gold 0 is a number too
        ("0.04", "0", False, False),
        ("2000", "2,000", False, True),
        ("2,090", "2000", False, True),
        ("2,9", "29", False, False),  # no separator of thousands
        ("12%", "0.12", True, True),
        ("12", "12%", False, False),
        ("104.9", "100", True, True),
        ("105.1", "100", False, False),
        ("Yes ", "yes", False, True),
    ],
)
def test_relaxed_accuracy_of_harnesses_and_of_the_paper(reply: str, answer: str, harness: bool, paper: bool) -> None:
    assert (relaxed(reply, answer), relaxed_number(reply, answer)) == (harness, paper)


def test_an_answer_of_ocrbench_is_found_within_a_word() -> None:
    """The benchmark's published rule, so `official` has it too."""
    assert contains("It happens often.", ["ten"]) and not contains("It happens.", ["ten"])
    assert contains("x ^ 2 +\ny", ["x^2 + y"], formula=True) and not contains("X^2", ["x^2"], formula=True)
    assert contains("\uff26\uff35\uff2c\uff2c", ["full"], fold=True) and not contains("\uff26\uff35\uff2c\uff2c", ["full"])


@pytest.mark.parametrize(
    ("reply", "own", "loose", "anywhere"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("no.", "no", "no", "no"),
        ("N", None, "no", None),
        ("not sure", "no", "no", None),
        ("I know", None, None, None),
        ("know", "no", "no", None),
        ("The answer is yes.", None, None, "yes"),
        ("yes, no or both", "yes", "yes", None),
        ("**Yes**", None, None, None),
        ("..yes", None, "yes", "yes"),
        ("", None, None, None),
        ("x", None, None, None),
        (" YES, it is", "yes", "yes", "yes"),
    ],
)
def test_yes_and_no_at_the_beginning_and_anywhere(reply: str, own: str | None, loose: str | None, anywhere: str | None) -> None:
    assert (begins_with_yes_or_no(reply), begins_with_yes_or_no(reply, loose=True), says_yes_or_no(reply)) == (own, loose, anywhere)


def test_vqa_leaves_each_annotator_out() -> None:
    assert vqa_accuracy("Stop!", ["stop"] * 3 + ["go"] * 7) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert vqa_accuracy("stop", ["stop"] * 10) == 1.0 and vqa_accuracy("x", ["stop"] * 10) == 0.0
    assert worded("The two dogs aren't John's.") == "2 dogs aren't john 's" and worded("Ten, dont") == "10 don't"


def test_anls_is_nothing_below_a_half() -> None:
    assert anls("Jan 1", ["jan  1"]) == pytest.approx(1.0) and anls("abcd", ["abxx"]) == 0.5 and anls("abcd", ["axxx"]) == 0.0
    assert anls("", [""]) == 1.0 and anls("1 Jan", ["Jan 1", "1 Jan"]) == 1.0


@given(st.text(max_size=30), st.lists(st.text(max_size=10), min_size=1, max_size=10))
def test_no_rule_fails_on_any_text(reply: str, accepted: list[str]) -> None:
    assert 0 <= anls(reply, accepted) <= 1 and 0 <= vqa_accuracy(reply, accepted) <= 1 and 0 <= vqa_accuracy(reply, accepted, separate=False) <= 1
    assert isinstance(relaxed(reply, accepted[0]), bool) and isinstance(relaxed_number(reply, accepted[0]), bool)
    assert isinstance(contains(reply, accepted, fold=True), bool) and begins_with_yes_or_no(reply) in (None, "yes", "no")
