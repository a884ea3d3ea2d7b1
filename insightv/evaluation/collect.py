"""Read what a run has left on disk into the figures and examples of its report; what is not there is skipped."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson

from insightv.config import UserError
from insightv.evaluation.examples import choose_chains, choose_solutions
from insightv.evaluation.figures import ReportData, StageSummary, TrainingLog, chain_set, split_table
from insightv.records import Chain, Problem, Record, Score, Solution, Verdict
from insightv.store import Run, content_hash, read_records

R = TypeVar("R", bound=Record)


def collect(
    run: Run,
    problems: Iterable[Problem],
    *,
    rows: Sequence[str] = (),
    baseline: str = "base",
    primary: Sequence[tuple[str, str]] = (),
    seed: int = 0,
    examples: int = 120,
) -> ReportData:
    """Gather a run's report from its stages' folders.

    `problems` are those of every split that was evaluated or generated for; `rows` are the rows of the table in their order: a row that lies in the run
    but is not named, as another config left it, is not shown. Read are `evaluate-<row>/*.jsonl` (a file per split; `solutions.jsonl` is the test split),
    `<stage>/chains.jsonl`, `verdicts.jsonl`, `scores.jsonl`, `log.jsonl` and `manifest.json`. At most `examples` problems a kind are shown with their image.
    """
    known = {problem.id: problem for problem in problems}
    wanted = {f"evaluate-{row}" for row in rows}
    folders = [folder for folder in _stages(run.folder) if folder.name in wanted or not folder.name.startswith("evaluate-")]
    solutions = _solutions(folders, rows)
    verdicts = {v.chain_id: v for folder in folders for v in _records(folder / "verdicts.jsonl", Verdict)}
    # What is rated without the ground truth is no path score: the same chains have one from their assessment.
    scores = {s.chain_id: s for folder in folders if not folder.name.endswith("-rating") for s in _records(folder / "scores.jsonl", Score)}
    chains = {folder.name: list(_records(folder / "chains.jsonl", Chain)) for folder in folders if (folder / "chains.jsonl").exists()}
    shown = [
        *(e for split, systems in solutions.items() for e in choose_solutions(split, systems, known, run.images, baseline=baseline, limit=examples)),
        *(e for stage, those in chains.items() for e in choose_chains(stage, those, verdicts, scores, known, run.images, limit=max(1, examples // 4))),
    ]
    return ReportData(
        title=run.folder.resolve().name,
        baseline=baseline,
        tables=[split_table(split, systems, known, baseline, primary, seed) for split, systems in solutions.items()],
        chains=[chain_set(stage, those, verdicts, scores) for stage, those in chains.items()],
        logs=[TrainingLog(folder.name, _log(folder / "log.jsonl")) for folder in folders if (folder / "log.jsonl").exists()],
        stages=[StageSummary(folder.name, _manifest(folder).get("summary", {})) for folder in folders],
        examples=shown,
    )


def _stages(folder: Path) -> list[Path]:
    """Finished stages, each after those whose outputs it took, by name among equals."""
    manifests = {path.parent: _manifest(path.parent) for path in sorted(folder.glob("*/manifest.json"))}
    makers = {content_hash(manifest.get("outputs", {})): place for place, manifest in manifests.items()}
    ordered: list[Path] = []
    begun: set[Path] = set()

    def visit(place: Path) -> None:
        if place not in begun:
            # Marked before its inputs: stages with equal outputs can seem to need each other.
            begun.add(place)
            for needed in sorted(str(value) for value in manifests[place].get("inputs", {}).values()):
                if needed in makers:
                    visit(makers[needed])
            ordered.append(place)

    for place in manifests:
        visit(place)
    return ordered


def _solutions(folders: Sequence[Path], rows: Sequence[str]) -> dict[str, dict[str, list[Solution]]]:
    """Split -> row -> solutions; the test split first, rows in the wanted order."""
    found = {folder.name: folder for folder in folders}
    splits: dict[str, dict[str, list[Solution]]] = defaultdict(dict)
    for row in (row for row in rows if f"evaluate-{row}" in found):
        for path in sorted(found[f"evaluate-{row}"].glob("*.jsonl"), key=lambda path: (path.stem != "solutions", path.stem)):
            # The row's name is the folder's: a table must not depend on what a system calls itself.
            named = [solution.model_copy(update={"system": row}) for solution in _records(path, Solution)]
            splits["test" if path.stem == "solutions" else path.stem][row] = named
    return dict(sorted(splits.items(), key=lambda item: item[0] != "test"))


def _records(path: Path, kind: type[R]) -> Iterable[R]:
    return read_records(path, kind) if path.exists() else ()


def _log(path: Path) -> list[dict[str, Any]]:
    return [_object(line, f"{path}:{number}") for number, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()]


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    return _object(path.read_bytes(), str(path))


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{where} is not a JSON object; remove the stage's folder and run it again")
    return value
