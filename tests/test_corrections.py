"""Corrections by hand: the last of a chain counts, one that says nothing takes back, and both kinds reach the data sets' join."""

from pathlib import Path

from insightv import corrections
from insightv.datasets import lean
from insightv.records import Chain, Correction, Verdict


def said(chain: str, problem: str, **more: object) -> Correction:
    return Correction.model_validate({"chain_id": chain, "problem_id": problem, **more})


def test_the_last_counts_and_an_empty_one_takes_back(tmp_path: Path) -> None:
    assert corrections.read(tmp_path) == {} and corrections.digest(tmp_path) == []
    corrections.add(tmp_path, said("a", "p", correct=True))
    first = corrections.digest(tmp_path)
    corrections.add(tmp_path, said("b", "p", flagged=True))
    corrections.add(tmp_path, said("a", "p", correct=False, note="no"))
    assert {name: (one.correct, one.flagged) for name, one in corrections.read(tmp_path).items()} == {"a": (False, False), "b": (None, True)}
    assert corrections.digest(tmp_path) != first
    corrections.add(tmp_path, said("b", "p"))
    corrections.add(tmp_path, said("a", "p", correct=True))
    assert corrections.digest(tmp_path) == first
    corrections.add(tmp_path, said("a", "p"))
    assert corrections.digest(tmp_path) == []
    assert len((tmp_path / corrections.FILE).read_text().splitlines()) == 6


def test_a_correction_stands_behind_the_verdict_of_its_problem() -> None:
    struct = lean.struct(Verdict)
    given = [struct(chain_id=name, problem_id=problem, correct=True, by="judge") for name, problem in (("a", "1"), ("b", "1"), ("c", "3"))]
    standing = {one.chain_id: one for one in (said("x", "2", correct=False), said("a", "1", correct=False), said("c", "3", flagged=True))}
    found = [(one.chain_id, one.problem_id, one.correct, one.by) for one in corrections.corrected(iter(given), standing, struct)]  # type: ignore[arg-type]
    assert found == [("a", "1", True, "judge"), ("b", "1", True, "judge"), ("a", "1", False, "hand"), ("x", "2", False, "hand"), ("c", "3", True, "judge")]


def test_a_flagged_chain_is_not_usable_and_says_why() -> None:
    struct = lean.struct(Chain)
    chains = [struct(id=name, problem_id="1", model="m", mode="single", index=0) for name in "ab"]
    first, second = corrections.without_flagged(iter(chains), {"a": said("a", "1", flagged=True, note="made up")})  # type: ignore[arg-type]
    assert (first.status, first.reason) == ("defect", "flagged by hand: made up") and second == chains[1]
