"""What other people's harnesses need to ask the served pair about benchmark files of yours: lmms-eval's task files, VLMEvalKit's data folder."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from insightv.config import UserError
from insightv.datasets.containers import files_of, kind
from insightv.evaluation.benchmarks import find
from insightv.files import explained, link, replacing

Harness = Literal["lmms-eval", "vlmevalkit"]


@dataclass(frozen=True)
class Place:
    """What the harnesses call a benchmark."""

    task: str
    """Of lmms-eval: the task's file below `lmms_eval/tasks`."""
    split: str
    """Which its rows are read as."""
    data: str
    """The table of VLMEvalKit; some of its rules go by parts of this name."""
    made_by: str = ""
    """Its class for that table; empty where that takes no table but the official one."""


PLACES: dict[str, Place] = {
    "mmmu": Place("mmmu/mmmu_val", "validation", "MMMU_DEV_VAL", "MMMUDataset"),
    "mmmu-pro": Place("mmmu_pro/mmmu_pro_standard", "test", "MMMU_Pro_10c"),
    "mmmu-pro-vision": Place("mmmu_pro/mmmu_pro_vision", "test", "MMMU_Pro_V"),
    # The task without a judge: one that is not told where its judge lives asks the model under test.
    "mmbench": Place("mmbench/mmbench_en_dev_static", "dev", "MMBench_DEV_EN", "ImageMCQDataset"),
    "mme": Place("mme/mme", "test", "MME", "ImageYORNDataset"),
    "chartqa": Place("chartqa/chartqa", "test", "ChartQA_TEST", "ImageVQADataset"),
    "mmstar": Place("mmstar/mmstar", "val", "MMStar", "ImageMCQDataset"),
    "mathvista": Place("mathvista/mathvista_testmini_format", "testmini", "MathVista_MINI", "MathVista"),
    "textvqa": Place("textvqa/textvqa_val", "validation", "TextVQA_VAL", "ImageVQADataset"),
    "docvqa": Place("docvqa/docvqa_val", "validation", "DocVQA_VAL", "ImageVQADataset"),
    "ocrbench": Place("ocrbench/ocrbench", "test", "OCRBench", "OCRBench"),
    "ai2d": Place("ai2d/ai2d", "test", "AI2D_TEST", "ImageMCQDataset"),
    "ai2d-no-mask": Place("ai2d/ai2d_no_mask", "test", "AI2D_TEST_NO_MASK", "ImageMCQDataset"),
}
"""By the benchmarks' names; lmms-eval 0.7.3 and VLMEvalKit e8e78f0."""


def prepare(to: Harness, files: Mapping[str, Path | None], out: Path, package: Path, url: str, model: str) -> str:
    """Write to `out` what the harness needs to read these files, and return the command that asks `model` at `url` about them.

    `package` is the folder `lmms_eval` where that is installed, or VLMEvalKit's folder with its `run.py`. lmms-eval reads Hugging Face's Parquet,
    VLMEvalKit its own tables; another file, and a package that lacks what is needed, are a `UserError`.
    """
    given: dict[str, Path] = {}
    for name, path in files.items():
        find(name)
        if path is None:
            raise UserError(f"{name} has no file: write {name}=FILE; from the hub the harness takes its own tasks, without any of this")
        given[name] = path
    if not given:
        raise UserError("name a benchmark and its file, as in mmstar=MMStar.parquet")
    return (_lmms_eval if to == "lmms-eval" else _vlmevalkit)(given, out.resolve(), package, url.rstrip("/"), model)


def _lmms_eval(files: Mapping[str, Path], out: Path, package: Path, url: str, model: str) -> str:
    tasks = []
    for name, path in files.items():
        place = PLACES[name]
        task = package.resolve() / "tasks" / f"{place.task}.yaml"
        if not task.is_file():
            raise UserError(
                f"{package} is not the package lmms_eval: {task} is missing; `python -c 'import lmms_eval; print(lmms_eval.__path__[0])'` says where it is"
            )
        shards = [str(file.resolve()) for file in _files(name, path, "parquet", "lmms-eval reads Hugging Face's Parquet")]
        tasks.append("local_" + name.replace("-", "_"))
        # JSON is YAML, and quotes every path. The task's own tags would put it into groups of others.
        settings: dict[str, Any] = {"include": str(task), "task": tasks[-1], "tag": [], "dataset_path": "parquet", "dataset_name": None}
        settings |= {"dataset_kwargs": {"data_files": {place.split: shards}}}
        with replacing(out / f"{tasks[-1]}.yaml") as file:
            file.write("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()).encode())
    arguments = f"model={model},base_url={url}/v1,api_key=none,timeout=600,num_concurrent=8"
    asked = ["--model", "openai", "--model_args", arguments, "--include_path", str(out), "--tasks", ",".join(tasks), "--batch_size", "1"]
    return "HF_HUB_OFFLINE=1 " + shlex.join(["python", "-m", "lmms_eval", "eval", *asked, "--log_samples", "--output_path", str(out / "results")])


def _vlmevalkit(files: Mapping[str, Path], out: Path, package: Path, url: str, model: str) -> str:
    if not (package / "run.py").is_file():
        raise UserError(f"{package} is not VLMEvalKit's folder: it has no run.py")
    config = {}
    for name, path in files.items():
        place = PLACES[name]
        if not place.made_by:
            raise UserError(f"{name}: VLMEvalKit takes the official table alone: put it into LMUData as {place.data}.tsv, and ask by --data {place.data}")
        [table, *more] = _files(name, path, "tsv", "VLMEvalKit reads its own TSV tables")
        if more:
            raise UserError(f"{name}: VLMEvalKit reads one table, and {path} has {len(more) + 1}")
        # A name of its own: a table under an official name is downloaded anew unless its bytes are the official ones.
        own = f"{place.data}_local"
        config[own] = {"class": place.made_by, "dataset": own}
        _link(table.resolve(), out / f"{own}.tsv")
    asked = ["--data", *config, "--data-config", json.dumps(config), "--model", model, "--base-url", f"{url}/v1", "--key", "none"]
    plain = ["--judge", "exact_matching", "--max-tokens", "1024", "--work-dir", str(out / "results")]
    return f"LMUData={shlex.quote(str(out))} {shlex.join(['python', str(package / 'run.py'), *asked, *plain])}"


def _files(name: str, path: Path, wanted: str, reads: str) -> list[Path]:
    if not path.exists():
        raise UserError(f"{name}: there is no file or folder {path}")
    files = files_of(str(path))
    if kind(files[0]) != wanted or files[0].suffix != f".{wanted}":
        raise UserError(f"{name}: {reads}, and {path} is none")
    return files


def _link(file: Path, place: Path) -> None:
    with explained(place):
        place.unlink(missing_ok=True)
    link(file, place)
