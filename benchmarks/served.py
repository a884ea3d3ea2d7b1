"""The pair's server: in this process in front of a stub that plays both agents, or as a user starts it."""

import asyncio
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from aiohttp import web

from benchmarks.agents_stub import Agents
from insightv.config import AgentConfig, Config, EndpointConfig, ServeConfig
from insightv.hosting import opened
from insightv.serving.api import create_app, listening
from insightv.serving.intake import HeldImages

_PATIENCE = 120.0
"""Seconds for a server to load what it serves."""


@dataclass
class Served:
    """A running server."""

    url: str
    """Without the /v1."""
    agents: Agents
    images: HeldImages
    key: str

    @property
    def client(self) -> openai.OpenAI:
        """The official client, without its own retries."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key or "none", max_retries=0, timeout=20)

    @property
    def headers(self) -> dict[str, str]:
        """With the key, where there is one."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@contextmanager
def _running(serve: Callable[[Callable[[Any], None], asyncio.Event], Coroutine[Any, Any, None]]) -> Iterator[Any]:
    """What a coroutine says it made, in a thread of its own; the event that it is given ends it."""
    ready, made, failed = threading.Event(), list[Any](), list[BaseException]()
    loop, end = asyncio.new_event_loop(), asyncio.Event()

    def work() -> None:
        try:
            loop.run_until_complete(serve(lambda value: (made.append(value), ready.set())[0], end))
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(30)
    try:
        if failed:
            raise failed[0]
        yield made[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(30)
        loop.close()
        if failed:
            raise failed[0]


@contextmanager
def serve_pair(agents: Agents, key: str, allowed: Callable[[str], bool] | None, **settings: Any) -> Iterator[Served]:
    """The server in front of a stub that plays both agents."""
    images = HeldImages()

    async def run(say: Callable[[Any], None], end: asyncio.Event) -> None:
        runner = web.AppRunner(agents.application(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        endpoint = EndpointConfig(url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1", model="m", concurrency=512, retries=1, timeout=10)
        agent = AgentConfig(endpoint=endpoint)
        judge = {"judge": endpoint} if settings.pop("judged", False) else {}
        config = Config(serve=ServeConfig(reasoner=agent, summarizer=agent, **judge, **settings))
        async with opened(config, images) as pair:
            server = listening(create_app(pair, images, key, allowed), "127.0.0.1", 0)
            serving = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            say(server.servers[0].sockets[0].getsockname()[1])
            await end.wait()
            server.should_exit = True
            await serving
        await runner.cleanup()

    with _running(run) as port:
        yield Served(f"http://127.0.0.1:{port}", agents, images, key)


@contextmanager
def command(verb: str, place: Path) -> Iterator[tuple[str, int]]:
    """`insightv VERB PLACE` on a free port, as a user starts it: its address without a path, and the process's number, once it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, "-c", "from insightv.cli import main; main()", verb, str(place), "--port", str(port)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + _PATIENCE
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"insightv {verb} {place} does not listen")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    # The port is taken before anything is loaded: whoever connects meanwhile waits.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    with suppress(OSError), closing(connection):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False
