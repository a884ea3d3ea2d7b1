"""Stages beside each other: Ctrl-C ends them all at once, a lock that was waited for is looked behind, and a full disk is one line."""

import asyncio
import contextlib
import errno
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from insightv import child, processes, showing, verbs
from insightv.config import BudgetConfig, Config, EndpointConfig, TeacherDials, UserError
from insightv.config_file import load_config
from insightv.files import locked
from insightv.models.chat import Halted, Sampling, text_message
from insightv.plan import Plan
from insightv.scale.local import map_records
from insightv.stages.context import Context
from insightv.store import Journal, Run

SMALL = Path(__file__).parent / "small.yaml"


def stages_of(run: Path) -> list[str]:
    """Command lines of the processes on this machine that make a stage of the run."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended meanwhile
            continue
    return [line for line in lines if "insightv.child" in line and str(run) in line]


def wait_until(reached: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextlib.contextmanager
def started(tmp_path: Path, model: Path, *settings: str, verb: str = "run") -> Iterator["subprocess.Popen[str]"]:
    """The small run as a process of its own, ended at the latest with the block."""
    told = (f"run={tmp_path / 'run'}", f"models.base={model}", *settings)
    # What a shell starts in the background ignores Ctrl-C, these tests' own process perhaps among it.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from insightv.cli import main; main()"
    command = [sys.executable, "-c", code, verb, str(SMALL), *(word for one in told for word in ("-o", one))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


STOPPED = "insightv: stopped; run the same command to go on, nothing is lost\n"


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_ctrl_c_again_ends_threads_and_processes_with_130(tmp_path: Path, tiny_llava: Path) -> None:
    run = tmp_path / "run"
    # A teacher this slow keeps the chains' thread busy for minutes.
    with started(tmp_path, tiny_llava, "world.teacher.latency=60") as process:
        wait_until(lambda: stages_of(run) and any((run / ".work").glob("generate-*")))
        time.sleep(1)  # until the first requests are on their way
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr and process.stderr.readline().startswith("stopping: what is in flight is still answered and kept")
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == STOPPED
    assert stages_of(run) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_keeps_what_is_in_flight(tmp_path: Path, tiny_llava: Path, number: signal.Signals, counting_teacher: Any) -> None:
    url, asked = counting_teacher(TeacherDials(latency=0.5))
    with started(tmp_path, tiny_llava, *(f"models.{role}.url={url}" for role in ("generator", "judge", "scorer"))) as process:
        wait_until(lambda: asked.total() >= 6)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said.endswith(STOPPED)
    with Journal(tmp_path / "run" / "journal") as journal:
        [bill] = journal.bills().values()
    assert bill.requests == asked.total() and not bill.failed


def test_cancelled_work_in_a_thread_is_not_waited_for() -> None:
    release = threading.Event()

    async def cancel() -> None:
        work = asyncio.create_task(processes._in_thread(lambda: release.wait(30) and None))
        await asyncio.sleep(0.1)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    began = time.monotonic()
    asyncio.run(cancel())
    release.set()
    assert time.monotonic() - began < 5


def test_errors_of_work_in_a_thread_are_raised() -> None:
    def fail() -> None:
        raise UserError("broken")

    with pytest.raises(UserError, match=r"^broken$"):
        asyncio.run(processes._in_thread(fail))


def test_a_second_run_waits_for_the_first_and_finds_its_work(tmp_path: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(SMALL, [f"run={tmp_path}", f"models.base={tiny_llava}"])
    verbs.run(config, {"problems"})
    capsys.readouterr()
    with locked(tmp_path / ".lock"):
        second = threading.Thread(target=verbs.run, args=(config, {"problems"}))
        second.start()
        second.join(1)
        assert second.is_alive()
    second.join(30)
    out, err = capsys.readouterr()
    assert err == f"{tmp_path} is in use by another process; waiting for its end\n" and "✓" not in out


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("I/O error: No space left on device (os error 28)")])
def test_a_full_disk_in_a_stage_is_one_line(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise error

    config = tmp_path / "config.yaml"
    config.write_text(f"run: {tmp_path / 'run'}\nworld: {{}}\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["child", str(config), "0", "problems"])
    monkeypatch.setattr("insightv.stages.start.make_problems", fail)
    monkeypatch.setattr(child, "_end_with_parent", lambda: None)
    with pytest.raises(SystemExit) as end:
        child.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.endswith("the disk is full; free some space and run the same command again\n") and len(said.splitlines()) == 1


def test_stages_side_by_side_keep_what_each_has_in_flight_when_the_budget_is_spent(tmp_path: Path, counting_teacher: Any) -> None:
    teachers = {"quick": counting_teacher(TeacherDials(latency=0.1)), "slow": counting_teacher(TeacherDials(latency=1.5))}

    def asking(name: str) -> Callable[[Context, Path], dict[str, Any]]:
        def stage(context: Context, work: Path) -> dict[str, Any]:
            async def go() -> None:
                chat = context.endpoint(EndpointConfig(url=teachers[name][0], model=name, concurrency=4))
                try:
                    await map_records(lambda number: chat.complete([text_message("system", f"{name} {number}")], Sampling()), range(1000), concurrency=8)
                finally:
                    await chat.close()

            asyncio.run(go())
            return {}

        return stage

    def plan(config: Config, _: int) -> Plan:
        steps = Plan(config)
        for name in teachers:
            steps.add(name, (), asking(name), [])
        return steps

    config = Config(run=tmp_path / "run", budget=BudgetConfig(max_requests=24))
    with pytest.raises(Halted, match=r"^budget\.max_requests: 24 requests were sent; raise it$"):
        processes.execute(config, plan, set(teachers), contextlib.nullcontext, False)
    with Journal(tmp_path / "run" / "journal") as journal:
        bills = journal.bills(Run(tmp_path / "run").payer)
    assert sum(bill.requests for bill in bills.values()) == 24 and bills["slow@"].requests >= 4
    with contextlib.closing(sqlite3.connect(next((tmp_path / "run" / "journal").glob("*.sqlite")))) as rows:
        assert rows.execute("SELECT count(*) FROM replies").fetchone() == (24,)


def live(read: Callable[[], Any], seconds: float = 30) -> Any:
    """What `read` gives as soon as it gives something."""
    found: list[Any] = []
    wait_until(lambda: found.append(read()) or found[-1], seconds)
    return found[-1]


def test_another_shell_sees_how_far_a_run_is_and_what_is_wrong_with_its_chains(tmp_path: Path, counting_teacher: Any) -> None:
    run = tmp_path / "run"
    url, asked = counting_teacher(TeacherDials(latency=0.1, malformed=0.1))
    served = ["generate.step_tries=1", *(f"models.{role}.url={url}" for role in ("generator", "judge", "scorer"))]
    with started(tmp_path, tmp_path, *served, verb="generate") as process:
        wait_until((run / "config.yaml").is_file)

        def line() -> Any:
            [row] = [row for row in showing.status(run) if row["stage"] == "generate"]
            assert row["state"] in ("begun", "to do")
            # The first words come before there is a rate.
            return re.fullmatch(r"generate  (\d+)/36  .*steps (\d+) requests (\d+) in (\S+) out (\S+).*", str(row["summary"]))

        done, steps, requests, read, written = live(line).groups()
        assert 0 < int(done) < 36 and int(steps) >= 1 and 0 < int(requests) <= asked.total() + 4 and read.endswith("k") and written
        early = live(lambda: showing.defects(run))
        assert process.poll() is None, "while it runs"
        assert {row["stage"] for row in early} == {"generate"} and all(int(str(row["chains"])) >= 1 and row["example"] for row in early)
        process.communicate(timeout=60)
    assert process.returncode == 0
    late = showing.defects(run)
    assert {row["defect"] for row in early} <= {row["defect"] for row in late}
    assert any("unusable: " in str(row["example"]) for row in late), "an example says what the model replied"
    [row] = [row for row in showing.status(run) if row["stage"] == "generate"]
    assert row["state"] == "done"
