"""A web application of a test's own, served over real HTTP by a thread."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from aiohttp import web


@contextmanager
def served(app: web.Application) -> Iterator[str]:
    """Serve at 127.0.0.1 for the block, at the URL that it gets; what is under way at its end is cut off."""

    async def serve(url: "Future[str]", end: asyncio.Event) -> None:
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url.set_result(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await end.wait()
        await runner.cleanup()

    loop, url, end = asyncio.new_event_loop(), Future[str](), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(url, end)))
    thread.start()
    try:
        yield url.result(30)
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
