"""Figures of verdicts and scores against labels: by hand, against brute force, and on scorers with known faults."""

import itertools
from random import Random

import numpy as np
import pytest

from insightv.evaluation.calibration import Case, agreement_figures, auc, calibrate, figures, position_bias
from insightv.records import Score


def cases(counts: dict[tuple[bool | None, bool], int], family: str = "f", by: str = "rule") -> list[Case]:
    made = [(said, right) for (said, right), count in counts.items() for _ in range(count)]
    return [Case(f"p{i}", family, by, said, right) for i, (said, right) in enumerate(made)]


# Of 50: both say yes 20, both no 15; observed 0.7, by chance 25/50 * 30/50 + 25/50 * 20/50 = 0.5, so kappa is 0.4.
BY_HAND = {(True, True): 20, (True, False): 5, (False, True): 10, (False, False): 15}


def test_precision_recall_and_kappa_by_hand() -> None:
    found = figures([*cases(BY_HAND), Case("q", "f", "none", None, True)])
    assert found["confusion"] == {"true_positive": 20, "false_positive": 5, "false_negative": 10, "true_negative": 15}
    values = {name: found[name]["value"] for name in ("precision", "recall", "f1", "kappa")}
    assert values == {"precision": 0.8, "recall": pytest.approx(2 / 3, abs=1e-4), "f1": pytest.approx(8 / 11, abs=1e-4), "kappa": 0.4}
    assert (found["n"], found["unjudged"], found["kappa"]["n"]) == (51, 1, 50)
    assert found["kappa"]["low"] < 0.4 < found["kappa"]["high"]
    assert found["kappa"]["low"] > 0.05


def test_what_is_undefined_is_none() -> None:
    assert figures([])["precision"] == {"value": None, "low": None, "high": None, "n": 0}
    right = figures(cases({(True, True): 4}))
    assert (right["precision"]["value"], right["kappa"]["value"]) == (1.0, None)
    assert np.isnan(agreement_figures(np.zeros(4))).all()


def test_a_weight_stands_for_so_many_chains() -> None:
    drawn = [Case("a", "f", "rule", True, True, weight=20), Case("b", "f", "rule", True, False, weight=5)]
    drawn += [Case("c", "f", "rule", False, True, weight=10), Case("d", "f", "rule", False, False, weight=15)]
    assert figures(drawn)["kappa"]["value"] == 0.4


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = Random(1)
    values, positive = [rng.randrange(5) for _ in range(40)], [rng.random() < 0.4 for _ in range(40)]
    above = [v for v, p in zip(values, positive, strict=True) if p]
    below = [v for v, p in zip(values, positive, strict=True) if not p]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(above, below)]
    assert auc(np.array(values, dtype=float), np.array(positive)) == pytest.approx(sum(pairs) / len(pairs))
    assert np.isnan(auc(np.ones(3), np.ones(3, dtype=bool)))


def test_ranks_follow_the_score() -> None:
    good = [Case(f"p{i}", "f", "rule", True, True, score=i, quality=i / 40) for i in range(1, 41)]
    bad = [Case(f"p{i}", "f", "rule", True, True, score=41 - i, quality=i / 40) for i in range(1, 41)]
    for group, sign in ((good, 1), (bad, -1)):
        found = figures(group)
        assert (found["spearman"]["value"], found["kendall"]["value"]) == (sign, sign)
        assert found["auc"]["value"] == (sign + 1) / 2
        assert found["scored"] == 40


def test_an_interval_is_wide_where_few_problems_hold_many_chains() -> None:
    rng = Random(0)
    alone = [Case(f"p{i}", "f", "rule", True, rng.random() < 0.8) for i in range(200)]
    clumped = [Case(f"p{i // 20}", "f", "rule", True, case.right) for i, case in enumerate(sorted(alone, key=lambda case: case.right))]
    few, many = figures(clumped)["precision"], figures(alone)["precision"]
    assert few["value"] == many["value"]
    assert few["high"] - few["low"] > 2 * (many["high"] - many["low"])
    assert figures(alone) == figures(alone)


def test_groups_are_by_family_and_by_who_decided() -> None:
    found = calibrate([*cases({(True, True): 3}, "x", "rule"), *cases({(True, False): 2}, "y", "judge")])
    assert list(found) == ["all", "by judge", "by rule", "family x", "family y"]
    assert [found[name]["n"] for name in found] == [5, 2, 3, 3, 2]
    assert found["by judge"]["precision"]["value"] == 0


@pytest.mark.parametrize("bias", [0, 6])
def test_a_scorer_that_likes_the_first_path_is_found_out(bias: int) -> None:
    rng = Random(3)
    ratings = [
        Score(chain_id=f"{problem}-{place}", problem_id=str(problem), value=50 + rng.randrange(-9, 10) + bias * (place == 0), position=place)
        for problem in range(150)
        for place in range(4)
    ]
    first, *others = position_bias(ratings)
    assert (first["position"], first["n"]) == (1, 150)
    assert (first["shift"]["low"] > 0) == (bias > 0)
    assert all((row["shift"]["high"] < 0) <= (bias > 0) for row in others)
