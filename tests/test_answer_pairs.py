"""A table of answers beside accepted ones (`answers.yaml`), and what holds of any answer: no rule says right of what is not."""

import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from insightv.answers import settle
from insightv.records import AnswerType, Problem

GROUPS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("answers.yaml").read_text(encoding="utf-8"))
PAIRS = [(group, *case) for group in GROUPS for case in group["cases"]]


def problem(kind: AnswerType, accepted: str, question: str = "?", options: list[str] | None = None) -> Problem:
    return Problem(id="p", question=question, answers=(accepted,), answer_type=kind, options=tuple(options or ()))


@pytest.mark.parametrize(("group", "answer", "accepted", "expected"), PAIRS, ids=lambda value: value["kind"] if isinstance(value, dict) else str(value))
def test_rules_settle_a_pair_as_the_table_says(group: dict[str, Any], answer: str, accepted: str, expected: bool | None) -> None:
    assert settle(answer, problem(group["type"], accepted, group.get("question", "?"), group.get("options"))) is expected


def test_the_table_is_large_and_has_all_three_outcomes() -> None:
    outcomes = [expected for *_, expected in PAIRS]
    assert len(PAIRS) >= 250
    assert min(outcomes.count(value) for value in (True, False, None)) >= 40


DECIMALS = st.decimals(-10_000, 10_000, places=1, allow_nan=False)
KINDS = st.sampled_from(["choice", "number", "yes_no", "text"])


@given(DECIMALS, DECIMALS, st.sampled_from(["", " km", " kg", "%", " apples", " \u00b0C"]))
def test_numbers_that_differ_are_never_right(one: Any, other: Any, unit: str) -> None:
    found = settle(f"{one}{unit}", problem("number", f"{other}{unit}"))
    assert found is (Fraction(one) == Fraction(other))


@given(st.integers(0, 10**9), st.sampled_from(["{:,}", "{}.0", "{}", "+{}", "The answer is {}.", "**{}**", "{:e}", "\\boxed{{{}}}"]))
def test_an_integer_is_itself_in_any_of_its_forms(value: int, form: str) -> None:
    written = form.format(value)
    exact = "e+" not in written or float(written) == value
    assert settle(written, problem("number", str(value))) is exact


@given(st.integers(1, 999), st.sampled_from([("km", "m", 1000), ("m", "cm", 100), ("cm", "mm", 10), ("kg", "g", 1000), ("l", "ml", 1000), ("h", "min", 60)]))
def test_a_unit_is_converted_and_never_dropped(value: int, units: tuple[str, str, int]) -> None:
    large, small, factor = units
    assert settle(f"{value * factor} {small}", problem("number", f"{value} {large}")) is True
    assert settle(f"{value} {small}", problem("number", f"{value} {large}")) is False


@given(
    st.sampled_from(["7", "seven", "red", "March 5, 2024", "3:05 pm", "5 km", "red, blue and green", "Eiffel Tower"]),
    st.sampled_from(
        ["not {}", "It is not {}", "{} or 9", "no {}", "more than {}", "anything but {}", "between {} and 9", "not {}, 9", "{} is wrong", "half of {}"]
    ),
    st.sampled_from(["number", "text"]),
)
def test_an_answer_that_is_taken_back_is_never_right(accepted: str, form: str, kind: AnswerType) -> None:
    assert settle(form.format(accepted), problem(kind, accepted)) is not True


@settings(max_examples=300)
@given(
    st.text(max_size=40) | st.from_regex(r"[0-9 .,:/$%a-eA-E一二十百万-]{1,12}", fullmatch=True),
    KINDS,
    st.text(max_size=10),
    st.lists(st.text(max_size=8), max_size=4),
)
def test_no_answer_breaks_the_rules_or_differs_from_itself(text: str, kind: AnswerType, other: str, options: list[str]) -> None:
    settle(text, problem(kind, other, other, options))
    settle(other, problem(kind, text, text, options))
    if text.strip() and kind != "choice":
        assert settle(text, problem(kind, text)) is not False


@pytest.mark.parametrize(
    "text", ["(" * 50_000, " " * 50_000 + "x", "9" * 50_000, "1," * 30_000, "a;" * 30_000, "\\text{" * 20_000, "$" * 50_000, "yes " * 20_000]
)
@pytest.mark.parametrize("kind", ["choice", "number", "yes_no", "text"])
def test_a_long_answer_takes_no_long_time(text: str, kind: AnswerType) -> None:
    began = time.process_time()
    settle(text, problem(kind, "7", options=["red", "7"]))
    assert time.process_time() - began < 2
