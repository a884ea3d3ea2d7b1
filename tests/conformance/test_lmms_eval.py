"""lmms-eval asks the pair's server as it would any model, about files of ours, and reads the right answers: `make conformance HARNESS=PYTHON`.

PYTHON is that of an environment with lmms-eval 0.7.3.
"""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.served import serve_pair
from insightv.evaluation.harnesses import prepare
from insightv.evaluation.profiles import LMMS, mark
from tests.conformance.harness_rows import HUGGING_FACE, RUNS, answering, ours, parquet, rows, said

HARNESS = os.environ.get("CONFORMANCE_HARNESS", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HARNESS, reason="CONFORMANCE_HARNESS names no interpreter")]

FIGURES: dict[str, list[float]] = {"mme": [500, 200], "mmbench": [50], "ocrbench": [3 / 1000]}
"""Where it is not 3 of 5: MME adds what both answers about an image earn (50 a category, ten of perception and four of cognition), two rows of MMBench are
rotations of one question, and OCRBench is divided by 1,000 however many rows there are."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All benchmarks in one run: their files, the figures and samples by benchmark, and what the agents were asked."""
    folder = tmp_path_factory.mktemp("lmms")
    package = subprocess.run([HARNESS, "-c", "import lmms_eval; print(lmms_eval.__path__[0])"], capture_output=True, text=True, check=True).stdout.strip()
    files = {name: parquet(folder, name) for name in RUNS}
    agents, pictures = answering(HUGGING_FACE)
    with serve_pair(agents, "", None) as server:
        command = prepare("lmms-eval", files, folder / "out", Path(package), server.url, "insight-v")
        # As it is printed, but for the interpreter.
        asked = command.replace(" python ", f" {shlex.quote(HARNESS)} ", 1)
        environment = os.environ | {"HF_HOME": str(folder / "hf")}
        finished = subprocess.run(asked, shell=True, capture_output=True, text=True, timeout=540, env=environment, cwd=folder)
    assert finished.returncode == 0, finished.stderr[-4000:]
    [results] = (folder / "out" / "results" / "insight-v").glob("*_results.json")
    found = json.loads(results.read_text())["results"]
    # What is no number, or an interval's width, is of no interest.
    figures = {
        name: {key.split(",")[0]: value for key, value in found[_task(name)].items() if isinstance(value, int | float) and "stderr" not in key.lower()}
        for name in RUNS
    }
    print("", *(f"{name}: {values}" for name, values in figures.items()), sep="\n")
    samples = {name: [json.loads(line) for line in next(results.parent.glob(f"*_samples_{_task(name)}.jsonl")).read_text().splitlines()] for name in RUNS}
    return {"folder": folder, "files": files, "figures": figures, "samples": samples, "asked": len(agents.bodies), "pictures": pictures}


def _task(name: str) -> str:
    return "local_" + name.replace("-", "_")


def _scores(sample: dict[str, Any]) -> set[float]:
    """The scores of a sample: numbers by themselves, or in what its task keeps for its sum."""
    values = [value.get("score") if isinstance(value, dict) else value for name, value in sample.items() if name != "doc_id"]
    return {float(value) for value in values if isinstance(value, int | float)}


def test_every_row_is_asked_of_both_agents_once(run: dict[str, Any]) -> None:
    assert run["asked"] == 2 * sum(len(rows(name, HUGGING_FACE)) for name in RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_its_samples_are_our_items_and_its_figures_those_of_the_answers(run: dict[str, Any], name: str) -> None:
    problems, given, samples = ours(run["folder"], name, run["files"][name]), rows(name, HUGGING_FACE), run["samples"][name]
    assert [sample["doc_id"] for sample in samples] == list(range(len(problems)))
    for n, ((problem, pictures), row, sample) in enumerate(zip(problems, given, samples, strict=True)):
        assert sample["filtered_resps"] == said(name, n, row)
        # MME's instruction comes off, and TextVQA's question goes into lower case.
        words = str(problem.meta["row"].get("question", "")).removesuffix(" Please answer yes or no.").casefold()
        assert words.split("\n")[0] in sample["input"].casefold() and run["pictures"][name, n] == pictures
        assert _scores(sample) <= {float(n % 2 == 0)} == {mark(LMMS, name, sample["filtered_resps"], problem.meta["row"]).value}
    assert set(run["figures"][name].values()) & set(FIGURES.get(name, [3 / 5])) == set(FIGURES.get(name, [3 / 5]))
