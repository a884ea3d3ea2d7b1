"""The least that can stand in front of two agents: it passes the bytes of one server's stream on, then those of the other's, and reads none of them."""

import argparse
import asyncio

import aiohttp
import orjson
from aiohttp import web

from benchmarks.agents_stub import CHAIN


def application(reasoner: str, summarizer: str) -> web.Application:
    """The relay to two base URLs."""
    sessions: list[aiohttp.ClientSession] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for url, text in ((reasoner, "Only provide the reasoning process."), (summarizer, f"REASON PROCESS: {CHAIN}")):
            asked = {"model": "m", "stream": True, "max_tokens": 4096, "messages": [*body["messages"], {"role": "user", "content": text}]}
            async with sessions[0].post(f"{url}/chat/completions", data=orjson.dumps(asked)) as found:
                async for piece in found.content.iter_any():
                    await response.write(piece)
        return response

    async def opened(_: web.Application) -> None:
        sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(600)))

    app = web.Application(client_max_size=2**27)
    app.on_startup.append(opened)
    app.router.add_post("/v1/chat/completions", answer)
    return app


def main() -> None:
    """Serve until killed; says its port on standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reasoner")
    parser.add_argument("summarizer")
    given = parser.parse_args()

    async def run() -> None:
        runner = web.AppRunner(application(given.reasoner, given.summarizer), handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    import uvloop

    uvloop.run(run())


if __name__ == "__main__":
    main()
