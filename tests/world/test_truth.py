"""The truth about chains: gold ones are right throughout, and every kind of error is found and named."""

import pytest

from insightv.records import Chain, Problem, Step
from insightv.world.questions import FAMILIES, Question, parse, reason
from insightv.world.scenes import Chart, Grid, Scene, Table, Thing, to_json
from insightv.world.truth import chain_truth, check_steps, error_type, missing_steps

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
    ("height", (("blue 12", "blue 11"),), "perception"),
    ("height", (("blue c", "red a"),), "selection"),
    ("entry", (("b3 7", "b3 1"),), "perception"),
    ("count", (("objects: b2", "objects: none"), ("total 2", "total 1"), ("total 3", "total 2")), "perception"),
    ("count", (("total 3", "total 4"),), "arithmetic"),
    ("count", (("Row 1 red objects: a1", "Row 1 crosses: none"),), "selection"),
    ("count", (("b2, total 2", "b2, total 1"),), "arithmetic"),
    ("count", (("Row 1 red objects: a1", "Row 1 red objects: a2"),), "perception"),
    ("extreme-bar", (("lowest green 3.", "lowest red 7."),), "arithmetic"),
    ("extreme-bar", (("lowest green 3.", "highest red 7."),), "selection"),
    ("extreme-bar", (("b green 3", "b blue 3"),), "perception"),
    ("extreme-entry", (("a2 9", "a2 8"),), "perception"),
    ("extreme-entry", (("b2 0, largest 9", "b2 0, largest 0"),), "arithmetic"),
    ("relative", (("Right of a2 is b2", "Right of a2 is c2"),), "arithmetic"),
    ("relative", (("Right of a2 is b2", "Below a2 is a3"),), "selection"),
    ("relative", (("Right of a2 is b2", "Right of a1 is b1"),), "transcription"),
    ("relative", (("green cross a2", "green cross c3"),), "perception"),
    ("arithmetic", (("K blue", "K green"),), "perception"),
    ("arithmetic", (("sum 19", "sum 20"),), "arithmetic"),
    ("arithmetic", (("sum 19", "difference 5"),), "selection"),
    ("row-sum", (("sum 19", "sum 18"),), "arithmetic"),
    ("row-sum", (("c2 5, sum 14", "c1 3, sum 12"),), "selection"),
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
    problem, wrong = chain("arithmetic", ("K blue 12", "K blue 11"), ("sum 19", "sum 18"), ("sum 24", "sum 23"))
    _, question, scene = asked("arithmetic")
    assert check_steps(wrong.steps, question, scene) == ["perception", "", ""]
    assert chain_truth(problem, wrong) == (pytest.approx(2 / 3), False)


def test_a_missing_step_makes_the_chain_wrong_though_each_step_is_right() -> None:
    problem, thin = chain("row-sum", ("c2 5, sum 14", "d2 5, sum 14"), leave_out=3)
    _, question, scene = asked("row-sum")
    assert chain_truth(problem, thin) == (1.0, False)
    assert missing_steps(thin.steps, question, scene) == 1
    assert error_type(problem, thin) == "selection"


def test_a_reading_without_the_result_that_belongs_behind_it_is_not_the_whole_step() -> None:
    problem, short = chain("extreme-entry", ("d2 5, largest 9", "d2 5"))
    assert chain_truth(problem, short) == (1.0, False)
    assert error_type(problem, short) == "selection"


def test_a_result_that_takes_up_what_was_not_said_does_not_follow() -> None:
    problem, leap = chain("row-sum", leave_out=2)
    _, question, scene = asked("row-sum")
    assert check_steps(leap.steps, question, scene) == ["", "", "arithmetic"]
    assert not chain_truth(problem, leap)[1]


def test_the_place_of_a_cell_need_not_be_named() -> None:
    problem, short = chain("entry", leave_out=0)
    assert chain_truth(problem, short) == (1.0, True)


def test_a_wrong_answer_after_right_steps_is_a_transcription_error_and_none_is_one_of_format() -> None:
    problem, wrong = chain("count", answer="4")
    assert chain_truth(problem, wrong) == (1.0, False)
    assert error_type(problem, wrong) == "transcription"
    assert error_type(*chain("count", answer="")) == "format"


def test_titles_may_be_anything_as_long_as_the_claims_are_right() -> None:
    problem, renamed = chain("row-sum", ("Read a2", "First I look"), ("Read b2", "One and another"), ("Read d2", "At last"))
    assert chain_truth(problem, renamed) == (1.0, True)


@pytest.mark.parametrize(
    ("text", "fault"), [("Total 3.", ""), ("The count is 3.", ""), ("Total 4.", "arithmetic"), ("The count is 4.", "perception"), ("", "format")]
)
def test_a_result_without_its_detail_is_held_against_the_scene(text: str, fault: str) -> None:
    _, question, scene = asked("count")
    assert check_steps([Step(summary="Search row 3", reasoning=text)], question, scene) == [fault]


def test_steps_about_anything_can_be_held_against_any_question() -> None:
    steps = [step for family in FAMILIES for step in chain(family)[1].steps] + [Step(summary="Read a", reasoning=f"a red {'9' * 5000}, sum 2.")]
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
