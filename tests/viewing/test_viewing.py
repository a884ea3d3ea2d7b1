"""The index says what the run's files say, whatever is asked of it."""

import json
import shutil
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightv.records import Chain, Problem, Score, Step, Verdict
from insightv.store import write_records
from insightv.viewing import find
from insightv.viewing.find import Filters, Viewer
from insightv.viewing.index import refreshed

FAMILIES = ("count", "colour")


def problem(number: int) -> Problem:
    return Problem(
        id=f"{number:032x}", question=f"How many squares, case {number}?", images=(f"{number:032x}",), answers=("3",), meta={"family": FAMILIES[number % 2]}
    )


def chain(number: int, index: int) -> Chain:
    steps = tuple(Step(summary=f"Look {index}", reasoning="green bar " * (number % 7) + "ends") for _ in range(1 + number % 3))
    defects = ("retried",) if number % 5 == 0 else ()
    return Chain(
        id=f"{number:016x}{index:016x}", problem_id=problem(number).id, model="m", mode="single", index=index, steps=steps, answer="3", defects=defects
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    for name in ("problems", "generate", "assess", "reasoning-data", "round1-data"):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text(json.dumps({"hash": name, "outputs": {}}))
    (folder / "config.yaml").write_text("{}")
    problems = [problem(number) for number in range(80)]
    chains = [chain(number, index) for number in range(80) for index in range(2)]
    verdicts = [
        Verdict(chain_id=one.id, problem_id=one.problem_id, correct=(None, True, False, True)[at % 4], by="judge", reason=f"why {at}")
        for at, one in enumerate(chains)
    ]
    scores = [Score(chain_id=one.id, problem_id=one.problem_id, value=(at * 7) % 101, reason="said") for at, one in enumerate(chains) if at % 3]
    write_records(folder / "problems" / "train.jsonl", problems)
    write_records(folder / "generate" / "chains.jsonl", chains)
    write_records(folder / "assess" / "verdicts.jsonl", verdicts)
    write_records(folder / "assess" / "scores.jsonl", scores)
    used = {"chain": {"chain_id": chains[0].id, "score": None}}
    rows = [{"id": "r", "part": "reasoning", "problem_id": chains[0].problem_id, "chains": used}]
    (folder / "reasoning-data" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reasoning-data" / "rejections.jsonl").write_text(
        json.dumps({"chain_id": chains[1].id, "problem_id": chains[1].problem_id, "reason": "not_best"}) + "\n"
    )
    both = {role: {"chain_id": one.id, "score": {"value": value}} for role, one, value in (("chosen", chains[2], 90), ("rejected", chains[3], 20))}
    (folder / "round1-data" / "manifest.jsonl").write_text(json.dumps({"id": "p", "part": "score", "problem_id": chains[2].problem_id, "chains": both}) + "\n")
    (folder / "round1-data" / "rejections.jsonl").write_text("")
    return folder


@pytest.fixture(scope="module")
def viewer(run: Path) -> Viewer:
    return Viewer(refreshed(run))


def everything(viewer: Viewer, filters: Filters) -> list[dict[str, Any]]:
    """All pages, each begun where the last one ended."""
    rows, after = [], None
    while True:
        page = viewer.chains(filters, after)
        rows += page["rows"]
        assert len(page["rows"]) <= find.PAGE
        if (after := page["next"]) is None:
            assert len(rows) == page["total"]
            return rows


CHOICES: dict[str, Any] = {
    "family": st.sampled_from([None, *FAMILIES, "none"]),
    "verdict": st.sampled_from([None, "right", "wrong", "open"]),
    "low": st.none() | st.integers(0, 100),
    "high": st.none() | st.integers(0, 100),
    "defect": st.sampled_from([None, "retried", "truncated"]),
    "doubt": st.sampled_from([None, "any", "rule", "score"]),
    "words": st.sampled_from([None, "green", '"green bar"', "case 17", "bar Look", "NEAR( *", "why"]),
    "sort": st.sampled_from(["order", "score", "score-up", "words", "words-up"]),
}


def expected(run: Path, filters: Filters) -> list[str]:
    """The same selection, from the files."""
    verdicts = {row["chain_id"]: row for row in map(json.loads, (run / "assess" / "verdicts.jsonl").open())}
    scores = {row["chain_id"]: row["value"] for row in map(json.loads, (run / "assess" / "scores.jsonl").open())}
    found = []
    for number in range(80):
        for one in (chain(number, 0), chain(number, 1)):
            score, said = scores.get(one.id), {True: "right", False: "wrong", None: "open"}[verdicts[one.id]["correct"]]
            # Every answer is right by the rules.
            doubt = "rule" if said == "wrong" else "score" if said == "right" and score is not None and score < 40 else ""
            text = f"{problem(number).question} {' '.join(f'{s.summary} {s.reasoning}' for s in one.steps)} {one.answer} {verdicts[one.id]['reason']}".lower()
            text += " said" if score is not None else ""
            words = "".join(letter if letter.isalnum() else " " for letter in text).split()
            wanted = {None: True, "green": "green" in words, '"green bar"': "green" in words, "case 17": {"case", "17"} <= set(words), "why": True}
            wanted |= {"bar Look": {"bar", "look"} <= set(words), "NEAR( *": "near" in words}
            tests = (
                filters.family in (None, FAMILIES[number % 2]),
                filters.verdict in (None, said),
                filters.low is None or (score is not None and score >= filters.low),
                filters.high is None or (score is not None and score <= filters.high),
                filters.defect is None or filters.defect in one.defects,
                filters.doubt is None or (doubt != "" if filters.doubt == "any" else doubt == filters.doubt),
                wanted[filters.words],
            )
            found += [one.id] if all(tests) else []
    return found


@given(filters=st.fixed_dictionaries(CHOICES).map(lambda chosen: Filters(**chosen)))
def test_any_selection_is_that_of_the_files(filters: Filters, run: Path, viewer: Viewer) -> None:
    rows = everything(viewer, filters)
    assert Counter(row["id"] for row in rows) == Counter(expected(run, filters))
    exported = [json.loads(line) for line in viewer.export(filters)]
    assert sorted(row["chain"]["id"] for row in exported) == sorted(row["id"] for row in rows)
    if filters.sort != "order":
        values = [row[filters.sort.removesuffix("-up")] for row in rows]
        order = [(value is not None, value or 0) for value in values]
        assert order == sorted(order, reverse=not filters.sort.endswith("-up"))


def test_a_problem_comes_with_all_that_belongs_to_it(viewer: Viewer) -> None:
    first, second = chain(0, 0), chain(0, 1)
    found = viewer.problem(first.problem_id)
    assert found and found["problem"]["question"] == problem(0).question and found["split"] == "train"
    assert [row["chain"]["id"] for row in found["chains"]] == [first.id, second.id]
    assert found["chains"][0]["judged"]["by"] == "judge" and found["chains"][1]["rated"]["reason"] == "said"
    assert {(use["chain"], use["stage"], use["reason"]) for use in found["uses"]} == {
        (first.id, "reasoning-data", ""),
        (second.id, "reasoning-data", "not_best"),
    }
    assert viewer.problem("nothing") is None


def test_pairs_have_margins(viewer: Viewer) -> None:
    page = viewer.pairs("round1-data")
    assert page["total"] == 1 and page["next"] is None
    assert (page["rows"][0]["chosen"], page["rows"][0]["rejected"], page["rows"][0]["margin"]) == (chain(1, 0).id, chain(1, 1).id, 70)
    assert viewer.pairs("round1-data", after=page["rows"][0]["n"])["rows"] == []


def test_facets_and_plots_count_what_there_is(viewer: Viewer) -> None:
    facets = viewer.facets()
    stage = facets["stages"]["generate"]
    assert stage["chains"] == 160 and sum(stage["verdict"].values()) == 160 and stage["defect"] == {"retried": 32}
    assert facets["sets"]["reasoning-data"] == {"entered": 1, "not_best": 1} and facets["pairs"] == {"round1-data": 1}
    plots = viewer.plots("generate")
    assert sum(right + other for _, right, other in plots["words"]) == 160
    assert viewer.plots("round1-chains")["margins"] == [[70, 1]]


def test_only_the_runs_own_images_are_there(viewer: Viewer) -> None:
    assert viewer.has_image(f"{3:032x}")
    assert not any(map(viewer.has_image, (f"{300:032x}", "../../etc/passwd", "%", "", f"{3:032x}\n")))


def test_it_is_made_anew_when_a_stage_is(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    before = refreshed(copied).stat()
    assert refreshed(copied).stat().st_ino == before.st_ino
    write_records(copied / "generate" / "chains.jsonl", [chain(0, 0)])
    (copied / "generate" / "manifest.json").write_text('{"hash": "other", "outputs": {}}')
    assert Viewer(refreshed(copied)).chains(Filters())["total"] == 1
    (copied / ".view" / "index.sqlite").write_bytes(b"no database")
    assert Viewer(refreshed(copied)).chains(Filters())["total"] == 1


def test_an_export_goes_on_in_another_thread(viewer: Viewer) -> None:
    lines = viewer.export(Filters())
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        found = [thread.submit(next, lines).result() for thread in (one, other, one, other)]
    assert len({json.loads(line)["chain"]["id"] for line in found}) == 4


def test_it_can_only_be_read(viewer: Viewer) -> None:
    with viewer._open() as database, pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.execute("DELETE FROM chains")
