"""What is wrong with chains, and what became of them, on made-up chains whose faults are known."""

from types import SimpleNamespace

import pytest

from insightv.results.faults import chain_faults, headroom, outcomes, taxonomy
from insightv.results.seeds import RIGHT, Seed
from insightv.world.truth import chain_truth


def test_a_fault_is_named_exactly_where_the_chain_is_not_right(own_seeds: list[Seed]) -> None:
    seed = own_seeds[0]
    for solution in seed.systems["pair"]:
        assert solution.chain is not None
        right = chain_truth(seed.problems[solution.problem_id], solution.chain)[1]
        assert (seed.faults["pair"][solution.problem_id] == RIGHT) is right


def test_chains_that_are_missing_unknown_or_not_scored(made: SimpleNamespace) -> None:
    problem, other = made.problem("a", "entry"), made.problem("b", "entry")
    reasoned, direct = made.solution(problem, True, made.chain(problem)), made.solution(other, False)
    known = {"a": problem, "b": other}
    assert chain_faults(known, [made.solution(problem, True), direct]) == {}
    assert chain_faults(known, [reasoned, direct]) == {"a": RIGHT, "b": "format"}
    assert chain_faults(known, [made.solution(problem, None, made.chain(problem))]) == {}
    assert chain_faults({"a": problem.model_copy(update={"meta": {}})}, [reasoned]) == {}


def test_faults_are_counted_over_seeds(own_seeds: list[Seed]) -> None:
    assert taxonomy(own_seeds, "pair") == {RIGHT: 120, "perception": 120}
    assert taxonomy(own_seeds, "base") == {}


def test_fixed_misled_and_right_by_luck(own_seeds: list[Seed]) -> None:
    seen, right = outcomes(own_seeds, "pair")
    assert (seen.fault, seen.answered.n, seen.answered.value) == ("perception", 120, 0.5)
    assert (seen.corrected.n, seen.corrected.value) == (60, 0.5)  # the chain's own answer was right by luck in the other half
    assert (right.fault, right.answered.value, right.corrected.n) == (RIGHT, 0.75, 0)


def test_headroom_is_what_direct_answers_add(own_seeds: list[Seed]) -> None:
    found = headroom(own_seeds, "pair", "base")
    assert found.rescue.n == 120 and found.rescue.value == pytest.approx(0.25)  # the base is right at every fourth place
    assert found.union.value == pytest.approx(0.125)  # at one place in eight the chain's answer is wrong and the base right
