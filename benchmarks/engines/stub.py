"""An OpenAI-compatible server that costs next to nothing and fails on purpose: `python -m benchmarks.engines.stub --settings JSON`.

It reads no JSON: a row is known by the marker in the last kilobytes of a body, a step by the assistant's turns behind it. It runs in an event
loop of a test (`Stub`) or in a process of its own (`process.py`). The standard library alone, and uvloop where there is one.

`GET /control/log` tells what came: `log` of [row, step, attempt, kind, arrived, answered] with times of the monotonic clock, answered null where
the client had gone; `cpu`, seconds of this process since its first request; `most`, requests in flight at most; `connections` accepted; `probes`,
requests for /models.
"""

import argparse
import asyncio
import gc
import os
import sys
import threading
import time
from collections import Counter
from typing import Any

from benchmarks.engines.connection import Connection
from benchmarks.engines.payload import DIGITS, MARK
from benchmarks.engines.replies import Replies, refusal
from benchmarks.engines.weather import Settings, weather


class Stub:
    """A server on a port of 127.0.0.1, in the running event loop."""

    def __init__(self, settings: Settings, port: int = 0) -> None:
        self.settings = settings
        self.port = port
        self.log: list[list[Any]] = []
        self.in_flight = self.most = self.connections = self.probes = 0
        # What is received goes into one buffer, which stays in the processor's cache: only a body's end is ever looked at.
        self.buffer = bytearray(2**18)
        self.view = memoryview(self.buffer)
        self.replies = Replies(settings.steps)
        self.open: set[Connection] = set()
        self.broken = False
        self._attempts: Counter[tuple[int, int]] = Counter()
        self._server: asyncio.Server | None = None
        self._cpu = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; the port stays the same after `stop`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, backlog=2048, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections and break off those that are open."""
        if self._server:
            self._server.close()
            self._server = None
        self.break_off()
        await asyncio.sleep(0)

    def break_off(self) -> None:
        """Reset every connection."""
        for connection in list(self.open):
            connection.reset()

    @property
    def url(self) -> str:
        """As `EndpointConfig.url` wants it."""
        return f"http://127.0.0.1:{self.port}/v1"

    def report(self) -> dict[str, Any]:
        """What `GET /control/log` tells."""
        cpu = time.process_time() - self._cpu
        return {"log": self.log, "cpu": cpu, "most": self.most, "connections": self.connections, "probes": self.probes}

    def receive(self, tail: bytes) -> tuple[list[Any], bytes, float]:
        """(entry of the log, response, seconds until it is due) of a request whose body ends so; an empty response resets the connection."""
        arrived = time.monotonic()
        if not self.log:
            self._begin()
        place = tail.rfind(MARK) + len(MARK)
        digits = tail[place : place + DIGITS]
        if place < len(MARK) or not digits.isdigit():
            entry = [-1, 0, 0, "unmarked", arrived, None]
            self.log.append(entry)
            return entry, refusal(400), 0.0
        row, step = int(digits), self._step(tail, place)
        self._attempts[row, step] += 1
        attempt = self._attempts[row, step]
        kind, milliseconds, lot = weather(self.settings, row, step, attempt)
        entry = [row, step, attempt, kind, arrived, None]
        if self.settings.capacity and self.in_flight >= self.settings.capacity:
            # An attempt that found no room has met no weather.
            self._attempts[row, step] -= 1
            entry[3] = "capacity"
            self.log.append(entry)
            return entry, refusal(429, self.settings.retry_after), 0.0
        self.log.append(entry)
        return entry, self._answer(kind, step, digits, lot), milliseconds / 1000

    def _step(self, tail: bytes, place: int) -> int:
        if tail.find(b"Write the conclusion.", place) >= 0:
            return self.settings.steps + 1
        return tail.count(b'"assistant"', place) + 1

    def _answer(self, kind: str, step: int, digits: bytes, lot: int) -> bytes:
        if kind == "ok":
            return self.replies.completion(step, digits)
        if kind == "malformed":
            return self.replies.malformed(step, digits, lot)
        return b"" if kind == "reset" else refusal(int(kind), self.settings.retry_after if kind == "429" else None)

    def _begin(self) -> None:
        self._cpu = time.process_time()
        loop = asyncio.get_running_loop()
        for at, long, way in self.settings.down:
            self._timers += [loop.call_later(at, self._go_down, way), loop.call_later(at + long, self._come_back)]

    def _go_down(self, way: str) -> None:
        self.broken = way == "broken"
        if not self.broken and self._server:
            self._server.close()
        self.break_off()

    def _come_back(self) -> None:
        if not self.broken:
            task = asyncio.ensure_future(self.start())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.broken = False


def main() -> None:
    """Serve until standard input ends, which it does when the parent ends, however that died; the first line of output is the port."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Settings.from_json, default=Settings(), help="weather.Settings as JSON")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--core", type=int, help="the one core to run on")
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    # Nothing here makes cycles in number, and a full collection walks the whole log.
    gc.disable()

    async def serve() -> None:
        stub = Stub(arguments.settings, arguments.port)
        await stub.start()
        print(stub.port, flush=True)
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
        await asyncio.Event().wait()

    try:
        import uvloop
    except ImportError:
        asyncio.run(serve())
    else:
        uvloop.run(serve())


if __name__ == "__main__":
    main()
