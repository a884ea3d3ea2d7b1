"""The stub and the engines as processes of their own, each on a core of its own where there are two. The standard library alone."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.engines.weather import Settings

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """A stub that runs elsewhere."""

    def __init__(self, port: int, process: "subprocess.Popen[str]") -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.process = process
        self._control = f"http://127.0.0.1:{port}/control/log"

    def report(self, patience: float = 90.0) -> dict[str, Any]:
        """What came; see stub.py. A server that is down by its settings is waited for so many seconds."""
        # No proxy of the environment stands before this machine's own server.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        until = time.monotonic() + patience
        while True:
            try:
                with opener.open(self._control, timeout=60) as response:
                    found: dict[str, Any] = json.loads(response.read())
                return found
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)


@contextlib.contextmanager
def serving(settings: Settings, core: int | None = None) -> Iterator[Server]:
    """A stub in a process of its own, for the block."""
    command = [sys.executable, "-m", "benchmarks.engines.stub", "--settings", settings.to_json(), *([] if core is None else ["--core", str(core)])]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdin and process.stdout
    try:
        yield Server(int(process.stdout.readline()), process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def cores(pinned: bool) -> tuple[int | None, int | None]:
    """(the server's, the engine's): two different ones, or None where there are no two."""
    mine = sorted(os.sched_getaffinity(0))
    return (mine[0], mine[1]) if pinned and len(mine) > 1 else (None, None)


def environment() -> dict[str, str]:
    """This process's, in which our modules are found from any folder and each library keeps to one thread."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1,localhost"}
