"""Run a plan of stages in the order of their needs, some side by side in processes of their own."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from insightv import corrections
from insightv.config import Config, UserError
from insightv.config_file import save_config
from insightv.files import explained, locked, try_lock
from insightv.models.chat import EndpointDown, Halted
from insightv.models.meter import Meter
from insightv.plan import Plan, make, stays
from insightv.progress import Display
from insightv.reuse import take
from insightv.store import Run


def execute(
    config: Config,
    plan: Callable[[Config, int], Plan],
    wanted: set[str],
    around: Callable[[Config], contextlib.AbstractContextManager[Config]],
    retry_failed: bool,
) -> None:
    """Make the wanted stages and what they need.

    `around` is entered only if something has to be made; it yields the config that the stages get. With `retry_failed` a finished stage in which
    something failed is made anew, from the journal but for what failed. Errors and Ctrl-C end the run after the processes beside it were stopped;
    everything finished stays.
    """
    run = Run(config.run, config.journal)
    with _held(run):
        # What is said by hand from here on waits for the next run: this one's stages must agree on what they are made from.
        corrected = corrections.end(run.folder)
        steps = plan(config, corrected)
        names = steps.closure(wanted)
        # Also where nothing has to be made: the report reads from here what no stage depends on.
        save_config(config, run.folder / "config.yaml")
        if _done(run, steps, names, retry_failed):
            return
        with around(config) as resolved:
            path = run.folder / ".work" / "config.yaml"
            path.parent.mkdir(exist_ok=True)
            save_config(resolved, path)
            asyncio.run(_Conductor(run, plan(resolved, corrected), path, corrected, retry_failed, metered(config, run)).conduct(names))


def metered(config: Config, run: Run) -> Meter:
    """The config's budget, less what the run has spent before."""
    paid = run.journal.bills(run.payer).values()
    return Meter(config.budget, requests=sum(bill.requests for bill in paid), cost=sum(bill.cost for bill in paid))


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
    return all(stays(plan.stage(run, name), retry_failed) for name in plan.steps if name in names)


class _Conductor:
    """Starts every stage as soon as its needs are there and a place is free."""

    def __init__(self, run: Run, plan: Plan, config_path: Path, corrected: int, retry_failed: bool, meter: Meter) -> None:
        self._run, self._plan, self._retry_failed, self._meter = run, plan, retry_failed, meter
        self._given = [str(config_path), str(corrected)]
        self._places = asyncio.Semaphore(plan.config.parallel)
        self._display = Display()

    async def conduct(self, names: set[str]) -> None:
        sorter = TopologicalSorter({name: set(self._plan.steps[name].needs) for name in names})
        sorter.prepare()
        running: dict[asyncio.Task[None], str] = {}
        order = list(self._plan.steps)
        try:
            with self._display.bars, heeding(self._meter):
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
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _make(self, name: str) -> None:
        stage = self._plan.stage(self._run, name)
        if stays(stage, self._retry_failed):
            return
        if source := await asyncio.to_thread(take, self._plan.config, self._run, stage, self._retry_failed):
            self._display.taken(stage, source)
            return
        async with self._places:
            if self._meter.halted:
                raise self._meter.halted
            began = time.monotonic()
            try:
                with self._display.following(stage) as report:
                    if self._plan.steps[name].apart:
                        await self._apart(name, report)
                    else:
                        await _in_thread(lambda: make(self._plan, self._run, name, report, self._retry_failed, self._meter))
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
        self._display.ended(stage, time.monotonic() - began)

    async def _apart(self, name: str, report: Callable[[dict[str, Any]], None]) -> None:
        arguments = [*self._given, name, *(["--retry-failed"] if self._retry_failed else [])]
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


@contextlib.contextmanager
def heeding(meter: Meter) -> Iterator[None]:
    """Hear SIGINT and SIGTERM during the block, unless the process was started to ignore them; what they end ends in `Halted`.

    The first lets what is in flight at an endpoint be answered and kept, where there is such, the second does not.
    """
    loop, conducting = asyncio.get_running_loop(), asyncio.current_task()
    assert conducting
    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]

    def stop(number: int) -> None:
        patient = meter.busy and not meter.halted
        meter.halt(Halted("stopped", 128 + number))
        if patient:
            print("stopping: what is in flight is still answered and kept; the same signal again leaves at once", file=sys.stderr, flush=True)
        else:
            conducting.cancel()

    # Only the main thread can, and not everywhere; elsewhere a signal does what it does.
    with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
        for number in heeded:
            loop.add_signal_handler(number, stop, number)
    try:
        yield
    except asyncio.CancelledError:
        if meter.halted:
            raise meter.halted from None
        raise
    finally:
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            for number in heeded:
                loop.remove_signal_handler(number)
