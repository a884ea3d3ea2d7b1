"""The truth about chains: gold ones are right throughout, and every kind of error is found and named."""

import pytest

from insightv.records import Chain, Problem, Step
from insightv.world.questions import FAMILIES, Question, parse, reason
from insightv.world.scenes import Chart, Grid, Scene, Table, Thing, to_json
from insightv.world.truth import chain_truth, check_step, check_steps, error_type, missing_steps

RED, BLUE, GREEN = Thing("red", "circle"), Thing("blue", "square"), Thing("green", "cross")
GRID = Grid((RED, None, BLUE, None, GREEN, Thing("red", "square"), None, None, None, None, Thing("blue", "cross"), Thing("red", "triangle")))
CHART = Chart((("red", 7), ("green", 3), ("blue", 12), ("yellow", 5)), (("K", "blue"), ("L", "red"), ("M", "yellow"), ("N", "green")))
TABLE = Table((1, 2, 3, 4, 9, 0, 5, 5, 7, 7, 8, 6))
QUESTIONS = {
    "attribute": ("What colour is the object at c1?", GRID),
    "height": ("How high is the blue bar?", CHART),
    "entry": ("What number is at b3?", TABLE),
    "count": ("How many red objects are there?", GRID),
    "extreme-bar": ("Which bar is the lowest?", CHART),
    "extreme-entry": ("What is the largest number in row 2?", TABLE),
    "relative": ("What shape is the object right of the green cross?", GRID),
    "arithmetic": ("What is K plus L plus M?", CHART),
    "row-sum": ("What is the sum of row 2?", TABLE),
}


def asked(family: str) -> tuple[Problem, Question, Scene]:
    text, scene = QUESTIONS[family]
    question = parse(text)
    assert question is not None and question.family == family
    answer = reason(question, scene).answer
    kind = "number" if answer.isdigit() else "text"
    return Problem(id=family, question=text, answers=(answer,), answer_type=kind, meta={"scene": to_json(scene)}), question, scene


def chain(family: str, *changes: tuple[str, str], leave_out: int | None = None, answer: str | None = None) -> tuple[Problem, Chain]:
    """The gold chain with replacements made in its text, which must occur."""
    problem, question, scene = asked(family)
    trace = reason(question, scene)
    text = "\n".join(f"{title}|{reasoning}" for title, reasoning in trace.steps)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    steps = [Step(summary=line.split("|")[0], reasoning=line.split("|")[1]) for line in text.split("\n")]
    steps = [step for place, step in enumerate(steps) if place != leave_out]
    given = trace.answer if answer is None else answer
    return problem, Chain(id="c", problem_id=problem.id, model="m", mode="single", index=0, steps=tuple(steps), conclusion=trace.conclusion, answer=given)


@pytest.mark.parametrize("family", FAMILIES)
def test_gold_chains_are_right(family: str) -> None:
    problem, gold = chain(family)
    assert chain_truth(problem, gold) == (1.0, True)
    assert error_type(problem, gold) == "none"


WRONG = [
    ("attribute", (("blue square", "blue circle"),), "perception"),
    ("attribute", (("c1 blue square", "a1 red circle"),), "selection"),
    ("height", (("c 12", "c 11"),), "perception"),
    ("height", (("blue c", "red a"),), "selection"),
    ("entry", (("b3 7", "b3 1"),), "perception"),
    ("count", (("Row 2: b2", "Row 2: none"),), "perception"),
    ("count", (("makes 3", "makes 4"),), "arithmetic"),
    ("count", (("Find red objects", "Find crosses"),), "selection"),
    ("count", (("a1, b2, d3 makes 3", "a1, b2 makes 2"),), "transcription"),
    ("count", (("Row 1: a1. ", ""),), "selection"),
    ("extreme-bar", (("is 3.", "is 5."),), "arithmetic"),
    ("extreme-bar", (("The lowest of", "The highest of"), ("is 3.", "is 12.")), "selection"),
    ("extreme-entry", (("a2 9", "a2 8"),), "perception"),
    ("extreme-entry", (("9, 0, 5, 5", "9, 0, 5, 6"),), "transcription"),
    ("extreme-entry", ((", d2 5", ""),), "selection"),
    ("relative", (("Right of a2 is b2", "Right of a2 is c2"),), "arithmetic"),
    ("relative", (("Right of a2 is b2", "Below a2 is a3"),), "selection"),
    ("relative", (("green cross a2", "green cross c3"),), "perception"),
    ("arithmetic", (("K blue", "K green"),), "perception"),
    ("arithmetic", (("12 plus 7 is 19", "12 plus 7 is 20"),), "arithmetic"),
    ("arithmetic", (("12 plus 7 is 19", "12 plus 5 is 17"),), "transcription"),
    ("arithmetic", (("12 plus 7 is 19", "12 minus 7 is 5"),), "selection"),
    ("row-sum", (("14 plus 5 is 19", "14 plus 5 is 18"),), "arithmetic"),
    ("row-sum", (("9 plus 5 is 14", "9 plus 4 is 13"),), "transcription"),
    ("row-sum", (("a2 9", "a1 1"),), "selection"),
    ("row-sum", (("a2 9", "I look around"),), "format"),
]


@pytest.mark.parametrize(("family", "changes", "fault"), WRONG)
def test_a_wrong_step_is_found_and_its_error_named(family: str, changes: tuple[tuple[str, str], ...], fault: str) -> None:
    problem, wrong = chain(family, *changes)
    share, right = chain_truth(problem, wrong)
    assert share < 1 and not right
    assert error_type(problem, wrong) == fault


def test_a_later_step_that_goes_on_rightly_from_a_wrong_fact_is_no_error_of_its_own() -> None:
    problem, wrong = chain("arithmetic", ("blue 12", "blue 11"), ("12 plus 7 is 19", "11 plus 7 is 18"), ("19 plus 5 is 24", "18 plus 5 is 23"))
    _, question, scene = asked("arithmetic")
    assert check_steps(wrong.steps, question, scene) == ["", "perception", "", ""]
    assert chain_truth(problem, wrong) == (0.75, False)


def test_a_missing_step_makes_the_chain_wrong_though_each_step_is_right() -> None:
    problem, thin = chain("row-sum", leave_out=2)
    _, question, scene = asked("row-sum")
    assert chain_truth(problem, thin) == (1.0, False)
    assert missing_steps(thin.steps, question, scene) == 1
    assert error_type(problem, thin) == "selection"


def test_the_place_of_a_cell_need_not_be_named() -> None:
    problem, short = chain("entry", leave_out=0)
    assert chain_truth(problem, short) == (1.0, True)


def test_a_wrong_answer_after_right_steps_is_a_transcription_error_and_none_is_one_of_format() -> None:
    problem, wrong = chain("count", answer="4")
    assert chain_truth(problem, wrong) == (1.0, False)
    assert error_type(problem, wrong) == "transcription"
    assert error_type(*chain("count", answer="")) == "format"


def test_titles_may_be_anything_as_long_as_the_claims_are_right() -> None:
    problem, renamed = chain("row-sum", ("Read row 2", "First I look"), ("Add", "One and another"), ("Add", "At last"))
    assert chain_truth(problem, renamed) == (1.0, True)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        *[("Found 3.", True), ("That makes 3.", True), ("The count is 3.", True)],
        *[("Found 2.", False), ("That makes 2.", False), ("The count is 4.", False), ("", False)],
    ],
)
def test_a_result_without_its_detail_is_held_against_the_scene(text: str, right: bool) -> None:
    _, question, scene = asked("count")
    assert check_step(Step(summary="Count", reasoning=text), question, scene) is right


def test_steps_about_anything_can_be_held_against_any_question() -> None:
    steps = [step for family in FAMILIES for step in chain(family)[1].steps] + [Step(summary="Add", reasoning=f"{'9' * 5000} plus 1 is 2.")]
    for family in FAMILIES:
        problem, own = chain(family)
        mixed = own.model_copy(update={"steps": (*steps, *own.steps)})
        assert chain_truth(problem, mixed)[1] is False
        assert error_type(problem, mixed) != "none"


def test_an_empty_chain_is_wrong_in_format() -> None:
    problem, gold = chain("count")
    empty = gold.model_copy(update={"steps": ()})
    assert chain_truth(problem, empty) == (0.0, False)
    assert error_type(problem, empty) == "format"


def test_a_problem_from_elsewhere_has_no_known_truth() -> None:
    problem, gold = chain("count")
    with pytest.raises(ValueError, match="not one of the tiny world"):
        chain_truth(problem.model_copy(update={"meta": {}}), gold)
