"""How far the stages of a run are: a bar or a line now and then for whoever started it, and a word in a file for any other shell."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from insightv.stages.context import Summary
from insightv.store import Stage

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


class Display:
    """Shows the stages under way while its `bars` are entered, and leaves their words."""

    def __init__(self) -> None:
        self._words: dict[str, float] = {}
        self._console = Console(highlight=False)
        self.bars = _bars(self._console)

    @contextmanager
    def following(self, stage: Stage) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Show the stage during the block, which hands what it reports to the function that it gets."""
        bar = self.bars.add_task(stage.name, total=None, note="")

        def report(values: dict[str, Any]) -> None:
            note = " ".join(f"{key} {value}" for key, value in values.items() if key not in UNTOLD)
            self.bars.update(bar, completed=values.get("step", 0), total=values.get("of"), note=note)
            self._leave_word(stage, bar, values)

        telling = asyncio.create_task(self._tell(bar))
        try:
            yield report
        finally:
            telling.cancel()
            self.bars.remove_task(bar)

    def ended(self, stage: Stage, seconds: float) -> None:
        """Print that the stage is done, and what it said of itself."""
        self._console.print(f"[green]✓[/] [bold]{stage.name}[/]  {tell(stage.summary)}  [dim]{seconds:.0f} s · {stage.folder}[/]", soft_wrap=True)

    def taken(self, stage: Stage, source: Path) -> None:
        """Print that the stage was taken from another run, and what it said of itself there."""
        self._console.print(f"[green]=[/] [bold]{stage.name}[/]  {tell(stage.summary)}  [dim]taken from {source}[/]", soft_wrap=True)

    async def _tell(self, bar: TaskID) -> None:
        """Print a line now and then where no bar is drawn, so that a log shows that the stage goes on, and how fast."""
        while not self._console.is_terminal:
            await asyncio.sleep(PLAIN_EVERY)
            self._console.print(self._line(bar), markup=False, soft_wrap=True)

    def _line(self, bar: TaskID) -> str:
        return next((_progress_line(task) for task in self.bars.tasks if task.id == bar), "")

    def _leave_word(self, stage: Stage, bar: TaskID, values: dict[str, Any]) -> None:
        """Say in a file, for `insightv status` in another shell, how far the stage is."""
        now = time.time()
        if now - self._words.get(stage.name, 0.0) >= WORD_EVERY:
            self._words[stage.name] = now
            word = {"at": now, "line": self._line(bar), "defects": values.get("found", {})}
            with suppress(OSError):  # the stage that has to write will say so itself
                part = stage.work / ".progress.part"
                part.write_text(json.dumps(word), encoding="utf-8")
                part.replace(stage.work / PROGRESS)


@contextmanager
def counting(name: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show how many of `total` are done during the block, which calls the function that it gets after each, with a note."""
    console, told = Console(highlight=False, stderr=True), time.monotonic()
    with _bars(console) as bars:
        bar = bars.add_task(name, total=total, note="")

        def advance(note: str) -> None:
            nonlocal told
            bars.update(bar, advance=1, note=note)
            if not console.is_terminal and time.monotonic() - told >= PLAIN_EVERY:
                told = time.monotonic()
                console.print(_progress_line(bars.tasks[0]), markup=False, soft_wrap=True)

        yield advance


def _bars(console: Console) -> Progress:
    name, note = TextColumn("{task.description:<22}"), TextColumn("{task.fields[note]}")
    columns = (name, BarColumn(30), MofNCompleteColumn(), _Rate(), TimeElapsedColumn(), TimeRemainingColumn(), note)
    # A step of a large training may take a minute: over the library's half of one there would be no rate.
    return Progress(*columns, console=console, speed_estimate_period=300.0, transient=True, disable=not console.is_terminal)


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


def tell(summary: Summary) -> str:
    """A stage's summary in one line."""
    nested = {f"{name} {key}": value for name, part in summary.items() if isinstance(part, dict) for key, value in part.items() if name in SPLITS}
    plain = [(key.replace("_", " "), value) for key, value in (summary | nested).items() if isinstance(value, int | float | str)]
    return ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in plain[:8])


def word_of(run: Path, name: str) -> dict[str, Any] | None:
    """What a stage that was begun left in its work folder of how far it is; None if it was not begun."""
    try:
        folders = sorted((run / ".work").glob(f"{name}-{'?' * 12}"), key=lambda folder: folder.stat().st_mtime)
        if not folders:
            return None
        word: dict[str, Any] = json.loads((folders[-1] / PROGRESS).read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return word


def said(word: dict[str, Any]) -> str:
    """A word as text, with its age where it is not of just now."""
    if not word:
        return ""
    age = timedelta(seconds=int(time.time() - word["at"]))
    return str(word["line"]) + (f"  (said {age} ago)" if age > timedelta(seconds=5) else "")
