"""A scripted model behind the real protocol: an HTTP server on loopback and the package's own client."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from insightv.config import EndpointConfig
from insightv.models.endpoint import Endpoint
from insightv.store import ImageStore

Body = dict[str, Any]
Script = Callable[[Body], str | int]


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[[Script], AbstractAsyncContextManager[Endpoint]]:
    """`async with scripted(script) as chat`: the script answers a request's body with a text, or a status that is an error."""

    @asynccontextmanager
    async def run(script: Script) -> AsyncIterator[Endpoint]:
        async def answer(request: web.Request) -> web.Response:
            body = await request.json()
            said = script(body)
            if isinstance(said, int):
                return web.json_response({"error": {"message": "refused"}}, status=said)
            usage = {"prompt_tokens": 10, "completion_tokens": len(said.split())}
            choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "length" if said.endswith("<cut>") else "stop"}
            return web.Response(text=json.dumps({"choices": [choice], "usage": usage}), content_type="application/json")

        application = web.Application()
        application.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        config = EndpointConfig(url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1", model="scripted", revision="1", retries=0)
        chat = Endpoint(config, ImageStore(tmp_path / "images"), None)
        try:
            yield chat
        finally:
            await chat.close()
            await runner.cleanup()

    return run
