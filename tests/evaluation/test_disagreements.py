"""Each disagreement between rules that docs/scoring.md names: the verdict under every profile, `official` first."""

from typing import Any

import pytest

from insightv.config import UserError
from insightv.evaluation.profiles import PROFILES, mark

CHOICE = {"id": "validation_Art_1", "question_type": "multiple-choice", "options": ["cat", "dog", "fish", "red bird"], "answer": "C"}
TABLE = {"question": "Which?", "A": "cat", "B": "dog", "C": "fish", "D": "red bird", "answer": "C", "category": "x", "l2_category": "y", "index": "3"}
STAR = {"question": "Which?\nOptions: A: cat, B: dog, C: fish, D: red bird", "answer": "C", "category": "x", "l2_category": "y", "index": 3}
OPEN = {"id": "validation_Math_1", "question_type": "open", "options": []}
DIAGRAM = {"question": "Which?", "options": ["cat", "dog", "fish", "red bird"], "answer": "2"}
FLOAT = {"question_type": "free_form", "answer_type": "float", "choices": None, "precision": 1.0, "answer": "1.2"}
WHOLE = {"question_type": "free_form", "answer_type": "integer", "choices": None, "precision": None, "answer": "14"}
PICKED = {"question_type": "multi_choice", "answer_type": "text", "choices": ["135", "140", "1450"], "answer": "140"}
CHART = {"type": "human_test", "question": "How many?"}
READ = {"dataset": "svt", "question_type": "Regular Text Recognition", "answer": ["TEN"]}
STOP = {"answers": ["stop"] * 10}
TENTH = {"options": [f"option {n}" for n in range(10)], "answer": "J"}

CASES: list[tuple[str, dict[str, Any], str, float | None, float | None, float | None]] = [
    # "The answer is C", unread by AI2D's filter of lmms-eval alone.
    ("ai2d", DIAGRAM, "The answer is C", 1, None, 1),
    ("mmstar", STAR, "The answer is C", 1, 1, 1),
    ("mmmu", CHOICE, "The answer is C", 1, 1, 1),
    ("mmbench", TABLE, "The answer is C", 1, 1, 1),
    ("ai2d", DIAGRAM, "C. fish", 1, 1, 1),
    ("ai2d", DIAGRAM, "C) fish", 1, None, 1),
    ("ai2d", DIAGRAM, "c", None, 1, None),
    ("ai2d", DIAGRAM, "<think>the cat</think>C. fish", None, None, None),
    # "A dog .. so the answer is C": the article is taken for A at the start, by MMStar's own rule too.
    ("mmstar", STAR, "A dog is there, so the answer is C", 0, 0, 1),
    ("mmmu", CHOICE, "A dog is there, so the answer is C", 1, 1, 1),
    ("mmstar", STAR, "cats", 1, None, 0),
    ("mmstar", STAR | {"answer": "D"}, "The answer is A. Dog", 0, 1, 0),
    # Letters within words.
    ("mmmu", CHOICE, "The USB port.", None, 0, None),
    ("mmstar", STAR, "The USB port.", None, 0, None),
    ("mmmu", CHOICE, "C) fish", None, None, 1),
    ("mmmu", CHOICE, "the answer is c", None, None, 1),
    ("mmmu", CHOICE, "dunno", None, None, None),
    ("mmmu", CHOICE, "Cannot determine the answer", None, None, 0),
    # A letter of an answer that begins with it.
    ("mmbench", TABLE, "the answer is a fish or so, I really do not know", 0, 1, 0),
    # Open questions.
    ("mmmu", OPEN | {"answer": "1250"}, "1250.00", 1, 1, 1),
    ("mmmu", OPEN | {"answer": "1250"}, "1,250.00", 1, 1, None),
    ("mmmu", OPEN | {"answer": "250"}, "$1,250", 1, 1, 1),
    ("mmmu", OPEN | {"answer": ["24/7", "3.429"]}, "It is 3.43", 1, 0, None),
    ("mmmu", OPEN | {"answer": "C"}, "C", 1, 1, 0),
    # The last "Answer:", and letters beyond D.
    ("mmmu-pro", TENTH, "Not (A) or (B).\nAnswer: J", 1, 0, None),
    ("mmmu-pro", TENTH, "Answer: J. Because", 1, 1, 1),
    ("mmmu-pro", TENTH, "Answer: J, Because it is not (A).", 0, 0, None),
    ("mmmu-pro-vision", TENTH, "J.", 1, None, 1),
    ("mmmu-pro-vision", TENTH, "Answer: J", 1, None, 1),
    # Options that are nothing: "None" to VLMEvalKit, and "nan" a text to lmms-eval.
    ("mmbench", TABLE | {"C": "None"}, "None", 1, 1, None),
    ("mmbench", TABLE | {"D": ""}, "a banana, a fish", 1, None, 1),
    ("mmbench", TABLE | {"D": "nan"}, "a banana", None, 0, None),
    ("mme", {"answer": "Yes", "category": "OCR"}, "**Yes**", None, None, None),
    ("mme", {"answer": "Yes", "category": "OCR"}, "The answer is yes.", None, None, 1),
    ("mme", {"answer": "No", "category": "OCR"}, "know", 1, 1, None),
    ("mme", {"answer": "No", "category": "OCR"}, "N", None, 1, None),
    ("mme", {"answer": "No", "category": "OCR"}, "not", 1, 1, None),
    ("chartqa", CHART | {"answer": "0"}, "0.0", 1, 0, 0),
    ("chartqa", CHART | {"answer": "2,000"}, "2000", 1, 0, 0),
    ("chartqa", CHART | {"answer": "2000"}, "2,000", 1, 0, 0),
    ("chartqa", CHART | {"answer": "14"}, "14%", 0, 0, 0),
    ("chartqa", CHART | {"answer": "14"}, "The answer is 14", 0, 0, 0),
    # A published precision of 1.0 is no integer to round to.
    ("mathvista", FLOAT, "1.2", 1, None, 1),
    ("mathvista", FLOAT, "1.24", 1, None, None),
    ("mathvista", {name: value for name, value in FLOAT.items() if name != "precision"}, "1.20", 1, None, 1),
    ("mathvista", WHOLE, "14.0", 1, None, None),
    ("mathvista", WHOLE | {"answer": "0"}, "0", 1, 1, None),
    ("mathvista", WHOLE, "It is 14", None, None, None),
    ("mathvista", WHOLE | {"answer_type": "list", "answer": [1, 2]}, "[1, 2]", 1, None, None),
    ("mathvista", PICKED, "140", 1, 1, 1),
    ("mathvista", PICKED, "B", 1, None, 1),
    ("mathvista", PICKED, "It is (B) then", 1, None, 1),
    ("mathvista", PICKED, "(A) or (B)", None, None, None),
    ("mathvista", PICKED, 'The answer is "14o".', 1, None, None),
    # The option most similar to nothing is the shortest, and the first of these.
    ("mathvista", PICKED | {"answer": "135"}, "", None, 1, None),
    ("textvqa", {"answers": ["3."] * 4 + ["x"] * 6}, "3", 1, 1, 0),
    ("textvqa", STOP, "the stop", 1, 1, 1),
    ("textvqa", STOP, "<think>go</think> stop", 0, 1, 0),
    ("textvqa", {"answers": ["a"] * 10}, "", 1, 1, 0),
    ("textvqa", {"answers": ["well known"] * 10}, "well-known", 1, 1, 1),
    ("docvqa", {"answers": [""]}, "", 1, 1, 0),
    ("docvqa", {"answers": ["ITC Limited"]}, "", None, None, 0),
    ("docvqa", {"answers": ["abcd"]}, "abxx", 0.5, 0.5, 0.5),
    # Blanks at the end make an answer longer that is not quite right.
    ("docvqa", {"answers": ["abcd"]}, "abcx  ", 0.75, 0.75, 1 - 1 / 6),
    ("ocrbench", READ, "often", 1, 1, 1),
    ("ocrbench", READ, "\uff34\uff25\uff2e", 0, 1, 0),
    ("ocrbench", READ | {"answer": ["na"]}, "", None, None, 1),
    ("ocrbench", READ | {"answer": [""]}, "x", 1, 1, 1),
    ("ocrbench", {"category": "Handwritten Mathematical Expression Recognition", "answer": ["a + b"]}, "a+b", 1, 1, 1),
    ("ocrbench", {"category": "Handwritten Mathematical Expression Recognition", "answer": ["a + b"]}, "A+B", 0, 0, 0),
    # A carriage return becomes letters in VLMEvalKit's file.
    ("mmmu", CHOICE, "C\r\n", 1, 1, None),
    ("mmstar", STAR, "<think>\nSo it is C", None, 1, 1),
]


@pytest.mark.parametrize(("benchmark", "row", "reply", "own", "lmms", "vlmeval"), CASES)
def test_the_verdict_of_every_profile(benchmark: str, row: dict[str, Any], reply: str, own: float | None, lmms: float | None, vlmeval: float | None) -> None:
    marks = [mark(profile, benchmark, reply, row) for profile in PROFILES]
    assert [None if one.read is None else one.value for one in marks] == pytest.approx([own, lmms, vlmeval])
    assert all(one.value == 0 for one in marks if one.read is None)


@pytest.mark.parametrize("profile", PROFILES)
def test_both_layouts_have_one_verdict(profile: str) -> None:
    for reply in ("C", "fish", "It is (B).", "A", "a red bird", "", "None"):
        assert mark(profile, "mmmu", reply, CHOICE) == mark(profile, "mmmu", reply, TABLE)
        assert mark(profile, "mmstar", reply, STAR) == mark(profile, "mmstar", reply, TABLE)
        assert mark(profile, "ai2d", reply, DIAGRAM) == mark(profile, "ai2d", reply, TABLE)
        assert mark(profile, "mathvista", reply, PICKED) == mark(profile, "mathvista", reply, PICKED | {"answer_option": "B"})


def test_unknown_names_and_rows_without_an_answer() -> None:
    with pytest.raises(UserError, match=r"no scoring profile 'lmms'; there are official, "):
        mark("lmms", "mmmu", "A", CHOICE)
    with pytest.raises(UserError, match="no benchmark 'mmmmu'; there are mmmu, "):
        mark("official", "mmmmu", "A", CHOICE)
    with pytest.raises(UserError, match="its split has none"):
        mark("official", "docvqa", "x", {"answers": []})
