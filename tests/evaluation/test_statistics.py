"""Intervals and tests against scipy, statsmodels, simulation and hand-worked cases."""

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, bootstrap, permutation_test
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from insightv.evaluation.statistics import detectable, holm, macro, mcnemar_exact, resampled, sign_flips, wilson


def by_cluster(values: ArrayLike, clusters: Sequence[str]) -> NDArray[np.float64]:
    """Items that belong together (questions about one image, rotations of one question) as one row each: their sum and their number."""
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    items = np.asarray(values, dtype=float)
    return np.column_stack([np.bincount(place, weights=items), np.bincount(place).astype(float)])


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


TABLES = [(0, 0), (1, 0), (6, 0), (5, 9), (40, 17), (120, 121), (300, 12)]


@pytest.mark.parametrize("table", TABLES)
def test_mcnemar_equals_statsmodels(table: tuple[int, int]) -> None:
    helped, hurt = table
    if helped + hurt:
        assert mcnemar_exact(helped, hurt) == pytest.approx(mcnemar([[50, helped], [hurt, 70]], exact=True).pvalue, abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 4, 11, 11, 40])
def test_holm_equals_statsmodels(count: int) -> None:
    pvalues = list(np.random.default_rng(count).random(count) ** 3)
    assert holm(pvalues) == pytest.approx(list(multipletests(pvalues, method="holm")[1]), abs=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (3, 11), (250, 500), (1, 4000)])
def test_wilson_equals_statsmodels(successes: int, n: int) -> None:
    rate = wilson(successes, n)
    assert (rate.low, rate.high) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-6)


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


def test_a_cluster_is_drawn_whole() -> None:
    """Four questions of each image that are all right or all wrong are worth one each."""
    images = np.repeat(np.arange(50), 4)
    right = np.repeat(np.arange(50) % 2, 4).astype(float)
    clustered = resampled({"all": by_cluster(right, [str(image) for image in images])}).rate()
    alone = resampled({"all": by_cluster(right, [str(n) for n in range(200)])}).rate()
    one_each = macro({"all": list(right[::4])})
    assert clustered.value == alone.value == 0.5 and clustered.n == 200
    assert (clustered.low, clustered.high) == pytest.approx((one_each.low, one_each.high), abs=1e-9)
    assert clustered.high - clustered.low == pytest.approx(2 * (alone.high - alone.low), rel=0.1)


def test_clusters_of_several_sizes_agree_with_scipys_bootstrap() -> None:
    generator = np.random.default_rng(1)
    sizes = generator.integers(1, 6, 120)
    clusters = [str(n) for n, size in enumerate(sizes) for _ in range(size)]
    values = generator.random(len(clusters)) * np.array([int(name) % 3 for name in clusters])
    rows = by_cluster(values, clusters)
    expected = bootstrap((rows[:, 0], rows[:, 1]), lambda s, n, axis=-1: s.sum(axis) / n.sum(axis), paired=True, method="percentile", n_resamples=10_000, rng=2)
    rate = resampled({"all": rows}).rate()
    width = rate.high - rate.low
    assert (rate.low, rate.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.05 * width)


@pytest.mark.parametrize("spread", [0.0, 0.35])
def test_the_clustered_interval_covers_the_truth(spread: float) -> None:
    """95% of 2,000 simulated benchmarks of 150 images with four questions each, whose images differ in difficulty."""
    generator, hits, trials = np.random.default_rng(7), 0, 2000
    names = [str(image) for image in np.repeat(np.arange(150), 4)]
    for trial in range(trials):
        difficulty = 0.6 + spread * generator.choice([-1, 1], 150)
        right = generator.random(600) < np.repeat(difficulty, 4)
        rate = resampled({"all": by_cluster(right, names)}, seed=trial, resamples=1000).rate()
        hits += rate.low <= 0.6 <= rate.high
    assert 0.93 <= hits / trials <= 0.97


def test_weights_make_a_sum_of_strata() -> None:
    rows = {"a": by_cluster([1, 0, 1, 1], list("wxyz")), "b": by_cluster([1, 1], list("uv"))}
    found = resampled(rows, {"a": 100.0, "b": 100.0})
    assert found.value == 175.0 and found.rate().high <= 200.0


def test_p_of_a_paired_difference_is_uniform_where_there_is_none() -> None:
    generator = np.random.default_rng(3)
    found = []
    for trial in range(600):
        differences = generator.normal(0, 1, 80)
        found.append(sign_flips({"all": by_cluster(differences, [str(n) for n in range(80)])}, seed=trial, flips=1000))
    assert 0.03 <= np.mean(np.array(found) < 0.05) <= 0.08 and 0.4 <= np.median(found) <= 0.6
    assert sign_flips({"all": by_cluster(generator.normal(1, 1, 80), [str(n) for n in range(80)])}) < 0.001


def test_tosses_agree_with_scipys_exact_ones_and_with_mcnemar() -> None:
    generator = np.random.default_rng(5)
    differences = generator.normal(0.4, 1, 12)
    exact = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flips({"all": by_cluster(differences, [str(n) for n in range(12)])}, flips=100_000) == pytest.approx(exact, abs=0.006)
    rights = np.repeat([1.0, -1.0, 0.0], [9, 3, 200])
    assert sign_flips({"all": by_cluster(rights, [str(n) for n in range(212)])}, flips=100_000) == pytest.approx(mcnemar_exact(9, 3), abs=0.006)


def test_a_few_clusters_establish_nothing() -> None:
    assert sign_flips({"all": by_cluster([1.0], ["a"])}) == 1.0 and sign_flips({}) == 1.0
    assert sign_flips({"all": by_cluster([-1.0] * 4 + [0.0] * 996, [str(n) for n in range(1000)])}) == pytest.approx(0.125, abs=0.01)


def test_what_can_be_detected_of_means_has_the_power_it_claims() -> None:
    generator = np.random.default_rng(4)
    names = [str(n) for n in range(200)]
    effect = resampled({"all": by_cluster(generator.normal(0, 1, 200), names)}).detectable()
    assert effect == pytest.approx(2.8 / math.sqrt(200), rel=0.1)
