"""A chat-completions server in a thread, whose replies each test writes."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

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

    async def serve(url: "Future[str]", end: asyncio.Event) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", server.chat)
        app.router.add_get("/v1/models", lambda _: web.json_response({"data": [{"id": "m"}]}))
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url.set_result(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        await end.wait()
        await runner.cleanup()

    loop, url, end = asyncio.new_event_loop(), Future[str](), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(url, end)))
    thread.start()
    try:
        server.url = url.result(30)
        yield server
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
