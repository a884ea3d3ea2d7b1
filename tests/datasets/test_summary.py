from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightv.config import PromptsConfig, SummaryDataConfig
from insightv.datasets import summary
from insightv.datasets.rows import Made
from insightv.datasets.shares import divide
from insightv.prompts import render_chain

PROMPTS = PromptsConfig()


def flat(made: Iterable[Made]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All rows and all rejections."""
    found = list(made)
    return [row for rows, _ in found for row in rows], [rejection for _, rejections in found for rejection in rejections]


@pytest.fixture
def scene(make_pool: Callable[[], Any]) -> tuple[Any, Any, Any]:
    """Teacher's chains (20 optimal, 10 of each flawed stratum), the reasoner's (60 right, 15 wrong, 5 broken) and 50 questions."""
    teacher, own, plain = make_pool(), make_pool(), make_pool()
    for number in range(20):
        problem = teacher.problem()
        teacher.chain(problem, True, 70)
        if number < 10:
            teacher.chain(problem, True, 69)
            teacher.chain(problem, True, 39)
            teacher.chain(problem, False)
    for number in range(80):
        problem = own.problem(own=True)
        if number < 75:
            own.chain(problem, number < 60, text=f"chain {number}")
        else:
            own.chain(problem, None, text="loop " * number, status="defect", defects=("repetition",))
    for _ in range(50):
        plain.problem(plain=True)
    return teacher, own, plain


def build(scene: tuple[Any, Any, Any], seed: int = 0, **settings: Any) -> tuple[Any, Any, Any]:
    teacher, own, plain = scene
    made, told = summary.build(teacher.rated, own.rated, lambda: iter(plain.problems), SummaryDataConfig(**settings), PROMPTS, seed=seed)
    rows, rejections = flat(made)
    return sorted(rows, key=lambda row: str(row["id"])), rejections, told


def test_parts_have_exactly_the_configured_proportions_as_far_as_the_scarcest_reaches(scene: Any) -> None:
    rows, _, told = build(scene)
    assert Counter(row["part"] for row in rows) == {"optimal": 20, "flawed": 20, "own": 40, "plain": 20}
    assert told["rows"] == 100 and told["notes"] == ["optimal limits the set"]
    assert told["parts"]["own"] == {"available": 80, "wanted": 40, "rows": 40}
    assert sorted(told["flawed"].values()) == [6, 7, 7]
    assert sum(told["own"].values()) == 40 and told["own"]["right"] > told["own"]["wrong"] > 0


def test_a_scarce_part_is_topped_up_and_the_summary_says_so(scene: Any) -> None:
    rows, _, told = build(scene, size=120)
    counts = Counter(row["part"] for row in rows)
    assert sum(counts.values()) == 120 and counts["optimal"] == 20
    assert told["notes"] == ["optimal: 20 rows for 24 wanted"]
    assert counts["own"] > 48


def test_a_set_larger_than_everything_says_how_much_is_missing(scene: Any) -> None:
    rows, _, told = build(scene, size=1000)
    assert len(rows) == 20 + 30 + 80 + 50
    assert "180 rows for 1000 wanted: everything is used up" in told["notes"]


def test_an_empty_part_gives_its_share_to_the_others(scene: Any, make_pool: Callable[[], Any]) -> None:
    teacher, _, plain = scene
    rows, _, told = build((teacher, make_pool(), plain))
    assert {row["part"] for row in rows} == {"optimal", "flawed", "plain"}
    assert any(note.startswith("own: 0 rows for") for note in told["notes"])


def test_the_target_is_the_ground_truth_even_behind_a_wrong_chain(scene: Any) -> None:
    _, own, _ = scene
    answers = {problem.id: problem.answers[0] for pool in scene for problem in pool.problems}
    texts = {chain.id: chain.text for chain in own.chains}
    rows, _, _ = build(scene)
    for row in rows:
        assert row["completion"] == [{"role": "assistant", "content": [{"type": "text", "text": answers[row["problem_id"]]}]}]
        prompt = row["prompt"][0]["content"][1]["text"]
        if row["part"] == "own":
            assert texts[row["trace"]["chain"]["chain_id"]] in prompt
        assert ("REASON PROCESS" in prompt) == (row["part"] != "plain")
    wrong = [row for row in rows if row["trace"] and row["trace"]["chain"]["verdict"]["correct"] is False]
    assert {row["part"] for row in wrong} == {"flawed", "own"}


def test_an_own_chain_is_shown_as_the_pair_shows_it_when_it_answers(make_pool: Callable[[], Any]) -> None:
    teacher, own, empty = make_pool(), make_pool(), make_pool()
    steps = teacher.chain(teacher.problem(), True).steps
    chain = own.chain(own.problem(), True, text="Sure: <thoughts>..", steps=steps, conclusion="So.", answer="4")
    (row,), _, _ = build((empty, own, empty))
    shown = row["prompt"][0]["content"][1]["text"]
    assert render_chain(chain) in shown and chain.text not in shown


def test_every_chain_is_a_row_or_a_rejection_with_its_reason(scene: Any) -> None:
    teacher, own, _ = scene
    unjudged = teacher.chain(teacher.problems[0], None)
    unscored = teacher.chain(teacher.problems[0], True)
    failed = own.chain(own.problems[0], None, text="", status="failed", reason="HTTP 422")
    again = own.chain(own.problems[0], True, text="chain 0")
    rows, rejections, _ = build(scene)
    reasons = {item["chain_id"]: item["reason"] for item in rejections}
    assert [reasons[chain.id] for chain in (unjudged, unscored, failed, again)] == ["not_judged", "not_scored", "failed", "duplicate_text"]
    used = {row["trace"]["chain"]["chain_id"] for row in rows if row["trace"]}
    assert used.isdisjoint(reasons)
    assert used | reasons.keys() == {chain.id for chain in [*teacher.chains, *own.chains]}
    assert len(rejections) == len(reasons)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(scene: Any) -> None:
    first = build(scene)[0]
    for pool in scene:
        pool.reverse()
    assert build(scene)[0] == first
    others = build(scene, seed=1)[0]
    for part in ("flawed", "own", "plain"):
        assert {row["id"] for row in others if row["part"] == part} != {row["id"] for row in first if row["part"] == part}


def test_scores_at_the_borders_belong_to_the_higher_range(make_pool: Callable[[], Any]) -> None:
    teacher, empty = make_pool(), make_pool()
    for score in (70, 69, 40, 39):
        teacher.chain(teacher.problem(), True, score)
    _, _, told = build((teacher, empty, empty), size=4)
    assert told["flawed"] == {"mid": 2, "low": 1} and told["parts"]["optimal"]["rows"] == 1


def test_of_equal_texts_the_first_index_stays_in_whatever_order_they_come(make_pool: Callable[[], Any]) -> None:
    own, empty = make_pool(), make_pool()
    problem = own.problem()
    for _ in range(3):
        own.chain(problem, True, text="the same")
    first = own.chains[0].id
    own.chains.reverse()
    rows, _, _ = build((empty, own, empty))
    assert [row["trace"]["chain"]["chain_id"] for row in rows] == [first]


def test_problems_are_spread_before_any_is_used_twice(make_pool: Callable[[], Any]) -> None:
    own = make_pool()
    for _ in range(10):
        problem = own.problem()
        for _ in range(4):
            own.chain(problem, True, text=f"chain {len(own.chains)}")
    empty = make_pool()
    rows, _, _ = build((empty, own, empty), size=10)
    assert len({row["problem_id"] for row in rows}) == 10


@given(
    st.integers(0, 300),
    st.dictionaries(st.sampled_from("abcde"), st.tuples(st.floats(0, 10), st.integers(0, 80)), min_size=1),
)
def test_division_never_exceeds_and_never_leaves_a_row_behind(total: int, parts: dict[str, tuple[float, int]]) -> None:
    weights, available = {name: part[0] for name, part in parts.items()}, {name: part[1] for name, part in parts.items()}
    counts = divide(total, weights, available)
    assert all(0 <= counts[name] <= available[name] for name in parts)
    usable = sum(available[name] for name in parts if weights[name] > 0)
    assert sum(counts.values()) == min(total, usable)


def test_division_is_proportional_where_nothing_is_scarce() -> None:
    plenty = dict.fromkeys("abc", 100)
    assert divide(10, {"a": 1, "b": 2, "c": 2}, plenty) == {"a": 2, "b": 4, "c": 4}
    assert divide(7, {"a": 1, "b": 1, "c": 1}, plenty) == {"a": 3, "b": 2, "c": 2}
