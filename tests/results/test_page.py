"""The Markdown of made-up seeds, and of runs on disk as the stages leave them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from insightv.config import Config, UserError
from insightv.config_file import load_config, save_config
from insightv.datasets.sources import write_problems
from insightv.evaluation.statistics import Rate
from insightv.loop import plan
from insightv.results.page import page, sentence
from insightv.results.seeds import Seed, contrasts
from insightv.results.write import results
from insightv.store import Run, write_records

PAIRS = [("single-fair", "pair")]


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Cells of the table below a heading."""
    lines = text.split(heading, 1)[1].split("\n|", 1)[1].split("\n\n")[0].split("\n")
    return [[cell.strip(" *") for cell in line.strip("| ").split(" | ")] for line in lines]


def test_the_page_shows_every_seed_and_every_part(own_seeds: list[Seed]) -> None:
    text = page({"test": own_seeds}, "base", PAIRS)
    assert "promise" not in page({"heldout": own_seeds}, "base", PAIRS)
    table = rows_of(text, "## Test split")
    assert [row[:2] for row in table[2:]] == [[row, seed] for row in ("base", "single-fair", "pair") for seed in ("0", "1", "2", "mean")]
    assert table[0][3:5] == ["perception", "one-hop"] and table[-1][3:8] == ["75.0", "50.0", "50.0", "50.0", "25.0"]
    tests = rows_of(text, "### Comparisons written down beforehand")
    assert [row[:2] for row in tests[2:]] == [["pair - single-fair", seed] for seed in ("0", "1", "2", "mean")]
    assert tests[-1][2].startswith("-12.5 [")
    assert "240 different problems in all" in text
    assert "points and p < 0.001 in every seed: **kept**" in text  # +37.5 points
    assert "- pair: +75.0" in text
    assert ["pair", "120 of 240", "100", "0", "0", "0", "0"] in rows_of(text, "### Wrong chains")
    assert rows_of(text, "### Headroom")[-1][:3] == ["pair", "base", "120"]
    assert "nan" not in text


def test_one_seed_without_scenes_leaves_out_what_is_not_known(own_seeds: list[Seed]) -> None:
    problems = {name: problem.model_copy(update={"meta": {"family": "f"}}) for name, problem in own_seeds[0].problems.items()}
    seed = replace(own_seeds[0], problems=problems, faults={row: {} for row in own_seeds[0].systems})
    text = page({"test": [seed]}, "base", PAIRS)
    assert "### Wrong chains" not in text and "### Is perception kept?" not in text and "| **mean**" not in text and "nan" not in text


def test_a_sentence_says_whichever_way_it_fell(own_seeds: list[Seed]) -> None:
    [found] = contrasts(own_seeds, PAIRS)
    assert sentence(found).startswith("pair - single-fair = -12.5 [") and "3 of 3 seeds in this direction" in sentence(found)
    for low, high, said in ((0.001, 0.2, "pair was better"), (-0.2, -0.001, "the single model was better"), (-0.1, 0.1, "order is not established here")):
        assert f"{said}. Detectable: 1.5." in sentence(replace(found, strict=Rate(0, low, high, 9), detectable=0.015))
    assert "no difference is established here" in sentence(replace(found, mean=Rate(0, -0.1, 0.1, 9)), planned=False)


@pytest.mark.parametrize(
    ("mean", "said"), [(Rate(0, -0.005, 0.1, 9), "kept."), (Rate(-0.009, -0.03, 0.01, 9), "does not exclude"), (Rate(-0.02, -0.03, 0, 9), "**not kept**")]
)
def test_perception_is_held_to_one_point(monkeypatch: pytest.MonkeyPatch, own_seeds: list[Seed], mean: Rate, said: str) -> None:
    monkeypatch.setattr("insightv.results.page.contrasts", lambda *arguments: [replace(c, mean=mean) for c in contrasts(*arguments)])
    text = page({"test": own_seeds}, "base", PAIRS)
    assert said in text.split("### Is perception kept?")[1].split("###")[0]


def write_run(folder: Path, seed: Seed) -> Path:
    """A finished run, all stages committed as a real one commits them."""
    systems = {"rows": ("base", "pair", "pair+dpo"), "splits": ("test",), "primary": (("pair", "pair+dpo"),)}
    config = Config.model_validate({"run": folder, "seed": seed.seed, "world": {}, "dpo": {"rounds": 2}, "systems": systems})
    run, steps = Run(folder), plan(config)
    save_config(config, folder / "config.yaml")
    for name in steps.steps:
        stage = steps.stage(run, name)
        if name == "problems":
            write_problems(stage.work / "test.jsonl", seed.problems.values())
        elif name.startswith("evaluate-"):
            write_records(stage.work / "solutions.jsonl", seed.systems[name.removeprefix("evaluate-").removesuffix("+dpo")])
        else:
            (stage.work / "made").write_text(name, encoding="utf-8")
        stage.commit({"steps": {"reasoner": 1000, "summarizer": 300, "dpo1": 20, "dpo2": 1}.get(name, 0)})
    return folder


def test_runs_become_a_page(tmp_path: Path, own_seeds: list[Seed]) -> None:
    runs = [write_run(tmp_path / str(seed.seed), seed) for seed in own_seeds[:2]]
    text = results(runs, tmp_path / "docs" / "results.md")
    assert (tmp_path / "docs" / "results.md").read_text(encoding="utf-8") == text
    table = rows_of(text, "## Test split")
    assert {(row[0], row[-2]) for row in table[2:]} == {("base", "0"), ("pair", "1300"), ("pair+dpo", "1321")}
    assert "pair+dpo - pair = +0.0 [+0.0, +0.0] points, 0 of 2 seeds in this direction; the paper's order is not established here" in text


def test_runs_that_are_no_seeds_of_one_experiment_are_refused(tmp_path: Path, own_seeds: list[Seed]) -> None:
    first, second = (write_run(tmp_path / str(seed.seed), seed) for seed in own_seeds[:2])
    with pytest.raises(UserError, match="no run at"):
        results([tmp_path])
    with pytest.raises(UserError, match="same seed"):
        results([first, first])
    save_config(load_config(second / "config.yaml", ["generate.n=9"]), second / "config.yaml")
    with pytest.raises(UserError, match=r"more than their seed \(generate\)"):
        results([first, second])


def test_a_run_must_be_whole(tmp_path: Path, own_seeds: list[Seed]) -> None:
    run = write_run(tmp_path / "run", own_seeds[0])
    path = run / "summarizer" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(manifest | {"outputs": {"made": "another"}}), encoding="utf-8")
    with pytest.raises(UserError, match="evaluate-pair is older than summarizer"):
        results([run])
    path.unlink()
    with pytest.raises(UserError, match="it has no summarizer"):
        results([run])
