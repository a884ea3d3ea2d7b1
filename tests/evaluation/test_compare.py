"""Intervals and tests against scipy, simulation and hand-worked cases."""

import math
import random

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from insightv.evaluation.compare import agreement, compare, conclusion, correct_together, detectable, holm, macro, mcnemar_exact, sentence, wilson
from insightv.records import Solution

EVERY = {str(number): "f" for number in range(10)}


def solution(problem: str, correct: bool | None, system: str = "s") -> Solution:
    return Solution(problem_id=problem, system=system, answer="x", text="x", correct=correct, status="ok" if correct is not None else "failed")


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (1, 3), (847, 1000), (5, 9)])
def test_wilson_equals_scipy(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    rate = wilson(successes, n)
    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_rate_of_nothing_is_not_a_number() -> None:
    assert math.isnan(wilson(0, 0).value) and math.isnan(macro({"f": []}).value) and math.isnan(detectable(0, 0.1))


def test_mcnemar_by_hand() -> None:
    assert mcnemar_exact(6, 0) == pytest.approx(2 / 64)
    assert mcnemar_exact(3, 0) == pytest.approx(0.25)
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(5, 9) == mcnemar_exact(9, 5)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_macro_weighs_families_not_items() -> None:
    rate = macro({"easy": [1.0] * 90, "hard": [0.0] * 10, "empty": []})
    assert (rate.value, rate.n) == (0.5, 100)


def test_macro_interval_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(5).integers(0, 2, 200).astype(float)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    rate = macro({"only": list(values)})
    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=0.006)


def test_macro_interval_is_stratified_and_seeded() -> None:
    families = {"a": [1.0] * 50, "b": [0.0] * 50}
    assert macro(families).low == macro(families).high == 0.5  # an unstratified bootstrap would spread
    mixed = {"a": [0.0, 1.0] * 20, "b": [1.0, 1.0, 0.0]}
    assert macro(mixed, seed=3) == macro(dict(reversed(mixed.items())), seed=3)
    assert macro(mixed, seed=3) != macro(mixed, seed=4)


def test_macro_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        scores = {str(k): list((generator.random(60) < p).astype(float)) for k, p in enumerate((0.3, 0.6, 0.9))}
        rate = macro(scores, seed=trial, resamples=2000)
        hits += rate.low <= 0.6 <= rate.high
    assert 0.90 <= hits / 200 <= 0.99


def test_detectable_has_the_power_it_claims() -> None:
    assert detectable(1000, 0.12) == pytest.approx(0.031, abs=5e-4)
    assert detectable(3000, 0.12) == pytest.approx(0.018, abs=5e-4)
    generator = random.Random(0)
    effect = detectable(1000, 0.12)
    found = 0
    for _ in range(400):
        draws = generator.choices((1, -1, 0), (0.06 + effect / 2, 0.06 - effect / 2, 0.88), k=1000)
        found += mcnemar_exact(draws.count(1), draws.count(-1)) < 0.05
    assert 0.70 <= found / 400 <= 0.87


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
