from collections import Counter
from collections.abc import Iterable
from typing import Any

from insightv.config import PreferenceDataConfig, PromptsConfig
from insightv.datasets import preference
from insightv.datasets.rows import Made

PROMPTS = PromptsConfig()


def flat(made: Iterable[Made]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All rows and all rejections."""
    found = list(made)
    return [row for rows, _ in found for row in rows], [rejection for _, rejections in found for rejection in rejections]


def build(pool: Any, seed: int = 0, **settings: Any) -> tuple[list[dict[str, Any]], dict[str, str], dict[str, Any]]:
    made, told = preference.build(pool.rated, PreferenceDataConfig(**settings), PROMPTS, seed=seed)
    rows, rejections = flat(made)
    assert told["rows"] == len(rows)
    reasons = {item.get("chain_id", item["problem_id"]): item["reason"] for item in rejections}
    assert len(reasons) == len(rejections)
    return sorted(rows, key=lambda row: str(row["id"])), reasons, told


def sides(row: dict[str, Any]) -> tuple[str, str]:
    return row["trace"]["chosen"]["chain_id"], row["trace"]["rejected"]["chain_id"]


def text(number: int, words: int = 20) -> str:
    return f"chain {number} " + "word " * words


def test_correct_is_preferred_to_wrong_in_the_policys_own_words(pool: Any) -> None:
    problem = pool.problem()
    best = pool.chain(problem, True, 90, text="  <thoughts>\nmine, byte for byte</thoughts>\n")
    wrong = pool.chain(problem, False, text="<thoughts>\nother words here</thoughts>")
    (row,), reasons, told = build(pool)
    assert sides(row) == (best.id, wrong.id) and row["part"] == "correctness"
    assert row["chosen"] == [{"role": "assistant", "content": [{"type": "text", "text": best.text}]}]
    assert row["rejected"][0]["content"][0]["text"] == wrong.text
    assert row["images"] == list(problem.images) and row["prompt"][0]["content"][0] == {"type": "image"}
    assert reasons == {} and told["rows"] == 1 and told["rules"] == {"correctness": 1}


def test_score_rule_needs_the_margin_and_a_good_chosen_chain(pool: Any) -> None:
    problem = pool.problem()
    best, near, far = (pool.chain(problem, True, score, text=text(score)) for score in (80, 61, 60))
    rows, reasons, _ = build(pool, rules=("score",), score_margin=20)
    assert [sides(row) for row in rows] == [(best.id, far.id)]
    assert reasons == {near.id: "no_counterpart"}
    weak = pool.problem()
    low, lower = pool.chain(weak, True, 49, text=text(1)), pool.chain(weak, True, 10, text=text(2))
    rows, reasons, _ = build(pool, rules=("score",), score_margin=20)
    assert [sides(row) for row in rows] == [(best.id, far.id)]
    assert reasons[low.id] == reasons[lower.id] == "score_below_minimum"


def test_ratings_alone_pair_chains_whatever_their_answers_are(pool: Any) -> None:
    problem = pool.problem()
    wrong, right, near = pool.chain(problem, False, 90, text=text(0)), pool.chain(problem, True, 60, text=text(1)), pool.chain(problem, None, 75, text=text(2))
    unrated = pool.chain(problem, True, text=text(3))
    failed = pool.chain(problem, None, text="", status="failed", reason="HTTP 413")
    rows, reasons, told = build(pool, rules=("rating",), score_margin=20)
    assert [sides(row) for row in rows] == [(wrong.id, right.id)] and told["rules"] == {"rating": 1}
    assert reasons == {near.id: "no_counterpart", unrated.id: "not_scored", failed.id: "failed"}
    chosen = rows[0]
    pool.verdicts.reverse()
    pool.verdicts = [verdict.model_copy(update={"correct": not verdict.correct}) for verdict in pool.verdicts]
    assert build(pool, rules=("rating",), score_margin=20)[0][0]["id"] == chosen["id"]


def test_by_ratings_a_truncated_chain_can_only_lose(pool: Any) -> None:
    problem = pool.problem()
    cut = pool.chain(problem, None, 95, text=text(0), status="defect", defects=("truncated",))
    whole, low = pool.chain(problem, None, 70, text=text(1)), pool.chain(problem, None, 30, text=text(2), status="defect", defects=("truncated",))
    rows, reasons, _ = build(pool, rules=("rating",), max_truncated=1)
    assert [sides(row) for row in rows] == [(whole.id, low.id)] and reasons == {cut.id: "no_counterpart"}


def test_chains_that_cannot_be_paired_are_told_why(pool: Any) -> None:
    problem = pool.problem()
    good = pool.chain(problem, True, 90, text=text(0))
    expected = {
        pool.chain(problem, None, text=text(1)).id: "not_judged",
        pool.chain(problem, True, text=text(2)).id: "not_scored",
        pool.chain(problem, None, text="", status="failed", reason="HTTP 413").id: "failed",
        pool.chain(problem, False, text=text(3, words=60)).id: "length_ratio",
        pool.chain(problem, False, text=good.text).id: "identical_text",
        pool.problem().id: "no_chain",
    }
    alone = pool.problem()
    expected |= {pool.chain(alone, True, 90, text=text(4)).id: "no_counterpart", good.id: "length_ratio"}
    rows, reasons, _ = build(pool)
    assert rows == []
    assert reasons == expected


def test_the_length_guard_is_exact_at_its_limit(pool: Any) -> None:
    problem = pool.problem()
    pool.chain(problem, True, 90, text="a " * 20)
    pool.chain(problem, False, text="b " * 30)
    assert len(build(pool, length_ratio=1.5)[0]) == 1
    assert build(pool, length_ratio=1.49)[0] == []


def test_a_problem_gives_at_most_so_many_pairs_and_a_chain_loses_once(pool: Any) -> None:
    problem = pool.problem()
    best = pool.chain(problem, True, 90, text=text(0))
    for number in range(1, 6):
        pool.chain(problem, False, text=text(number))
    rows, reasons, _ = build(pool, per_problem=2)
    assert len(rows) == 2 and {sides(row)[0] for row in rows} == {best.id}
    assert len({sides(row)[1] for row in rows}) == 2
    assert Counter(reasons.values()) == {"per_problem": 3}


def test_no_chain_wins_one_pair_of_a_problem_and_loses_another(pool: Any) -> None:
    problem = pool.problem()
    long, middle = pool.chain(problem, True, 95, text="a " * 40), pool.chain(problem, True, 73, text="b " * 28)
    short = pool.chain(problem, False, text="c " * 20)
    rows, reasons, _ = build(pool, rules=("score", "correctness"))
    assert [sides(row) for row in rows] == [(long.id, middle.id)] and reasons == {short.id: "already_used"}
    rows, reasons, _ = build(pool, rules=("correctness", "score"))
    assert [sides(row) for row in rows] == [(middle.id, short.id)] and reasons == {long.id: "already_used"}


def test_run_on_chains_are_exempt_from_the_length_guard_and_capped(pool: Any) -> None:
    for number in range(40):
        problem = pool.problem()
        pool.chain(problem, True, 90, text=text(number))
        if number < 20:
            pool.chain(problem, False, text=text(100 + number))
        else:
            pool.chain(problem, False, text=text(100 + number, words=500), status="defect", defects=("truncated",))
    _, reasons, told = build(pool, max_truncated=0.2)
    assert (told["rows"], told["run_on"]) == (25, 5)
    assert Counter(reasons.values()) == {"max_truncated": 30}
    assert build(pool, max_truncated=0)[2]["run_on"] == 0
    assert build(pool, max_truncated=1)[2]["run_on"] == 20
    for limit in (1, 7, 24, 30, 100):
        told = build(pool, max_truncated=0.2, max_pairs=limit)[2]
        assert told["run_on"] <= 0.2 * told["rows"] <= 0.2 * limit
    assert told["available"] == 40


def test_a_row_tells_whether_the_rejected_chain_was_cut_at_its_limit(pool: Any) -> None:
    for number, finish in enumerate(("length", "stop")):
        problem = pool.problem()
        pool.chain(problem, True, 90, text=text(number))
        # Without an end tag, yet the second one's writer ended its turn there: that end is its own.
        pool.chain(problem, False, text=text(number + 2), status="defect", defects=("truncated",), finish=finish)
    rows, _, _ = build(pool, max_truncated=1)
    cut = {row["trace"]["rejected"]["finish"]: row["rejected_truncated"] for row in rows}
    assert cut == {"length": True, "stop": False}


def test_a_limit_is_shared_out_equally_among_families(pool: Any) -> None:
    for family, count in (("count", 30), ("relative", 10), ("entry", 3)):
        for _ in range(count):
            problem = pool.problem(family=family)
            pool.chain(problem, True, 90, text=text(len(pool.chains)))
            pool.chain(problem, False, text=text(len(pool.chains)))
    rows, reasons, told = build(pool, max_pairs=21)
    assert told["families"] == {"count": 9, "relative": 9, "entry": 3}
    assert len(rows) == 21 and set(reasons.values()) == {"max_pairs"}
    assert build(pool)[2]["families"] == {"count": 30, "relative": 10, "entry": 3}


def test_every_problem_gives_its_first_pair_before_any_gives_its_second(pool: Any) -> None:
    for _ in range(8):
        problem = pool.problem()
        for _ in range(2):
            pool.chain(problem, True, 90, text=text(len(pool.chains)))
            pool.chain(problem, False, text=text(len(pool.chains)))
    assert build(pool)[2]["rows"] == 16
    for seed in range(5):
        assert build(pool, seed=seed, max_pairs=8)[2]["problems"] == 8


def test_order_of_input_does_not_matter_but_the_seed_does(pool: Any) -> None:
    for _ in range(30):
        problem = pool.problem()
        for correct in (True, False, False):
            pool.chain(problem, correct, 90 if correct else None, text=text(len(pool.chains)))
    first = build(pool, max_pairs=10)
    pool.reverse()
    assert build(pool, max_pairs=10) == first
    assert {row["id"] for row in build(pool, seed=1, max_pairs=10)[0]} != {row["id"] for row in first[0]}
