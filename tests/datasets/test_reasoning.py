from collections.abc import Iterable
from typing import Any

from insightv.config import PromptsConfig, ReasoningDataConfig
from insightv.datasets import reasoning
from insightv.datasets.rows import Made
from insightv.prompts import render_chain

PROMPTS = PromptsConfig()


def flat(made: Iterable[Made]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All rows and all rejections."""
    found = list(made)
    return [row for rows, _ in found for row in rows], [rejection for _, rejections in found for rejection in rejections]


def build(pool: Any, **settings: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return flat(reasoning.build(pool.rated, ReasoningDataConfig(**settings), PROMPTS, reasoning.reasoning_row, seed=0))


def reasons(rejections: list[dict[str, Any]]) -> dict[str, str]:
    return {item.get("chain_id", item["problem_id"]): item["reason"] for item in rejections}


def test_the_best_path_is_taken_and_every_other_chain_is_told_why(pool: Any) -> None:
    problem = pool.problem()
    best, second = pool.chain(problem, True, 90), pool.chain(problem, True, 80)
    expected = {
        second.id: "not_best",
        pool.chain(problem, True, 59).id: "score_below_minimum",
        pool.chain(problem, True).id: "not_scored",
        pool.chain(problem, False).id: "wrong_answer",
        pool.chain(problem, None).id: "not_judged",
        pool.chain(problem, True, 99, status="defect", defects=("truncated",)).id: "defect",
        pool.chain(problem, None, status="failed", reason="HTTP 400").id: "failed",
        pool.problem().id: "no_chain",
    }
    hopeless = pool.problem()
    expected |= {pool.chain(hopeless, False).id: "wrong_answer", hopeless.id: "no_usable_chain"}
    rows, rejections = build(pool)
    assert [row["trace"]["chain"]["chain_id"] for row in rows] == [best.id]
    assert reasons(rejections) == expected
    assert len(rejections) == len(expected)
    details = {item["reason"]: item.get("detail") for item in rejections}
    assert details["failed"] == "HTTP 400" and details["defect"] == "truncated"


def test_a_row_holds_the_image_the_question_and_the_rendered_chain(pool: Any) -> None:
    problem = pool.problem()
    chain = pool.chain(problem, True, 90)
    (row,), _ = build(pool)
    assert row["images"] == list(problem.images)
    (turn,) = row["prompt"]
    assert turn["role"] == "user" and [part["type"] for part in turn["content"]] == ["image", "text"]
    assert problem.question in turn["content"][1]["text"]
    assert row["completion"] == [{"role": "assistant", "content": [{"type": "text", "text": render_chain(chain)}]}]
    assert row["trace"]["chain"]["score"] == {"value": 90, "reason": "detailed", "position": 0}
    assert row["trace"]["chain"]["verdict"]["correct"] is True


def test_the_minimum_score_itself_is_enough(pool: Any) -> None:
    pool.chain(pool.problem(), True, 60)
    assert len(build(pool, min_score=60)[0]) == 1


def test_a_later_judgement_replaces_an_earlier_one(pool: Any) -> None:
    problem = pool.problem()
    first, second = pool.chain(problem, True, 70), pool.chain(problem, True, 80)
    pool.scores.append(pool.scores[0].model_copy(update={"value": 95}))
    rows, rejections = build(pool)
    assert rows[0]["trace"]["chain"]["chain_id"] == first.id
    assert reasons(rejections) == {second.id: "not_best"}


def test_several_paths_of_a_problem_are_different_texts(pool: Any) -> None:
    problem = pool.problem()
    first = pool.chain(problem, True, 90)
    copy = pool.chain(problem, True, 90, steps=first.steps)
    other = pool.chain(problem, True, 70)
    rows, rejections = build(pool, per_problem=2)
    assert {row["trace"]["chain"]["chain_id"] for row in rows} == {first.id, other.id}
    assert reasons(rejections) == {copy.id: "duplicate_text"}


def test_the_order_of_the_input_does_not_matter(pool: Any) -> None:
    for _ in range(6):
        problem = pool.problem()
        for score in (70, 80, 80):
            pool.chain(problem, True, score)
    forward = build(pool)
    pool.reverse()
    backward = build(pool)
    assert forward == backward
    assert len(forward[0]) == 6


def test_rows_of_the_control_models(pool: Any) -> None:
    problem = pool.problem()
    chain = pool.chain(problem, True, 90)
    ((_, [candidate]),) = pool.rated
    single, turns = reasoning.single_row(candidate, PROMPTS), reasoning.multi_turn_row(candidate, PROMPTS)
    plain = reasoning.plain_row(problem, PROMPTS)
    text = render_chain(chain)
    assert single["completion"][0]["content"][0]["text"] == f"{text}\n<output>{problem.answers[0]}</output>"
    assert [turn["role"] for turn in turns["completion"]] == ["assistant", "user", "assistant"]
    assert [turn["content"][0]["text"] for turn in turns["completion"]] == [text, PROMPTS.answer_turn, problem.answers[0]]
    assert plain["completion"][0]["content"][0]["text"] == problem.answers[0] and plain["trace"] == {}
    assert len({row["id"] for row in (single, turns, plain)}) == 3


def test_a_smaller_share_lies_within_a_larger_one(pool: Any) -> None:
    for _ in range(400):
        pool.chain(pool.problem(), True, 90)
    quarter, half, whole = ({row["problem_id"] for row in build(pool, share=share)[0]} for share in (0.25, 0.5, 1.0))
    assert quarter < half < whole and len(whole) == 400
    assert 70 < len(quarter) < 130 and 160 < len(half) < 240
    left_out = [rejection["problem_id"] for rejection in build(pool, share=0.5)[1] if rejection["reason"] == "out_of_share"]
    assert set(left_out) == whole - half and len(left_out) == len(whole - half)
    assert {problem.id for problem in pool.problems if reasoning.shared(problem.id, 0.5, 1)} != half
