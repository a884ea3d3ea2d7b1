"""Show a run: the config that it was made with, its stages and how far they are, what is wrong with its chains, and the report."""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from insightv.config import Config, UserError
from insightv.config_file import load_config
from insightv.datasets.sources import read_problems
from insightv.loop import needed, plan
from insightv.plan import Plan
from insightv.progress import said, tell, word_of
from insightv.replies import DEFECTS
from insightv.store import Run, Stage

if TYPE_CHECKING:
    from insightv.evaluation.figures import ReportData


def saved(run: Path, advice: str = "", overrides: Iterable[str] = ()) -> Config:
    """The config that a run was made with; `advice` ends what is said where there is no run."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"no run at {run}: it has no config.yaml{advice}")
    return load_config(run / "config.yaml", overrides)


def journal_of(place: Path) -> Path:
    """The folder of a run's journal; a folder that is no run's is taken for the journal's own."""
    return (saved(place).journal or place / "journal") if (place / "config.yaml").is_file() else place


def status(run: Path) -> list[dict[str, object]]:
    """The stages of a run, whether they are done, and what each said of itself."""
    steps = plan(saved(run))
    done, wanted = _made(steps, Run(run)), needed(steps)
    rows: list[dict[str, object]] = []
    for name in (name for name in steps.steps if name in wanted):
        word = word_of(run, name)
        state, told = ("done", _said_by(done[name])) if name in done else ("begun", said(word)) if word is not None else ("to do", "")
        rows.append({"stage": name, "state": state, "summary": told})
    return rows


def _said_by(stage: Stage) -> str:
    return tell(stage.summary) + (f", taken from {stage.taken}" if stage.taken else "")


def defects(run: Path) -> list[dict[str, object]]:
    """What was wrong with the chains of a run's stages, also of one that is under way: each defect with its number of chains and an example."""
    rows: list[dict[str, object]] = []
    for name in (name for name in plan(saved(run)).steps if re.fullmatch(r"generate|.*-chains", name)):
        path = run / name / "defects.json"
        found = json.loads(path.read_bytes()) if path.is_file() else (word_of(run, name) or {}).get("defects", {})
        for defect, told in sorted(found.items(), key=lambda item: -int(item[1]["chains"])):
            example = f"problem {told['problem']}" + (f": {told['said']}" if told["said"] else "")
            rows.append({"stage": name, "defect": defect, "chains": told["chains"], "what it is": DEFECTS[defect], "example": example})
    return rows


def report(run: Path) -> Path:
    """Write RUN/report.html from what the run holds; returns its path."""
    return rendered(gathered(run), run)


def gathered(run: Path) -> "ReportData":
    """What the report shows, read from the run: its rows that were made with its config, with intervals, tests and examples."""
    from insightv.evaluation.collect import collect

    config, here = saved(run), Run(run)
    steps, systems = plan(config), config.systems
    # A report is of what the run made: the files outside may be elsewhere by now.
    steps.recall(here, steps.steps)
    made = _made(steps, here)
    rows = [row for row in systems.rows if f"evaluate-{row}" in made]
    stale = [row for row in systems.rows if row not in rows and (run / f"evaluate-{row}").is_dir()]
    if stale:
        print(f"not shown, because made with other settings or an older version: {', '.join(stale)}; run the config again", file=sys.stderr)
    known = [problem for path in sorted((run / "problems").glob("*.jsonl")) for problem in read_problems(path)]
    return collect(here, known, rows=rows, baseline=systems.baseline, primary=systems.primary, seed=config.seed)


def rendered(data: "ReportData", run: Path) -> Path:
    """Write it as RUN/report.html; returns that path."""
    from insightv.evaluation.report import render

    render(data, run / "report.html")
    return run / "report.html"


def _made(steps: Plan, run: Run) -> dict[str, Stage]:
    """The stages of a plan that are done in the run, by name."""
    made: dict[str, Stage] = {}
    for name, step in steps.steps.items():
        if made.keys() >= set(step.needs) and (stage := steps.stage(run, name)).done:
            made[name] = stage
    return made
