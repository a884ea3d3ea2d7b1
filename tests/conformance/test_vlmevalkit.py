"""VLMEvalKit asks the pair's server about tables of ours, and reads the right answers: `make conformance HARNESS=PYTHON VLMEVALKIT=FOLDER`.

FOLDER holds VLMEvalKit (e8e78f0), and PYTHON is that of an environment with what it requires; of that torchvision and decord may be missing.
"""

import csv
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.served import serve_pair
from insightv.evaluation.harnesses import PLACES, prepare
from insightv.evaluation.profiles import VLMEVAL, mark
from tests.conformance.harness_rows import RUNS, TABLES, answering, gold, ours, rows, said, table

HARNESS, KIT = os.environ.get("CONFORMANCE_HARNESS", ""), os.environ.get("CONFORMANCE_VLMEVALKIT", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (HARNESS and KIT), reason="CONFORMANCE_HARNESS and CONFORMANCE_VLMEVALKIT name no interpreter and folder"),
]

TABLED = [name for name in RUNS if PLACES[name].made_by]
FIGURES: dict[str, dict[str, float]] = {
    "mmbench": {"split=none|Overall": 1 / 3},
    "mme": {"perception": 500, "reasoning": 200},
    "ocrbench": {"Final Score": 3, "Final Score Norm": 0.3},
    **{name: {"Overall": 60} for name in ("chartqa", "textvqa", "docvqa")},
}
"""Where it is not a share of 3/5: three rows of MMBench are rotations of one question."""
STAND_IN = """
import importlib.abc, importlib.machinery, sys, types


class Nothing(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(name, (), {})


def member(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Nothing(name, (), {})


class Loader(importlib.abc.Loader):
    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__, module.__getattr__ = [], member
        return module

    def exec_module(self, module):
        pass


class Finder(importlib.abc.MetaPathFinder):
    def __init__(self, *packages):
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        if any(name == package or name.startswith(package + ".") for package in self.packages):
            return importlib.machinery.ModuleSpec(name, Loader(), is_package=True)


sys.meta_path.insert(0, Finder("vlmeval.vlm"))
sys.meta_path.append(Finder("torchvision", "decord"))
"""
"""An empty package for models that run in its own process, and for what these and videos need, where it is missing: an endpoint needs none of them."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All benchmarks in one run: their files, where its tables lie, its figures, and what the agents were asked."""
    folder = tmp_path_factory.mktemp("kit")
    (folder / "stand-in").mkdir()
    (folder / "stand-in" / "sitecustomize.py").write_text(STAND_IN)
    files = {name: table(folder, name) for name in TABLED}
    agents, pictures = answering(TABLES)
    with serve_pair(agents, "", None) as server:
        command = prepare("vlmevalkit", files, folder / "data", Path(KIT), server.url, "insight-v")
        # As it is printed, but for the interpreter; tables are read more easily here than Excel's files.
        asked = command.replace(" python ", f" {shlex.quote(HARNESS)} ", 1)
        environment = os.environ | {"PYTHONPATH": str(folder / "stand-in"), "PRED_FORMAT": "tsv", "HF_HUB_OFFLINE": "1"}
        finished = subprocess.run(asked, shell=True, capture_output=True, text=True, timeout=540, env=environment, cwd=folder)
    assert finished.returncode == 0, finished.stderr[-4000:]
    [status] = (folder / "data" / "results" / "insight-v").glob("T*/status.json")
    found = json.loads(status.read_text())["datasets"]
    figures = {name: found[_data(name)].get("metrics", found[_data(name)]) for name in TABLED}
    print("", *(f"{name}: {values}" for name, values in figures.items()), sep="\n")
    return {"folder": folder, "files": files, "tables": status.parent, "figures": figures, "asked": len(agents.bodies), "pictures": pictures}


def _data(name: str) -> str:
    return f"{PLACES[name].data}_local"


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_row_is_asked_of_both_agents_once(run: dict[str, Any]) -> None:
    assert run["asked"] == 2 * sum(len(rows(name, TABLES)) for name in TABLED)


@pytest.mark.parametrize("name", TABLED)
def test_its_rows_are_our_items_and_its_figures_those_of_the_answers(run: dict[str, Any], name: str) -> None:
    problems, given = ours(run["folder"], name, run["files"][name]), rows(name, TABLES)
    predicted = {row["index"]: row for row in _table(run["tables"] / f"insight-v_{_data(name)}.tsv")}
    assert predicted.keys() == {problem.meta["index"] for problem, _ in problems}
    for n, ((problem, pictures), row) in enumerate(zip(problems, given, strict=True)):
        assert predicted[problem.meta["index"]]["prediction"] == said(name, n, row) and run["pictures"][name, n] == pictures
        assert predicted[problem.meta["index"]]["question"] == problem.meta["row"]["question"]
    wanted = FIGURES.get(name, {"split=none|Overall": 3 / 5})
    assert {key: run["figures"][name].get(key) for key in wanted} == pytest.approx(wanted)
    # Circular groups, sums and DocVQA's distances have no score of a row in them.
    scored = [path for path in run["tables"].glob(f"insight-v_{_data(name)}*_result*.tsv") if name not in ("mmbench", "docvqa")]
    columns = {problem.meta["index"]: problem.meta["row"] for problem, _ in problems}
    for row in (row for path in scored for row in _table(path)):
        marked = mark(VLMEVAL, name, row["prediction"], columns[row["index"]]).value
        assert float(row.get("hit") or row["eval_score"]) == (row["prediction"] == gold(name, row)) == marked
