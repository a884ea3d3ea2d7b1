"""Run a plan of stages in the order of their needs, some side by side in processes of their own, with progress to look at."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from insightv.config import Config, UserError, save_config
from insightv.files import explained, locked, stamp, try_lock
from insightv.models.chat import EndpointDown, Halted
from insightv.models.meter import Meter
from insightv.stages.context import Context, Summary
from insightv.store import Run, Stage, read_manifest

VERSION = 3
"""Part of every stage's hash: raise it when the code of the stages changes what they make."""

SPLITS = ("test", "heldout", "development")
"""Keys under which a summary holds figures of a split."""

PLAIN_EVERY = 60.0
"""Seconds between two lines of progress of a stage where there is no terminal to draw a bar on."""

WORD_EVERY = 1.0
"""Seconds between two words of it in a file."""

PROGRESS = ".progress.json"
"""In a stage's work folder: `at` (seconds since 1970), `line`, and `defects` by name with a count and an example."""

UNTOLD = frozenset({"step", "of", "seconds_left", "found"})
"""What a stage reports that is not shown as it is."""

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


def execute(
    config: Config, plan: Callable[[Config], Plan], wanted: set[str], around: Callable[[Config], contextlib.AbstractContextManager[Config]], retry_failed: bool
) -> None:
    """Make the wanted stages and what they need.

    `around` is entered only if something has to be made; it yields the config that the stages get. With `retry_failed` a finished stage in which
    something failed is made anew, from the journal but for what failed. Errors and Ctrl-C end the run after the processes beside it were stopped;
    everything finished stays.
    """
    names = plan(config).closure(wanted)
    run = Run(config.run, config.journal)
    with _held(run):
        # Also where nothing has to be made: the report reads from here what no stage depends on.
        save_config(config, run.folder / "config.yaml")
        if _done(run, plan(config), names, retry_failed):
            return
        with around(config) as resolved:
            path = run.folder / ".work" / "config.yaml"
            path.parent.mkdir(exist_ok=True)
            save_config(resolved, path)
            paid = run.journal.bills(run.payer).values()
            meter = Meter(config.budget, requests=sum(bill.requests for bill in paid), cost=sum(bill.cost for bill in paid))
            asyncio.run(_Conductor(run, plan(resolved), path, retry_failed, meter).conduct(names))


@contextlib.contextmanager
def _held(run: Run) -> Iterator[None]:
    """Hold the run, so that a second process on the same folder waits for the first."""
    path = run.folder / ".lock"
    with explained(path):
        free = try_lock(path)
    if free is None:
        print(f"{run.folder} is in use by another process; waiting for its end", file=sys.stderr, flush=True)
    with free or locked(path):
        yield


def _done(run: Run, plan: Plan, names: set[str], retry_failed: bool) -> bool:
    return all(_stays(plan.stage(run, name), retry_failed) for name in plan.steps if name in names)


def _stays(stage: Stage, retry_failed: bool) -> bool:
    """Whether a stage is done, and holds nothing that failed and shall be asked for again."""
    return stage.done and not (retry_failed and stage.summary.get("failed"))


class _Rate(ProgressColumn):
    """How many items a second a stage gets done."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task))


def _rate(task: Task) -> str:
    """Items per second lately, such as `12.3/s`; empty until two are done."""
    speed = task.speed
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 1 else f"{speed:.2g}/s"


def _progress_line(task: Task) -> str:
    """How far a stage is, in plain words: name, steps, rate, time left, and what else it told."""
    steps = f"{task.completed:.0f}/{task.total:.0f}" if task.total else f"runs for {timedelta(seconds=int(task.elapsed or 0))}"
    left = "" if task.time_remaining is None else f"{timedelta(seconds=int(task.time_remaining))} left"
    return "  ".join(part for part in (task.description, steps, _rate(task), left, task.fields["note"]) if part)


class _Conductor:
    """Starts every stage as soon as its needs are there and a place is free."""

    def __init__(self, run: Run, plan: Plan, config_path: Path, retry_failed: bool, meter: Meter) -> None:
        self._run, self._plan, self._config_path, self._retry_failed, self._meter = run, plan, config_path, retry_failed, meter
        self._places = asyncio.Semaphore(plan.config.parallel)
        self._words: dict[str, float] = {}
        self._console = Console(highlight=False)
        name, note = TextColumn("{task.description:<22}"), TextColumn("{task.fields[note]}")
        columns = (name, BarColumn(30), MofNCompleteColumn(), _Rate(), TimeElapsedColumn(), TimeRemainingColumn(), note)
        # A step of a large training may take a minute: over the library's half of one there would be no rate.
        settings: dict[str, Any] = {"speed_estimate_period": 300.0, "transient": True, "disable": not self._console.is_terminal}
        self._progress = Progress(*columns, console=self._console, **settings)

    async def conduct(self, names: set[str]) -> None:
        sorter = TopologicalSorter({name: set(self._plan.steps[name].needs) for name in names})
        sorter.prepare()
        running: dict[asyncio.Task[None], str] = {}
        order = list(self._plan.steps)
        try:
            with self._progress, _heeding(self._stop):
                try:
                    while sorter.is_active():
                        for name in sorted(sorter.get_ready(), key=order.index):
                            running[asyncio.create_task(self._make(name))] = name
                        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                        for task in done:
                            await task
                            sorter.done(running.pop(task))
                except Halted:
                    # What the stages beside it have in flight is answered and kept too.
                    await asyncio.gather(*(task for task, name in running.items() if not self._plan.steps[name].apart), return_exceptions=True)
                    raise
        except asyncio.CancelledError:
            if self._meter.halted:
                raise self._meter.halted from None
            raise
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _stop(self, number: int, conducting: "asyncio.Task[Any]") -> None:
        """Hear a signal: the first lets what is in flight at an endpoint be answered and kept, where there is such, the second does not."""
        patient = self._meter.busy and not self._meter.halted
        self._meter.halt(Halted("stopped", 128 + number))
        if patient:
            print("stopping: what is in flight is still answered and kept; the same signal again leaves at once", file=sys.stderr, flush=True)
        else:
            conducting.cancel()

    async def _make(self, name: str) -> None:
        stage = self._plan.stage(self._run, name)
        if _stays(stage, self._retry_failed):
            return
        async with self._places:
            if self._meter.halted:
                raise self._meter.halted
            began = time.monotonic()
            bar = self._progress.add_task(name, total=None, note="")

            def report(values: dict[str, Any]) -> None:
                note = " ".join(f"{key} {value}" for key, value in values.items() if key not in UNTOLD)
                self._progress.update(bar, completed=values.get("step", 0), total=values.get("of"), note=note)
                self._leave_word(stage, bar, values)

            telling = asyncio.create_task(self._tell(bar))
            try:
                if self._plan.steps[name].apart:
                    await self._apart(name, report)
                else:
                    await _in_thread(lambda: make(self._plan, self._run, name, report, self._retry_failed, self._meter))
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
            finally:
                telling.cancel()
                self._progress.remove_task(bar)
        self._console.print(f"[green]✓[/] [bold]{name}[/]  {tell(stage.summary)}  [dim]{time.monotonic() - began:.0f} s · {stage.folder}[/]", soft_wrap=True)

    async def _tell(self, bar: TaskID) -> None:
        """Print a line now and then where no bar is drawn, so that a log shows that the stage goes on, and how fast."""
        while not self._console.is_terminal:
            await asyncio.sleep(PLAIN_EVERY)
            self._console.print(self._line(bar), markup=False, soft_wrap=True)

    def _line(self, bar: TaskID) -> str:
        return next((_progress_line(task) for task in self._progress.tasks if task.id == bar), "")

    def _leave_word(self, stage: Stage, bar: TaskID, values: dict[str, Any]) -> None:
        """Say in a file, for `insightv status` in another shell, how far the stage is."""
        now = time.time()
        if now - self._words.get(stage.name, 0.0) >= WORD_EVERY:
            self._words[stage.name] = now
            word = {"at": now, "line": self._line(bar), "defects": values.get("found", {})}
            with contextlib.suppress(OSError):  # the stage that has to write will say so itself
                part = stage.work / ".progress.part"
                part.write_text(json.dumps(word), encoding="utf-8")
                part.replace(stage.work / PROGRESS)

    async def _apart(self, name: str, report: Callable[[dict[str, Any]], None]) -> None:
        arguments = [str(self._config_path), name, *(["--retry-failed"] if self._retry_failed else [])]
        # One thread each: at these sizes two trainings side by side beat one on two cores, and sums stay the same.
        environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        pipe = asyncio.subprocess.PIPE
        # Nothing is written to its standard input: that it ends tells the child that this process is gone. In a session of its own, because
        # Ctrl-C is for this process, which then ends the child.
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "insightv.child", *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
        )
        said: list[str] = []
        try:
            assert child.stdout and child.stderr
            listening = asyncio.create_task(_listen(child.stderr, said))
            async for line in child.stdout:
                # What a library prints is no progress.
                with contextlib.suppress(json.JSONDecodeError):
                    if isinstance(values := json.loads(line), dict):
                        report(values)
            await child.wait()
            await listening
        finally:
            if child.returncode is None:
                child.terminate()
                await child.wait()
        if child.returncode:
            raise _error(name, child.returncode, said)


async def _in_thread(work: Callable[[], None]) -> None:
    """Await work in a thread that, unlike an executor's, does not keep a process alive that has to end: what it did is kept as after a kill."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    errors: list[BaseException] = []

    def go() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=go, name="stage", daemon=True).start()
    await ended.wait()
    if errors:
        raise errors[0]


async def _listen(stream: asyncio.StreamReader, said: list[str]) -> None:
    rest = b""
    # Not line by line: a library's progress bar writes one line, ended by carriage returns alone, that may outgrow the reader's limit.
    while chunk := await stream.read(2**16):
        *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
        said += [line.decode(errors="replace").rstrip() for line in lines if line.strip()]
        del said[:-200]
    said += [rest.decode(errors="replace").rstrip()] if rest.strip() else []


def _error(name: str, code: int, said: list[str]) -> Exception:
    last = said[-1] if said else f"ended with exit code {code}"
    if code == 2:
        return UserError(last)
    if code == 3:
        return EndpointDown(last)
    return RuntimeError(f"stage {name} failed with exit code {code}:\n" + "\n".join(said[-40:]))


def tell(summary: Summary) -> str:
    """A stage's summary in one line."""
    nested = {f"{name} {key}": value for name, part in summary.items() if isinstance(part, dict) for key, value in part.items() if name in SPLITS}
    plain = [(key.replace("_", " "), value) for key, value in (summary | nested).items() if isinstance(value, int | float | str)]
    return ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in plain[:7])


@contextlib.contextmanager
def _heeding(stop: Callable[[int, "asyncio.Task[Any]"], None]) -> Iterator[None]:
    """Have `stop` hear SIGINT and SIGTERM during the block, unless the process was started to ignore them."""
    loop, conducting = asyncio.get_running_loop(), asyncio.current_task()
    assert conducting
    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    # Only the main thread can, and not everywhere; elsewhere a signal does what it does.
    with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
        for number in heeded:
            loop.add_signal_handler(number, stop, number, conducting)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            for number in heeded:
                loop.remove_signal_handler(number)


def make(plan: Plan, run: Run, name: str, report: Callable[[dict[str, Any]], None], retry_failed: bool, meter: Meter | None = None) -> None:
    """Make one stage whose needs are done."""
    # A file outside may have changed since the run began, which goes on with what it made of it.
    plan.recall(run, plan.closure({name}) - {name})
    stage = plan.stage(run, name)
    with explained(run.folder), locked(stage.work / ".lock"):
        # Whoever held the lock before may have made it.
        if _stays(stage, retry_failed):
            return
        summary = plan.steps[name].make(Context(plan.config, run, report, retry_failed, meter or Meter()), stage.work)
        stage.commit(summary)
