"""A server that plays both agents over the OpenAI protocol, at a fixed rate of tokens: for tests and benchmarks of what stands in front of it."""

import argparse
import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

CHAIN = "<thoughts>\n### Look\nThe disc on the left is red.\n### Compare\nThe other one is blue.\n### Conclusion\nIt is red.\nAnswer: red\n</thoughts>"
Json = dict[str, Any]


def text_of(message: Json) -> str:
    """The text of a message, without its images."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def part_of(body: Json) -> str:
    """Which part a request asks for: `rating`, `summarizer`, `reasoner` or `direct`."""
    messages = body["messages"]
    marks = {"REASON PROCESS": "summarizer", "Only provide": "reasoner", "PATH 1": "rating"}
    return next((part for mark, part in marks.items() if mark in text_of(messages[-1])), "direct")


@dataclass
class Agents:
    """What the server says, and what it was asked."""

    replies: dict[str, str | int | tuple[int, str] | Callable[[Json], str]] = field(default_factory=dict)
    """By part: a text, a function of the request's body, or the HTTP status of an error, with what it says."""
    rate: float = 0.0
    """Tokens a second of each stream; 0 sends all at once. A token is four characters."""
    breaks_after: int | None = None
    """Pieces after which a stream breaks off."""
    remembers: bool = True
    bodies: list[Json] = field(default_factory=list)
    open: int = 0
    """Requests under way."""

    def __post_init__(self) -> None:
        self.replies = {"reasoner": CHAIN, "summarizer": "red", "direct": "blue"} | self.replies

    def application(self) -> web.Application:
        """The server."""
        app = web.Application(client_max_size=2**27)
        app.router.add_post("/v1/chat/completions", self.answer)
        app.router.add_get("/open", self.count)
        return app

    async def count(self, _: web.Request) -> web.Response:
        """How many requests are under way."""
        return web.json_response(self.open)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One completion."""
        self.open += 1
        try:
            return await self._answer(request)
        finally:
            self.open -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        if self.remembers:
            self.bodies.append(body)
        said = self.replies[part_of(body)]
        text = said(body) if callable(said) else said
        if isinstance(text, int):
            text = text, "SECRET of the inside"
        if isinstance(text, tuple):
            return web.json_response({"error": {"message": text[1]}}, status=text[0])
        most = body.get("max_tokens") or 10**9
        pieces = [text[start : start + 4] for start in range(0, len(text), 4)]
        finish = "length" if len(pieces) > most else "stop"
        pieces = pieces[:most]
        usage = {"prompt_tokens": 100, "completion_tokens": len(pieces), "prompt_tokens_details": {"cached_tokens": 64}}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "".join(pieces)}, "finish_reason": finish}
            return web.json_response({"choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        due = asyncio.get_running_loop().time()
        for number, piece in enumerate(pieces):
            if number == self.breaks_after:
                assert request.transport
                request.transport.abort()
                return response
            if self.rate:
                due += 1 / self.rate
                await asyncio.sleep(due - asyncio.get_running_loop().time())
            await response.write(_event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}))
        await response.write(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
        await response.write(_event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
        return response


def _event(value: Json) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def main() -> None:
    """Serve until killed; says its port on standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--chain-tokens", type=int, default=100)
    parser.add_argument("--answer-tokens", type=int, default=20)
    given = parser.parse_args()
    steps = "".join(f"### Step\n{'look ' * 20}\n" for _ in range(given.chain_tokens // 28))
    chain = f"<thoughts>\n{steps}### Conclusion\nIt is so.\nAnswer: red\n</thoughts>"
    agents = Agents({"reasoner": chain, "summarizer": "red " * given.answer_tokens}, rate=given.rate, remembers=False)

    async def run() -> None:
        runner = web.AppRunner(agents.application(), handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
