"""lmms-eval asks the pair's server as it would any model, and reads the right answers: `make conformance HARNESS=PYTHON`.

PYTHON is that of an environment with lmms-eval 0.7.3.
"""

import io
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from datasets import Dataset, Image

from benchmarks.agents_stub import CHAIN, Agents, text_of
from benchmarks.served import serve_pair

HARNESS = os.environ.get("CONFORMANCE_HARNESS", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HARNESS, reason="CONFORMANCE_HARNESS names no interpreter")]

TRUTHS = "ABCDBA"
"""What is right; the summary agent says the letter that its question names, which for the last one is not."""
SAID = "ABCDBC"


def rows(folder: Path) -> Path:
    """A file in MMStar's own layout."""
    found = []
    for number, (truth, said) in enumerate(zip(TRUTHS, SAID, strict=True)):
        stream = io.BytesIO()
        PIL.Image.new("RGB", (64, 48), (number * 40, 0, 0)).save(stream, "PNG")
        question = f"Case {number}: say {said}.\nOptions: A: red, B: blue, C: green, D: white"
        kinds = {"category": "coarse perception", "l2_category": "image emotion", "meta_info": "{}"}
        found.append({"index": number, "question": question, "image": {"bytes": stream.getvalue(), "path": None}, "answer": truth, **kinds})
    Dataset.from_list(found).cast_column("image", Image()).to_parquet(folder / "val.parquet")
    return folder / "val.parquet"


def test_its_figures_are_those_of_the_answers(tmp_path: Path) -> None:
    include = subprocess.run([HARNESS, "-c", "import lmms_eval; print(lmms_eval.__path__[0])"], capture_output=True, text=True, check=True).stdout.strip()
    data, tasks = rows(tmp_path), tmp_path / "tasks"
    tasks.mkdir()
    source = f"dataset_path: parquet\ndataset_name: null\ndataset_kwargs: {{data_files: {{val: {data}}}}}\ntag: []\n"
    (tasks / "local.yaml").write_text(f"include: {include}/tasks/mmstar/mmstar.yaml\ntask: l_mmstar\n{source}")

    def said(body: dict[str, Any]) -> str:
        found = re.search(r"say ([A-D])", text_of(body["messages"][-1]))
        assert found
        return found[1]

    # The chain names another letter and holds tags: were it read, every row would be wrong.
    agents = Agents({"reasoner": CHAIN.replace("Answer: red", "Answer: Z"), "summarizer": said})
    with serve_pair(agents, "", None) as server:
        model = f"model=insight-v,base_url={server.url}/v1,api_key=x,timeout=600,num_concurrent=4"
        asked = ["--model", "openai", "--model_args", model, "--include_path", str(tasks), "--tasks", "l_mmstar", "--log_samples", "--batch_size", "1"]
        environment = os.environ | {"OPENAI_API_KEY": "x", "OPENAI_API_URL": f"{server.url}/v1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
        command = [HARNESS, "-m", "lmms_eval", "eval", *asked, "--output_path", str(tmp_path / "out")]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=540, env=environment, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-4000:]
    found = sorted((tmp_path / "out").rglob("*.json*"))
    assert found, finished.stdout[-3000:] + finished.stderr[-3000:]
    [results] = [path for path in found if path.name.endswith("results.json")]
    figures = json.loads(results.read_text())["results"]["l_mmstar"]
    print(f"\n{figures}")
    [samples] = (tmp_path / "out").rglob("*samples*l_mmstar*.jsonl")
    replies = {row["doc_id"]: row["filtered_resps"] for row in map(json.loads, samples.read_text().splitlines())}
    assert [replies[number] if isinstance(replies[number], str) else replies[number][0] for number in range(len(SAID))] == list(SAID)
    assert any(abs(value - 5 / 6) < 1e-6 for value in figures.values() if isinstance(value, float))
    assert len(agents.bodies) == 2 * len(TRUTHS)
