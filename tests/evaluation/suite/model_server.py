"""A chat-completions server in a thread, whose replies each test writes."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.http_server import served

Body = dict[str, Any]


@dataclass
class Said:
    """One reply."""

    content: str | None = "B"
    status: int = 200
    finish: str = "stop"
    reasoning: str = ""
    wait: float = 0.0


@dataclass
class ModelServer:
    """What it is asked, and what it says."""

    answer: Callable[[Body], Said] = lambda _: Said()
    asked: list[Body] = field(default_factory=list)
    url: str = ""
    open: int = 0
    most: int = 0

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            said = self.answer(body)
            await asyncio.sleep(said.wait)
        finally:
            self.open -= 1
        if said.status != 200:
            return web.json_response({"error": {"message": "overloaded"}}, status=said.status)
        message = {"role": "assistant", "content": said.content, "reasoning": said.reasoning}
        usage = {"prompt_tokens": 100, "completion_tokens": 7}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": said.finish}], "usage": usage})


def text_of(body: Body) -> str:
    """The text of the last turn."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@contextmanager
def serving(server: ModelServer) -> Iterator[ModelServer]:
    """Serve for the block, at `server.url`."""

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", server.chat)
    with served(app) as url:
        server.url = f"{url}/v1"
        yield server
