"""How marks become a benchmark's number: by hand, and drawn clusters against a bootstrap written out."""

import math
from typing import Any

import numpy as np
import pytest

from insightv.evaluation.profiles import LMMS, PROFILES, VLMEVAL
from insightv.evaluation.totals import Scored, difference, paired_test, total

MME = [("OCR", 3), ("code_reasoning", 2)]


def rotations(values: dict[int, list[float]]) -> list[Scored]:
    return [
        Scored(str(index + turn * 10**6), str(index), {"index": index + turn * 10**6, "category": "xy"[index % 2]}, value)
        for index, turns in values.items()
        for turn, value in enumerate(turns)
    ]


def pictures(values: dict[str, list[tuple[float, float]]]) -> list[Scored]:
    return [
        Scored(f"{category} {number} {which}", f"{category} {number}", {"category": category}, value)
        for category, pairs in values.items()
        for number, pair in enumerate(pairs)
        for which, value in enumerate(pair)
    ]


def plain(rows: list[tuple[dict[str, Any], float]]) -> list[Scored]:
    return [Scored(str(number), str(number), row, value) for number, (row, value) in enumerate(rows)]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_question_of_mmbench_is_right_if_all_its_rotations_are(profile: str) -> None:
    found = total(profile, "mmbench", rotations({1: [1, 1, 1, 1], 2: [1, 1, 0], 3: [1], 4: [0, 1]}))
    assert (found.score.value, found.score.n, found.top, found.metric) == (50.0, 4, 100.0, "circular accuracy")
    assert found.parts == {"x": 0.0, "y": 100.0}


def test_a_question_whose_first_rotation_is_missing_does_not_count() -> None:
    scored = rotations({1: [1, 1], 2: [0, 1]})
    assert total("official", "mmbench", scored).score.value == 50.0
    assert total("official", "mmbench", [one for one in scored if one.item != "2"]).score.value == 100.0


@pytest.mark.parametrize("profile", PROFILES)
def test_mme_adds_accuracy_and_accuracy_plus(profile: str) -> None:
    found = total(profile, "mme", pictures({"OCR": [(1, 1), (1, 0), (0, 0), (1, 1)], "code_reasoning": [(0, 1)]}))
    # OCR: 5 of 8 questions, 2 of 4 pictures; code_reasoning: 1 of 2, none.
    assert found.parts == pytest.approx({"OCR": 62.5 + 50, "perception": 112.5, "code_reasoning": 50, "cognition": 50})
    assert (found.score.value, found.top, found.score.n) == pytest.approx((162.5, 400, 5))
    assert found.percent().value == pytest.approx(162.5 / 4)


def test_a_whole_mme_is_of_2800_points() -> None:
    perception = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
    cognition = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
    found = total("official", "mme", pictures({name: [(1, 1)] for name in (*perception, *cognition)}))
    assert (found.score.value, found.top, found.percent().value, found.parts["perception"], found.parts["cognition"]) == (2800, 2800, 100, 2000, 800)


def test_a_difference_on_mme_is_that_of_totals_and_draws_pictures_whole() -> None:
    random = np.random.default_rng(0)
    before, after = ({name: [tuple(pair) for pair in random.integers(0, 2, (count * 20, 2)).astype(float)] for name, count in MME} for _ in range(2))
    found = difference("official", "mme", pictures(before), pictures(after))
    assert found.value == pytest.approx(total("official", "mme", pictures(after)).score.value - total("official", "mme", pictures(before)).score.value)

    def points(pairs: np.ndarray) -> float:
        return float(100 * pairs.mean() + 100 * pairs.all(axis=1).mean())

    draws = []
    for _ in range(4000):
        change = 0.0
        for name, count in MME:
            drawn = random.integers(0, count * 20, count * 20)
            change += points(np.array(after[name])[drawn]) - points(np.array(before[name])[drawn])
        draws.append(change)
    assert found.draws.std() == pytest.approx(np.std(draws), rel=0.05)
    assert np.quantile(found.draws, [0.025, 0.975]) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=3)


def test_a_difference_is_on_common_items_with_rotations_whole() -> None:
    before, after = rotations({1: [1, 0], 2: [1, 1], 3: [0], 9: [1]}), rotations({1: [1, 1], 2: [1, 1], 3: [0], 8: [1]})
    found = difference("official", "mmbench", before, after)
    assert (found.value, found.n) == (pytest.approx(100 / 3), 3)
    # Every other item belongs to one question, which is drawn or is not: no draw is between thirds.
    assert set(np.round(found.draws * 3 / 100, 9)) <= {0.0, 1.0, 2.0, 3.0}
    assert math.isnan(difference("official", "mmbench", before, []).value)


def test_mmstar_averages_kinds_in_lmms_eval_alone() -> None:
    scored = plain([({"category": "math", "l2_category": kind}, value) for kind, value in (("a", 1), ("a", 1), ("a", 0), ("b", 0))])
    assert total(LMMS, "mmstar", scored).score.value == pytest.approx(100 / 3)
    assert total("official", "mmstar", scored).score.value == total(VLMEVAL, "mmstar", scored).score.value == 50.0


@pytest.mark.parametrize("rows", [[{"type": "human_test"}] * 3 + [{"type": "augmented_test"}], [{"split": "test_human"}] * 3 + [{"split": "test_augmented"}]])
def test_chartqas_two_halves_weigh_the_same_by_its_own_rule(rows: list[dict[str, str]]) -> None:
    scored = plain(list(zip(rows, (1.0, 1.0, 0.0, 0.0), strict=True)))
    assert total("official", "chartqa", scored).score.value == pytest.approx(100 / 3) and total(LMMS, "chartqa", scored).score.value == 50.0
    assert total(LMMS, "chartqa", scored).parts == pytest.approx({"human": 200 / 3, "augmented": 0})


def test_parts_of_ocrbench_add_up_to_its_points() -> None:
    kinds = ("Regular Text Recognition", "Handwriting Recognition", "Doc-oriented VQA", "Handwritten Mathematical Expression Recognition")
    scored = plain([({"question_type": kind}, value) for kind, value in zip(kinds, (1, 1, 0, 1), strict=True)])
    found = total("official", "ocrbench", scored)
    assert (found.score.value, found.top, found.percent().value) == (750, 1000, 75)
    assert found.parts["Text Recognition"] == 500 and found.parts[kinds[3]] == 250 and sum(found.parts[kind] for kind in kinds) == 750


def test_parts_by_subject_and_by_task() -> None:
    subjects = plain([({"id": "validation_Art_Theory_1"}, 1), ({"id": "validation_Math_3"}, 0), ({"category": "Math"}, 1), ({}, 1)])
    assert total("official", "mmmu", subjects).parts == {"Art_Theory": 100, "Math": 50}
    tasks = plain([({"metadata": {"task": "geometry"}}, 1), ({"task": "geometry"}, 0)])
    assert total("official", "mathvista", tasks).parts == {"geometry": 50}


def test_documents_are_drawn_whole_and_nothing_is_not_a_number() -> None:
    scored = [Scored(str(n), str(n // 2), {}, float(n // 2)) for n in range(4)]
    found = total("official", "docvqa", scored)
    assert (found.score.value, found.score.n, found.metric) == (50.0, 4, "ANLS") and set(found.score.draws) == {0.0, 50.0, 100.0}
    empty = total("official", "docvqa", [])
    assert math.isnan(empty.score.value) and math.isnan(empty.percent().value) and not empty.parts


def test_rights_and_wrongs_are_tested_exactly_and_the_rest_by_tosses() -> None:
    ones, zeros = (plain([({"id": "x", "l2_category": "ab"[n % 2]}, value) for n in range(6)]) for value in (1.0, 0.0))
    assert paired_test("official", "mmmu", zeros, ones).test == paired_test("official", "docvqa", zeros, ones).test == "exact McNemar"
    assert paired_test("official", "mmmu", zeros, ones).p == pytest.approx(2 * 0.5**6)
    # Two strata, and parts of a mark.
    assert paired_test(LMMS, "mmstar", zeros, ones).test == "sign flips"
    halves = [Scored(one.item, one.cluster, one.row, 0.5) for one in ones]
    found = paired_test("official", "textvqa", zeros, halves)
    assert found.test == "sign flips" and found.p == pytest.approx(2 * 0.5**6, abs=0.01)


def test_all_rotations_of_a_question_are_one_pair() -> None:
    before, after = rotations({1: [1, 1], 2: [0, 0], 3: [1, 0]}), rotations({1: [1, 1], 2: [1, 1], 3: [1, 1]})
    found = paired_test("official", "mmbench", before, after)
    assert (found.test, found.p) == ("exact McNemar", 0.5)


def test_few_items_establish_nothing_and_say_how_little_they_could() -> None:
    [one], [other] = plain([({}, 0.2)]), plain([({}, 0.9)])
    assert paired_test("official", "docvqa", [one], [other]).p == 1.0 and math.isnan(paired_test("official", "docvqa", [one], [other]).detectable)
    same = plain([({}, 1.0)] * 5)
    assert paired_test("official", "mmmu", same, same).p == 1.0 and paired_test("official", "mmmu", same, same).detectable > 50
    assert paired_test("official", "mmmu", [], []).p == 1.0


def test_benchmarks_draw_apart() -> None:
    scored = plain([({"id": "x"}, float(n % 2)) for n in range(50)])
    one, other = (total("official", name, scored).score.draws for name in ("mmmu", "mathvista"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05 and (total("official", "mmmu", scored).score.draws == one).all()
