"""Scripted servers of one model, for the tests of the request engine."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from insightv.config import EndpointConfig
from insightv.models import endpoint as endpoint_module
from insightv.models.endpoint import Endpoint
from insightv.models.meter import Meter
from insightv.store import ImageStore, Journal


def reply(*texts: str, **usage: Any) -> web.Response:
    """A completion with a choice for each text."""
    choices = [{"index": place, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for place, text in enumerate(texts)]
    return web.json_response({"choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": 10} | usage})


def refuse(status: int, **headers: str) -> web.Response:
    """An error."""
    return web.json_response({"error": {"message": "no"}}, status=status, headers=headers)


class Scripted:
    """A server of the model: `answer` gets it and each body and says what becomes of it. It can go and come back on the same port."""

    reply, refuse = staticmethod(reply), staticmethod(refuse)

    def __init__(self, answer: Callable[["Scripted", dict[str, Any]], Awaitable[web.StreamResponse] | web.StreamResponse]) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.at: list[float] = []
        self.open = self.most = self.port = 0
        self.runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        if self.runner:
            await self.runner.cleanup()
            self.runner = None

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "teacher"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.bodies.append(body)
        self.at.append(asyncio.get_running_loop().time())
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            answered = self.answer(self, body)
            return answered if isinstance(answered, web.StreamResponse) else await answered
        finally:
            self.open -= 1


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`async with servers(answer, ..) as (endpoint, [server, ..])`: a server for each answer, and an endpoint of them all over the folder's journal."""
    monkeypatch.setattr(endpoint_module, "LONGEST_BACKOFF", 0.02)
    monkeypatch.setattr(random, "uniform", random.Random(0).uniform)

    @contextlib.asynccontextmanager
    async def serving(*answers: Any, meter: Meter | None = None, payer: str = "", **config: Any) -> AsyncIterator[tuple[Endpoint, Sequence[Scripted]]]:
        several = [Scripted(answer) for answer in answers]
        for server in several:
            await server.start()
        url, *replicas = [server.url for server in several]
        settings = EndpointConfig(**({"url": url, "replicas": replicas, "timeout": 5, "max_outage": 5} | config))
        with Journal(tmp_path / "journal", payer) as journal:
            endpoint = Endpoint(settings, ImageStore(tmp_path / "images"), journal, meter=meter)
            try:
                yield endpoint, several
            finally:
                await endpoint.close()
                for server in several:
                    await server.stop()

    return serving
