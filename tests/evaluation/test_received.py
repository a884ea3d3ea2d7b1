"""What harnesses make of a reply, and what a row of either layout gives."""

import pytest

from insightv.evaluation.scorers.columns import accepted, is_formula, is_open, options, right_letter
from insightv.evaluation.scorers.received import lmms_received, vlmeval_received


@pytest.mark.parametrize(
    ("reply", "received"),
    [
        (" <think>a</think>\nB ", "B"),
        ("a</think>b</think> B", "B"),
        ("<think>a</think>b<think>c</think>d", "bd"),
        ("<think>no end: B", "<think>no end: B"),
        ("</think>x<think>B", "</think>x<think>B"),
        ("<THINK>a</THINK>B", "<THINK>a</THINK>B"),
        ("<think>a<analysis>b</think>c</analysis>B", "B"),
    ],
)
def test_lmms_eval_cuts_reasoning(reply: str, received: str) -> None:
    assert lmms_received(reply) == received


@pytest.mark.parametrize(
    ("reply", "received"),
    [
        ("", "nan"),
        ("None", "nan"),
        ("none", "none"),
        (" NA", " NA"),
        ("B\r\n", "B_x000D_\n"),
        ("a\x0bb\tc", "a_x000B_b\tc"),
        ("x" * 40_000 + "B", "x" * 32_767),
    ],
    ids=range(7),
)
def test_vlmevalkit_reads_replies_from_a_spreadsheet(reply: str, received: str) -> None:
    assert vlmeval_received(reply) == received


def test_options_of_every_layout() -> None:
    four = {"A": "one", "B": "nan", "C": "", "D": "None"}
    assert options({"options": ["x", "nan"]}) == options({"choices": ["x", "nan"]}) == {"A": "x", "B": "nan"}
    assert options(four) == {"A": "one", "D": "None"} and options({"options": [], "A": "x"}) == {}
    assert options({"question": "Options?\nOptions: A: 1, 2, B: two B: no, C: ,"}) == {"A": "1, 2", "B": "two B: no", "C": ","}
    assert options({"question": "Which? (A) one (B) two"}) == options({}) == {}


def test_answers_of_every_layout() -> None:
    assert accepted({"answers": ["a", 1]}) == ["a", "1"] and accepted({"answer": "a"}) == ["a"] and accepted({"answer": ["a", "b"]}) == ["a", "b"]
    assert right_letter({"options": ["x", "y"], "answer": "1"}) == "B" and right_letter({"answer": "B"}) == "B"
    assert is_open({"question_type": "open", "options": ["x"]}) and is_open({"A": "", "answer": "3"}) and not is_open({"A": "x"})
    formulas = "Handwritten Mathematical Expression Recognition"
    assert is_formula({"category": formulas}) and is_formula({"dataset": "HME100k"}) and not is_formula({"dataset": "IAM", "question_type": formulas})
