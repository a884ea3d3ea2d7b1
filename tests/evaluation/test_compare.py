"""Two systems on the same problems, by hand."""

import math

import pytest

from insightv.evaluation.compare import agreement, compare, conclusion, correct_together, sentence
from insightv.records import Solution

EVERY = {str(number): "f" for number in range(10)}


def solution(problem: str, correct: bool | None, system: str = "s") -> Solution:
    return Solution(problem_id=problem, system=system, answer="x", text="x", correct=correct, status="ok" if correct is not None else "failed")


def test_compare_pairs_by_problem_and_leaves_unscored_out() -> None:
    before = [solution("1", True, "base"), solution("2", False, "base"), solution("3", False, "base"), solution("4", None, "base"), solution("5", True, "base")]
    after = [solution("5", False, "pair"), solution("3", True, "pair"), solution("2", True, "pair"), solution("1", True, "pair"), solution("4", True, "pair")]
    result = compare(before, after, {"1": "a", "2": "a", "3": "b", "4": "b", "5": "b"})
    assert (result.before, result.after) == ("base", "pair")
    assert (result.helped, result.hurt, result.unchanged, result.n, result.left_out) == (("2", "3"), ("5",), 1, 4, 1)
    assert result.difference.value == pytest.approx((0.5 + 0.0) / 2)
    assert result.p == 1.0


def test_compare_counts_only_the_problems_named() -> None:
    before, after = [solution(str(k), k == 9) for k in range(10)], [solution(str(k), k < 3) for k in range(10)]
    result = compare(before, after, {"0": "a", "9": "a"})
    assert (result.n, result.helped, result.hurt, result.left_out) == (2, ("0",), ("9",), 0)


def test_compare_of_nothing_does_not_fail() -> None:
    result = compare([], [], EVERY)
    assert result.n == 0 and result.p == 1.0 and math.isnan(result.difference.value)


def test_primary_comparisons_are_corrected_together() -> None:
    before = [solution(str(k), False) for k in range(8)]
    strong = compare(before, [solution(str(k), True) for k in range(8)], EVERY)
    weak = compare(before, [solution(str(k), k < 2) for k in range(8)], EVERY)
    corrected = correct_together([weak, strong])
    assert [c.p_holm for c in corrected] == pytest.approx([0.5, 2 * 2 / 256])


def test_agreement_counts_fixed_and_misled() -> None:
    solutions = [solution("1", True), solution("2", False), solution("3", True), solution("4", False), solution("5", None), solution("6", True)]
    result = agreement(solutions, {"1": True, "2": True, "3": False, "4": False, "5": True})
    assert (result.both_right, result.misled, result.fixed, result.both_wrong) == (1, 1, 1, 1)
    assert result.fix_rate.value == 0.5 and result.mislead_rate.value == 0.5


def test_conclusions_name_the_better_system_whichever_way() -> None:
    low, high = [solution(str(k), False, "low") for k in range(8)], [solution(str(k), True, "high") for k in range(8)]
    assert conclusion(compare(low, high, EVERY)) == conclusion(compare(high, low, EVERY)) == "high is better"
    assert conclusion(compare(low, low, EVERY)) == "no difference is established here"
    assert conclusion(compare(low, [], EVERY)) == "no scored problem in common"
    corrected = correct_together([compare(low, high[:6], EVERY)] * 2)  # p = 1/32 alone, 1/16 together
    assert conclusion(corrected[0]) == "no difference is established here"
    assert sentence(compare(low, high, EVERY)).startswith("high - low = +100.0 points [+100.0, +100.0], 8 helped, 0 hurt of 8, p = 0.0078: high is better")
