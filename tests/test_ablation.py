"""An ablation's runs: which there are, what each takes from the others, and the page that they make together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from insightv import ablation
from insightv.config import Config, UserError
from insightv.datasets.sources import write_problems
from insightv.loop import plan
from insightv.records import Problem, Solution
from insightv.results.ablation import write
from insightv.results.seeds import Seed
from insightv.store import Run, write_records
from tests.results.conftest import make_seed, make_solution, pair_solution

ROWS = ("base", "plain", "single-fair", "reasoner", "pair", "pair+dpo1", "pair+dpo")
CELLS = {
    "core": {"rows": ROWS, "seeds": (3, 4)},
    "negative": {"rows": ("pair-shuffled",), "seeds": (3, 4)},
    "quarter": {"rows": ("reasoner", "pair"), "seeds": (3, 4), "set": {"reasoning.share": 0.25}},
    "surface-low": {"rows": ("base", "single-fair", "pair"), "seeds": (3,), "set": {"world.teacher.misperception": 0.01}},
    "surface-easy": {"rows": ("base", "single-fair", "pair"), "seeds": (3,), "set": {"world.difficulty": 0.1}},
}


def settings(folder: Path) -> Config:
    return Config.model_validate(
        {
            "run": folder / "runs",
            "world": {},
            "dpo": {"rounds": 2},
            "systems": {"splits": ("test",), "primary": (("plain", "pair"), ("pair", "pair+dpo"))},
            "ablate": {"cells": CELLS, "contrasts": [["pair-shuffled", "pair", "Is the chain used?"]]},
        }
    )


def test_cells_with_the_same_settings_share_their_runs_and_others_take_from_them(tmp_path: Path) -> None:
    config = settings(tmp_path)
    parts = ablation.parts(config, config.ablate.cells)
    assert [(part.cells, part.seed, part.config.run.name) for part in parts] == [
        (("core", "negative"), 3, "seed-3"),
        (("quarter",), 3, "quarter-seed-3"),
        (("surface-low",), 3, "surface-low-seed-3"),
        (("surface-easy",), 3, "surface-easy-seed-3"),
        (("core", "negative"), 4, "seed-4"),
        (("quarter",), 4, "quarter-seed-4"),
    ]
    first, quarter = parts[0].config, parts[1].config
    assert first.systems.rows == (*ROWS, "pair-shuffled") and quarter.systems.rows == ("reasoner", "pair")
    assert (quarter.reasoning.share, first.reasoning.share, quarter.seed) == (0.25, 1.0, 3)
    assert [path.name for path in quarter.reuse] == ["seed-3", "surface-low-seed-3", "surface-easy-seed-3"]
    assert quarter.journal == first.journal == config.run / "journal"
    # A comparison or a baseline that no row of the run stands for is none there.
    assert quarter.systems.primary == () and quarter.systems.baseline == "reasoner"
    assert first.systems.primary == config.systems.primary


def test_rows_that_are_there_stay_in_the_table_whichever_cells_are_asked_for(tmp_path: Path) -> None:
    config = settings(tmp_path)
    (config.run / "seed-3" / "evaluate-base").mkdir(parents=True)
    (config.run / "seed-3" / "evaluate-base" / "manifest.json").write_text("{}")
    [part, *_] = ablation.parts(config, {"negative": config.ablate.cells["negative"]})
    assert part.config.systems.rows == ("pair-shuffled", "base")


def test_only_what_is_asked_for_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("insightv.verbs.run", lambda config, *, retry_failed: made.append(config.run.name))
    config = settings(tmp_path)
    ablation.ablate(config, ["core", "quarter"], [4], retry_failed=False, say=lambda _: None)
    assert made == ["seed-4", "quarter-seed-4"]
    with pytest.raises(UserError, match="no cell 'cor'; there are core, negative"):
        ablation.ablate(config, ["cor"], [], retry_failed=False, say=print)
    with pytest.raises(UserError, match="no cell has the seed 9; there are 3, 4"):
        ablation.ablate(config, [], [9], retry_failed=False, say=print)
    with pytest.raises(UserError, match=r"no ablate\.cells; configs/ablation\.yaml has the paper's"):
        ablation.ablate(config.model_copy(update={"ablate": type(config.ablate)()}), [], [], retry_failed=False, say=print)


def finish(part: ablation.Part, seed: Seed) -> None:
    """A finished run, all its stages committed as a real one commits them."""
    run, steps = Run(part.config.run), plan(part.config)
    for name in steps.steps:
        stage = steps.stage(run, name)
        if name == "problems":
            write_problems(stage.work / "test.jsonl", seed.problems.values())
        elif name.startswith("evaluate-"):
            write_records(stage.work / "solutions.jsonl", seed.systems[name.removeprefix("evaluate-")])
        else:
            (stage.work / "log.jsonl").write_text('{"step": 1, "logp_chosen": -3.0, "logp_rejected": -4.0, "kl": 0.1}\n', encoding="utf-8")
        stage.commit({"steps": 10})


def answering(rate: int) -> Callable[[int, Problem], Solution]:
    return lambda place, problem: make_solution(problem, place % 10 < rate)


def seed_of(number: int, gain: int = 0) -> Seed:
    systems: dict[str, Callable[[int, Problem], Solution]] = {row: answering(4) for row in ROWS} | {"pair-shuffled": answering(2)}
    systems |= {"pair": pair_solution, "pair+dpo": answering(8 + gain), "pair+dpo1": answering(7), "reasoner": pair_solution}
    return make_seed(number, [f"s{number}-{place}" for place in range(40)], systems)


def test_finished_runs_become_a_page_with_its_plots_and_the_rest_is_named(tmp_path: Path) -> None:
    config = settings(tmp_path)
    parts = ablation.parts(config, config.ablate.cells)
    for part in parts[:-1]:
        finish(part, seed_of(part.seed))
    out = tmp_path / "docs" / "results.md"
    missing = write(config, parts, out)
    assert missing == [f"{config.run / 'quarter-seed-4'}: reasoner, pair"]
    text = out.read_text(encoding="utf-8")
    assert "Not finished: " in text and "| base | baseline | 40.0 [" in text and "| pair+dpo | + iterative DPO | 80.0 [" in text
    assert "pair+dpo - pair = +17.5" in text.split("## Comparisons written down beforehand")[1].split("##")[0]
    assert "- Is the chain used? pair - pair-shuffled = +42.5" in text
    assert "| 0.25 | reasoner | 1 | 62.5 [" in text and "| 1 | pair | 2 | 62.5 [" in text
    surface = text.split("## Response surface")[1].split("## Every row")[0]
    assert [line.split("|")[1:3] for line in surface.splitlines() if line.startswith("| 0")] == [[" 0.1 ", " 0.05 "], [" 0.5 ", " 0.01 "], [" 0.5 ", " 0.05 "]]
    for name in ("seeds", "data", "surface", "tokens", "errors", "rounds"):
        assert f"(results-{name}.svg)" in text
        assert ElementTree.fromstring((out.parent / f"results-{name}.svg").read_bytes()).tag.endswith("svg")
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    write(config, parts, out)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


def test_nothing_is_written_of_nothing_and_stale_rows_are_refused(tmp_path: Path) -> None:
    config = settings(tmp_path)
    parts = ablation.parts(config, config.ablate.cells)
    with pytest.raises(UserError, match="no run with the config's own settings is finished yet"):
        write(config, parts, tmp_path / "results.md")
    finish(parts[0], seed_of(3))
    stale = replace(parts[0], config=parts[0].config)
    manifest = stale.config.run / "summarizer" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"log.jsonl"', '"other.jsonl"'))
    with pytest.raises(UserError, match="is older than summarizer; run its config again"):
        write(config, parts, tmp_path / "results.md")
