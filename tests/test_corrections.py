"""Corrections by hand: the last of a chain counts, one that says nothing takes back, and both kinds reach the data sets' join."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from insightv import corrections
from insightv.config import UserError
from insightv.datasets import lean
from insightv.records import Chain, Correction, Verdict


def test_the_last_counts_and_an_empty_one_takes_back(tmp_path: Path) -> None:
    assert corrections.read(tmp_path) == {} and corrections.digest({}) == []
    corrections.amend(tmp_path, "a", "p", {"correct": True})
    first = corrections.read(tmp_path)
    corrections.amend(tmp_path, "b", "p", {"flagged": True})
    corrections.amend(tmp_path, "a", "p", {"correct": False, "note": "no"})
    assert {name: (one.correct, one.flagged) for name, one in corrections.read(tmp_path).items()} == {"a": (False, False), "b": (None, True)}
    assert corrections.digest(corrections.read(tmp_path)) != corrections.digest(first)
    corrections.amend(tmp_path, "b", "p", {"flagged": False})
    corrections.amend(tmp_path, "a", "p", {"correct": True, "note": ""})
    assert corrections.read(tmp_path) == first
    corrections.amend(tmp_path, "a", "p", {"correct": None})
    assert corrections.read(tmp_path) == {}
    assert len((tmp_path / corrections.FILE).read_text().splitlines()) == 6


def test_what_is_not_named_stays(tmp_path: Path) -> None:
    """Two people at two windows, or one who is quick."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: corrections.amend(tmp_path, f"c{n % 4}", "p", {"correct": False} if n < 4 else {"flagged": True}), range(8)))
    assert {name: (one.correct, one.flagged) for name, one in corrections.read(tmp_path).items()} == {f"c{n}": (False, True) for n in range(4)}


def test_a_half_written_line_counts_for_nothing_and_takes_none_with_it(tmp_path: Path) -> None:
    corrections.amend(tmp_path, "a", "p", {"correct": True})
    end = corrections.end(tmp_path)
    with (tmp_path / corrections.FILE).open("ab") as file:
        file.write(b'{"chain_id":"b","prob')
    assert corrections.read(tmp_path).keys() == {"a"} and corrections.end(tmp_path) == end
    corrections.amend(tmp_path, "c", "p", {"flagged": True})
    assert corrections.read(tmp_path).keys() == {"a", "c"} and corrections.read(tmp_path, end).keys() == {"a"}
    with (tmp_path / corrections.FILE).open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(UserError, match=r"corrections.jsonl:3: not a Correction"):
        corrections.read(tmp_path)


def said(chain: str, problem: str, **more: object) -> Correction:
    return Correction.model_validate({"chain_id": chain, "problem_id": problem, **more})


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
