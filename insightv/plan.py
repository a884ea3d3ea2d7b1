"""A plan: stages with their needs, what each one's result depends on, and how one of them is made."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from insightv.config import Config
from insightv.files import explained, locked, stamp
from insightv.models.meter import Meter
from insightv.records import Correction
from insightv.stages.context import Context, Summary
from insightv.store import Run, Stage, read_manifest

VERSION = 4
"""Part of every stage's hash: raise it when the code of the stages changes what they make."""

Make = Callable[[Context, Path], Summary]


@dataclass(frozen=True)
class Step:
    """A stage of a plan: what it needs, how it is made, and the settings that its result depends on."""

    name: str
    needs: tuple[str, ...]
    make: Make
    settings: Any
    apart: bool
    """In a process of its own: whatever loads a model."""
    outside: Mapping[str, str] = field(default_factory=dict)
    """Files outside of the run that it is made from, and their stamps: they are inputs too."""


@dataclass
class Plan:
    """Stages by name."""

    config: Config
    by_hand: Mapping[str, Correction] = field(default_factory=dict)
    """What was said of chains by hand, which the stages' settings and their content are made from alike."""
    steps: dict[str, Step] = field(default_factory=dict)
    _finished: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, needs: tuple[str, ...], make: Make, settings: Any, *, apart: bool = False, outside: Iterable[Path] = ()) -> None:
        """Add a stage; the stages that it needs must be there, the files outside need not: it is the stage that says so."""
        missing = [need for need in needs if need not in self.steps]
        if missing:
            raise ValueError(f"stage {name} needs {', '.join(missing)}, which come later or not at all")
        self.steps[name] = Step(name, needs, make, _plain(settings), apart, {str(path): stamp(path) for path in outside})

    def closure(self, names: set[str]) -> set[str]:
        """The stages and all that they need, directly or not."""
        found = set(names)
        for name in reversed(self.steps):
            if name in found:
                found.update(self.steps[name].needs)
        return found

    def recall(self, run: Run, names: Iterable[str]) -> None:
        """Take these stages, where they were made with these settings, for made from the files outside as they were: what became of these is passed over."""
        for name in names:
            step, manifest = self.steps[name], read_manifest(run.folder / name)
            if not step.needs and manifest.get("config") == step.settings:
                self.steps[name] = replace(step, outside=manifest["inputs"])

    def stage(self, run: Run, name: str) -> Stage:
        """The stage in the run; what it needs must be done."""
        step = self.steps[name]
        inputs = {need: self._outputs(run, need) for need in step.needs} | dict(step.outside)
        return run.stage(name, inputs=inputs, config=step.settings, version=VERSION)

    def _outputs(self, run: Run, name: str) -> str:
        # A finished stage stays as it is while the run is held; without this memory every look would read all manifests below.
        if name not in self._finished:
            self._finished[name] = self.stage(run, name).outputs_hash
        return self._finished[name]


def _plain(value: Any) -> Any:
    """Settings as JSON values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def make(plan: Plan, run: Run, name: str, report: Callable[[dict[str, Any]], None], retry_failed: bool, meter: Meter | None = None) -> None:
    """Make one stage whose needs are done."""
    # A file outside may have changed since the run began, which goes on with what it made of it.
    plan.recall(run, plan.closure({name}) - {name})
    stage = plan.stage(run, name)
    with explained(run.folder), locked(stage.work / ".lock"):
        # Whoever held the lock before may have made it.
        if stays(stage, retry_failed):
            return
        summary = plan.steps[name].make(Context(plan.config, run, report, retry_failed, meter or Meter(), plan.by_hand), stage.work)
        stage.commit(summary)


def stays(stage: Stage, retry_failed: bool) -> bool:
    """Whether a stage is done, and holds nothing that failed and shall be asked for again."""
    return stage.done and not (retry_failed and stage.summary.get("failed"))
