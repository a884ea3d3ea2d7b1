"""Every control of the table on the smallest whole run, and a second run that takes all of it from the first."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from insightv import loop, showing, verbs
from insightv.config import Config, UserError
from insightv.config_file import load_config
from insightv.estimates import trainings
from insightv.hosting import trained
from insightv.publish.write import publish
from insightv.records import Problem, Score, Solution
from insightv.results.write import results
from insightv.stages.context import SHIPPED_BASE
from insightv.store import read_records

SMALL = Path(__file__).parent / "small.yaml"
ROWS = ("plain", "single-fair-vote", "two-roles", "pair-shuffled", "pair-blind", "pair-high", "pair+rlaif", "pair+rft", "pair+dpo-pooled", "pair+dpo-refreshed")
TEST = 6

pytestmark = pytest.mark.usefixtures("in_this_process")


def small(run: Path, *more: str) -> Config:
    rows = ", ".join(("base", "pair", *ROWS))
    told = [f"run={run}", f"models.base={SHIPPED_BASE}", "parallel=1", f"systems.rows=[{rows}]", "dpo.rounds=2", f"world.test={TEST}", "world.heldout=0"]
    return load_config(SMALL, [*told, *more])


@pytest.fixture(scope="module")
def whole(in_this_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = small(tmp_path_factory.mktemp("controls") / "run")
    verbs.run(config)
    return config.run


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_bytes())


def traced(folder: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, (folder / "manifest.jsonl").open())


def solutions(run: Path, row: str) -> dict[str, Solution]:
    return {solution.problem_id: solution for solution in read_records(run / f"evaluate-{row}" / "solutions.jsonl", Solution)}


def test_every_control_is_trained_and_evaluated(whole: Path) -> None:
    for row in ROWS:
        assert [solution.status for solution in solutions(whole, row).values()] == ["ok"] * TEST, row


def test_each_control_is_trained_on_what_it_controls_for(whole: Path) -> None:
    rows = {path.parent.name: list(traced(path.parent)) for path in whole.glob("*/manifest.jsonl")}
    ids = {name: {row["id"] for row in those} for name, those in rows.items()}
    asked = {row["problem_id"] for row in rows["summary-data"]}
    assert {row["problem_id"] for row in rows["plain-data"]} == asked and len(rows["plain-data"]) == len(asked)
    assert ids["two-roles-data"] == ids["reasoning-data"] | ids["summary-data"]
    assert ids["dpo-pooled-data"] == ids["round1-data"] | ids["round2-data"]
    assert {row["part"] for row in rows["summary-high-data"]} == {"optimal", "plain"}
    assert len(rows["summary-high-data"]) == len(rows["summary-refreshed-data"]) == len(rows["summary-data"])
    own = [{row["chains"]["chain"]["model"] for row in rows[name] if row["part"] == "own"} for name in ("summary-data", "summary-refreshed-data")]
    assert own[0] and own[1] and not own[0] & own[1]
    winners = [row["chains"]["chosen"]["chain_id"] for row in rows["round1-data"]]
    assert sorted(row["chains"]["chain"]["chain_id"] for row in rows["rft-data"]) == sorted(set(winners))
    assert len(rows["rlaif-data"]) <= len(rows["round1-data"])


def test_ratings_are_of_the_first_rounds_chains_and_of_the_wrong_ones_too(whole: Path) -> None:
    judged = {name: {score.chain_id for score in read_records(whole / name / "scores.jsonl", Score)} for name in ("assess", "generate-rating")}
    assert judged["assess"] < judged["generate-rating"] and len(judged["generate-rating"]) == manifest(whole / "generate")["summary"]["chains"]
    for row in traced(whole / "rlaif-data"):
        chosen, rejected = (row["chains"][side] for side in ("chosen", "rejected"))
        assert chosen["verdict"] is None and chosen["score"]["value"] >= rejected["score"]["value"] + 5


def test_the_updates_of_a_row_are_those_behind_all_its_models(whole: Path) -> None:
    steps = {name: manifest(whole / name)["summary"]["steps"] for name in ("reasoner", "summarizer", "dpo1", "dpo2")}
    both, rounds = steps["reasoner"] + steps["summarizer"], steps["dpo1"] + steps["dpo2"]
    found = {line.split(" | ")[0].strip("| "): line for line in results([whole]).splitlines() if " | 0 | " in line}
    expected = {"base": 0, "plain": steps["summarizer"], "pair+dpo-pooled": both + rounds, "pair+dpo-refreshed": both + rounds}
    expected |= dict.fromkeys(("single-fair-vote", "two-roles", "pair", "pair-shuffled", "pair-blind", "pair-high"), both)
    expected |= dict.fromkeys(("pair+rlaif", "pair+rft"), both + steps["dpo1"])
    assert {row: int(line.split(" | ")[-2]) for row, line in found.items() if row in expected} == expected


def test_negative_controls_get_another_chain_or_no_picture(whole: Path) -> None:
    problems = {problem.id: problem for problem in read_records(whole / "problems" / "test.jsonl", Problem)}
    pair, shuffled, blind = (solutions(whole, row) for row in ("pair", "pair-shuffled", "pair-blind"))
    chains = {key: solution.chain for key, solution in shuffled.items() if solution.chain}
    for key, chain in chains.items():
        # The very chains of the pair, each once, and none at its place.
        assert chain == pair[chain.problem_id].chain and chain.problem_id != key
    assert sorted(chain.problem_id for chain in chains.values()) == sorted(problems)
    assert not {solution.chain.id for solution in pair.values() if solution.chain} & {solution.chain.id for solution in blind.values() if solution.chain}
    assert sum(solution.usage.completion for solution in solutions(whole, "single-fair-vote").values()) > 2 * TEST


def test_a_run_takes_all_that_another_one_has_made(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in whole.rglob("*") if path.is_file() and path.name != ".lock"}
    config = small(tmp_path / "second", f"reuse=[{tmp_path / 'nowhere'}, {whole}]")
    verbs.run(config)
    out = capsys.readouterr().out
    stages = {path.parent.name for path in whole.glob("*/manifest.json")}
    assert "✓" not in out and set(re.findall(r"^= (\S+)  .*taken from ", out, re.MULTILINE)) == stages
    for name in stages:
        for file in ("manifest.json", *manifest(whole / name)["outputs"]):
            assert (config.run / name / file).read_bytes() == (whole / name / file).read_bytes()
    assert (config.run / "reasoner" / "model.safetensors").samefile(whole / "reasoner" / "model.safetensors")
    assert all(row["state"] == "done" and f"taken from {whole}" in str(row["summary"]) for row in showing.status(config.run))
    assert {path.name for path in config.run.glob("images/*/*")} <= {path.name for path in whole.glob("images/*/*")}
    assert not list((config.run / ".work").glob("taken-*"))
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before

    # What differs is made here, from what was taken.
    verbs.run(small(tmp_path / "second", f"reuse=[{whole}]", "systems.rows=[base, plain]", "systems.answer.max_tokens=5"))
    assert set(re.findall(r"^✓ (\S+)", capsys.readouterr().out, re.MULTILINE)) == {"evaluate-base", "evaluate-plain"}
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


def test_whoever_asks_the_run_is_answered_by_the_pair_and_controls_are_published_by_name(whole: Path, tmp_path: Path) -> None:
    config = load_config(whole / "config.yaml")
    assert trained(config, whole) == ("reasoner", "summarizer")
    after = config.model_copy(update={"systems": config.systems.model_copy(update={"rows": ("pair", "pair+dpo", *ROWS)})})
    assert trained(after, whole) == ("dpo2", "summarizer")
    sets = ("rlaif-data", "dpo-pooled-data", "rft-data", "two-roles-data", "plain-data", "summary-high-data")
    named = (*sets, "rlaif", "rft", "two-roles", "summarizer-refreshed")
    publish(whole, str(tmp_path), named)
    cards = {path.parent.name: path.read_text(encoding="utf-8") for path in tmp_path.rglob("README.md")}
    assert {name: card for name, card in cards.items() if name in named}.keys() == set(named)
    assert "| goes on from | `reasoner`" in cards["rft"] and "| as many steps as | `dpo1`" in cards["rft"] and "| trained on | `rft-data`" in cards["rft"]


@pytest.mark.parametrize("row", ["pair+rlaif", "pair+rft", "pair+dpo-pooled", "pair+dpo-refreshed"])
def test_what_stands_on_dpo_needs_a_round_of_it(row: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^systems\.rows: {re.escape(row)} needs dpo\.rounds to be at least 1, it is 0$"):
        verbs.run(small(tmp_path / "run", f"systems.rows=[base, {row}]", "dpo.rounds=0"))


def test_a_refreshed_summary_agent_needs_a_frozen_one_beside_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^systems\.rows: with summary\.own_chains: dpo the summary agent of every row is made after DPO"):
        verbs.run(small(tmp_path / "run", "summary.own_chains=dpo"))


def test_every_training_of_a_control_is_projected(tmp_path: Path) -> None:
    config = small(tmp_path)
    steps = loop.plan(config)
    names = {name for name in loop.needed(steps) if re.fullmatch(loop.VERBS["train"], name)}
    assert {training.stage for training in trainings(config, {})} == names
    assert names >= {need for row in ROWS for need in steps.steps[f"evaluate-{row}"].needs} - {"problems", "base"}


def test_controls_of_dpo_stand_on_the_policys_own_first_round() -> None:
    steps = loop.plan(load_config(SMALL, ["dpo.pairs_from=policy", "dpo.rounds=3"])).steps
    assert steps["round1-chains-rating"].needs == ("problems", "round1-chains")
    assert steps["rlaif-data"].needs == ("problems", "round1-chains", "round1-chains-rating", "round1-data")
    assert steps["dpo-pooled-data"].needs == ("round1-data", "round2-data", "round3-data")
    assert set(steps["dpo-pooled"].needs) == {"base", "dpo-pooled-data", "reasoner", "dpo-pooled-reference", "dpo1", "dpo2", "dpo3"}
    assert steps["dpo-chains"].needs == ("problems", "dpo3") and set(steps["rft"].needs) == {"base", "rft-data", "reasoner", "dpo1"}
