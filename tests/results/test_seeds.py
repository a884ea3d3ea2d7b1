"""Averages over seeds that share their problems or not, against hand-worked numbers and against simulation."""

import numpy as np
import pytest

from insightv.evaluation.statistics import macro
from insightv.results.seeds import Seed, contrasts, lines, together


def test_shared_problems_are_averaged_first() -> None:
    items = together([{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.0}], {"a": "f", "b": "f"})
    assert items == {"f": [0.5, 0.0]}


def test_other_problems_are_pooled_so_that_every_seed_weighs_the_same() -> None:
    items = together([{"a": 1.0, "b": 0.0}, {"c": 1.0}], {"a": "f", "b": "f", "c": "f"})
    assert items == {"f": pytest.approx([0.75, 0.0, 1.5])}
    assert np.mean(items["f"]) == pytest.approx((0.5 + 1.0) / 2)


def test_a_family_that_one_seed_lacks_is_averaged_over_those_that_have_it() -> None:
    items = together([{"a": 1.0, "b": 1.0}, {"a": 0.0}], {"a": "f", "b": "g"})
    assert items == {"f": [0.5], "g": [1.0]}


def test_the_interval_over_seeds_covers_the_truth_in_both_cases() -> None:
    generator = np.random.default_rng(0)
    for shared in (True, False):
        hits = 0
        for trial in range(200):
            chance = generator.random(150) if shared else generator.random(450)  # problems differ in difficulty
            of_seed = [chance if shared else chance[150 * s : 150 * (s + 1)] for s in range(3)]
            seeds = [{f"{0 if shared else s}-{i}": float(generator.random() < p) for i, p in enumerate(chances)} for s, chances in enumerate(of_seed)]
            rate = macro(together(seeds, {name: "f" for seed in seeds for name in seed}), seed=trial, resamples=1000)
            hits += rate.low <= 0.5 <= rate.high
        assert 0.89 <= hits / 200 <= 0.99


def test_every_seed_has_a_line_and_the_mean_follows(shared_seeds: list[Seed]) -> None:
    found = lines(shared_seeds)
    assert [(line.system, line.seed) for line in found] == [(row, seed) for row in ("base", "single-fair", "pair") for seed in (0, 1, 2, None)]
    pair = [line for line in found if line.system == "pair"]
    assert {line.macro.value for line in pair} == {0.625}
    assert pair[0].groups == {"perception": 0.75, "one-hop": 0.5}
    assert (pair[-1].chain_right, pair[-1].mislead, pair[-1].fix, pair[-1].updates) == (0.5, 0.25, 0.5, 100)
    assert pair[-1].macro.n == 80 and [line for line in lines(shared_seeds[:1]) if line.seed is None] == []


def test_a_contrast_pairs_by_problem_and_counts_its_direction(shared_seeds: list[Seed], own_seeds: list[Seed]) -> None:
    for seeds, problems in ((shared_seeds, 80), (own_seeds, 240)):
        [found, other] = contrasts(seeds, [("base", "pair"), ("single-fair", "pair")])
        assert (found.before, found.after, list(found.seeds)) == ("base", "pair", [0, 1, 2])
        assert found.mean.value == pytest.approx(0.375) and found.mean.n == problems and found.agreeing == 3
        assert other.mean.value == pytest.approx(-0.125)
        assert found.strict.low <= found.mean.low < found.mean.high <= found.strict.high
        assert all(test.p_holm == pytest.approx(min(2 * test.p, 1)) for test in found.seeds.values())


def test_seeds_on_the_same_problems_tell_less_than_seeds_on_new_ones(shared_seeds: list[Seed], own_seeds: list[Seed]) -> None:
    [same], [new] = contrasts(shared_seeds, [("base", "pair")]), contrasts(own_seeds, [("base", "pair")])
    assert same.mean.high - same.mean.low > 1.5 * (new.mean.high - new.mean.low)
    assert same.detectable > 1.5 * new.detectable


def test_a_contrast_can_be_kept_to_some_problems(shared_seeds: list[Seed]) -> None:
    [seen] = contrasts(shared_seeds, [("base", "pair")], lambda problem: problem.meta["group"] == "perception")
    assert seen.mean.n == 40 and seen.mean.value == pytest.approx(0.75)
