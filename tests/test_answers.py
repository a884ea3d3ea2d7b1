"""Extraction and comparison of answers: what rules settle, what they refuse to guess."""

import pytest

from insightv.answers import correct, extract, letter, normalise, settle
from insightv.config import UserError
from insightv.records import AnswerType, Problem


def problem(kind: AnswerType, *answers: str, options: tuple[str, ...] = ()) -> Problem:
    return Problem(id="p", question="?", answers=answers, answer_type=kind, options=options)


COLOURS = problem("choice", "B", options=("red", "blue", "dark blue", "a cat"))
COUNT = problem("number", "7")
MORE = problem("yes_no", "yes")
NAME = problem("text", "Eiffel Tower", "the tower of Eiffel")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B. blue", "B"),
        ("B) blue", "B"),
        ("Option B", "B"),
        ("blue", "B"),
        ("Dark Blue.", "C"),
        ("The answer is (B).", "B"),
        ("So the correct option is B", "B"),
        ("Answer: blue", "B"),
        ("I compare both.\nAnswer: C\nAnswer: B", "B"),
        ("Answer: C\n<output>B</output>", "B"),
        ("we get $\\boxed{\\text{blue}}$ at last", "B"),
        ("cat", "D"),
        ("Z", "Z"),
        ("B. red", ""),
        ("It is not red", ""),
        ("A or B", ""),
        ("blue or red", ""),
        ("", ""),
        ("   \n ", ""),
        ("<output></output>", ""),
        ("A man stands there", ""),
    ],
)
def test_a_choice_is_found_or_left_empty(reply: str, expected: str) -> None:
    assert extract(reply, COLOURS) == expected


def test_a_letter_that_is_also_an_options_text_is_a_letter() -> None:
    swapped = problem("choice", "A", options=("B", "A"))
    assert extract("A", swapped) == "A"
    assert extract("x", problem("choice", "B", options=("y", "x"))) == "B"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("7", "7"),
        ("Answer: 7", "7"),
        ("There are 7 of them.", "7"),
        ("seven", "seven"),
        ("I count.\nThe final answer is: 1,234", "1,234"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("either 6 or 7", ""),
        ("no number here", ""),
    ],
)
def test_a_number_is_found_only_when_it_stands_alone(reply: str, expected: str) -> None:
    assert extract(reply, COUNT) == expected


@pytest.mark.parametrize(("reply", "expected"), [("Yes", "yes"), ("No, there are fewer.", "no"), ("True.", "yes"), ("**Answer:** no", "no")])
def test_yes_and_no_are_reduced_to_one_word(reply: str, expected: str) -> None:
    assert extract(reply, MORE) == expected


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("7", "7", True),
        ("7.0", "7", True),
        ("seven", "7", True),
        ("7 apples", "7", True),
        ("8", "7", False),
        ("-7", "7", False),
        ("$1,234.50", "1234.5", True),
        ("1/2", "0.5", True),
        ("\\frac{1}{2}", "0.5", True),
        ("3.14", "3.14159", True),
        ("3.1", "3.14159", False),
        ("45%", "45", True),
        ("45%", "0.45", None),
        ("5 million", "5000000", True),
        ("150 cm", "150 m", False),
        ("about nine or so, I think", "9", None),
        ("1/0", "1", None),
        (".5", "0.5", True),
        ("12,34", "12", None),
        ("9" * 5000, "9", None),
        ("", "7", False),
    ],
)
def test_numbers_agree_by_value_and_unit(answer: str, truth: str, expected: bool | None) -> None:
    assert correct(answer, problem("number", truth)) is expected


@pytest.mark.parametrize(
    ("answer", "asked", "expected"),
    [
        ("B", COLOURS, True),
        ("blue", COLOURS, True),
        ("A", COLOURS, False),
        ("Z", COLOURS, False),
        ("something bluish", COLOURS, None),
        ("Yes.", MORE, True),
        ("no", MORE, False),
        ("perhaps", MORE, None),
        ("the EIFFEL tower.", NAME, True),
        ("Tower of Eiffel", NAME, True),
        ("Tour Eiffel", NAME, None),
        ("", NAME, False),
    ],
)
def test_rules_settle_what_they_can_and_leave_the_rest_to_a_judge(answer: str, asked: Problem, expected: bool | None) -> None:
    assert correct(answer, asked) is expected


@pytest.mark.parametrize(
    ("text", "asked", "expected"),
    [
        ("I see 7 here", COUNT, True),
        ("I see 8 here", COUNT, False),
        ("either 6 or 7", COUNT, None),
        ("The answer is (B).", COLOURS, True),
        ("B. red", COLOURS, None),
        ("Yes, there are more.", MORE, True),
        ("It is the Eiffel Tower", NAME, True),
        ("I see the Eiffel Tower here", NAME, None),
        ("", COUNT, False),
        (" \n ", COLOURS, False),
    ],
)
def test_the_answer_inside_a_text_is_found_before_it_is_compared(text: str, asked: Problem, expected: bool | None) -> None:
    assert settle(text, asked) is expected


def test_normalise_keeps_a_lone_article_and_drops_mark_up() -> None:
    assert normalise(" a ") == "a"
    assert normalise("**The  Red\u00a0Square**.") == "red square"
    assert normalise("$\\text{ABC}$") == "abc"


def test_letters_end_at_z() -> None:
    assert (letter(0), letter(25)) == ("A", "Z")
    with pytest.raises(UserError, match=r"^option 27: .* 26 options at most$"):
        letter(26)
