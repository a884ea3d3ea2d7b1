"""An endpoint over real HTTP: what is sent, what is journalled, and what happens when the server misbehaves."""

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import PIL.Image
import pytest
from aiohttp import web

from insightv.config import EndpointConfig, UserError
from insightv.images import encode_png
from insightv.models import endpoint as endpoint_module
from insightv.models.chat import Delta, EndpointDown, Image, Message, Reply, Sampling, Text, text_message
from insightv.models.endpoint import Endpoint, RequestFailed
from insightv.models.wire import error_text, read_row, split_think
from insightv.store import ImageStore, Journal, derive_seed

HELLO = [text_message("user", "hello")]
Answer = Callable[["Server", dict[str, Any]], Awaitable[web.StreamResponse] | web.StreamResponse]


def reply(text: Any = "hi", **choice: Any) -> web.Response:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    message = choice.pop("message", {"role": "assistant", "content": text})
    return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"} | choice], "usage": usage})


def refuse(status: int, message: str = "no", **headers: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


class Server:
    """A chat-completions server whose `answer` each test writes; it can die and come back on the same port."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.current: web.Request | None = None
        self.open = self.most = self.cut = self.port = 0
        self.models_status = 200
        self.runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self.runner:
            await self.runner.cleanup()
            self.runner = None

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "teacher"}]}, status=self.models_status)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.requests.append(body)
        self.headers.append(request.headers)
        self.current = request
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            answered = self.answer(self, body)
            return answered if isinstance(answered, web.StreamResponse) else await answered
        except asyncio.CancelledError:
            self.cut += 1
            raise
        finally:
            self.open -= 1


@contextlib.asynccontextmanager
async def front(server: Server, way: str) -> AsyncIterator[int]:
    """A port that accepts whatever comes, like docker-proxy or ssh -L, and breaks off what it cannot pass on; yields the port."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner = await asyncio.open_connection("127.0.0.1", server.port)
        except ConnectionError:
            writer.transport.abort() if way == "reset" else writer.close()
            return
        await asyncio.gather(pipe(reader, inner[1]), pipe(inner[0], writer))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "LONGEST_BACKOFF", 0.01)


@contextlib.asynccontextmanager
async def serving(answer: Answer, folder: Path, *, retry_failed: bool = False, **config: Any) -> AsyncIterator[tuple[Server, Endpoint]]:
    server = Server(answer)
    await server.start()
    settings = EndpointConfig(**({"url": f"http://127.0.0.1:{server.port}/v1", "revision": "r1", "timeout": 5, "max_outage": 0.5} | config))
    with Journal(folder / "journal") as journal:
        endpoint = Endpoint(settings, ImageStore(folder / "images"), journal, retry_failed=retry_failed)
        try:
            yield server, endpoint
        finally:
            await endpoint.close()
            await server.stop()


@contextlib.asynccontextmanager
async def serving_at(port: int, folder: Path, **config: Any) -> AsyncIterator[Endpoint]:
    """An endpoint for a port, without further attempts, over the folder's journal."""
    settings = EndpointConfig(url=f"http://127.0.0.1:{port}/v1", revision="front", timeout=5, retries=0, **config)
    with Journal(folder / "journal") as journal:
        endpoint = Endpoint(settings, ImageStore(folder / "images"), journal)
        try:
            yield endpoint
        finally:
            await endpoint.close()


def ask(
    answer: Answer, folder: Path, sampling: Sampling | None = None, messages: list[Message] = HELLO, **options: Any
) -> tuple[list[Reply], Server, Endpoint]:
    """One `complete` against a fresh server over the folder's journal."""

    async def run() -> tuple[list[Reply], Server, Endpoint]:
        async with serving(answer, folder, **options) as (server, endpoint):
            return await endpoint.complete(messages, sampling or Sampling()), server, endpoint

    return asyncio.run(run())


def test_a_request_carries_messages_image_and_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    data = encode_png(PIL.Image.new("RGB", (8, 8), "red"))
    name = ImageStore(tmp_path / "images").add(data)
    messages = [text_message("system", "be brief"), Message("user", (Image(name), Text("what {colour}?")))]
    sampling = Sampling(seed=7, temperature=0.5, top_p=0.9, max_tokens=5, stop=("END",), prefill="It is", logprobs=True, extra={"top_k": 3, "seed": None})
    options = {"api_key_env": "A_KEY", "extra": {"min_p": 0.1, "top_k": 1}}
    replies, server, _ = ask(lambda *_: reply(logprobs={"content": [{"logprob": -0.5}, {"logprob": 0}]}), tmp_path, sampling, messages, **options)
    assert server.requests == [
        {
            "model": "teacher",
            "messages": [
                {"role": "system", "content": "be brief"},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}},
                        {"type": "text", "text": "what {colour}?"},
                    ],
                },
                {"role": "assistant", "content": "It is"},
            ],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 5,
            "stop": ["END"],
            "logprobs": True,
            "continue_final_message": True,
            "add_generation_prompt": False,
            "top_k": 3,
            "min_p": 0.1,
        }
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert replies[0].text == "hi" and replies[0].logprobs == (-0.5, 0.0)
    assert replies[0].usage.model_dump() == {"prompt": 100, "completion": 10, "cached": 64, "reasoning": 4}


def test_samples_have_their_own_seeds_and_only_missing_ones_are_asked(tmp_path: Path) -> None:
    def echo(_: Server, body: dict[str, Any]) -> web.Response:
        return reply(str(body["seed"]))

    seeds = [str(derive_seed(3, index)) for index in range(4)]
    one, server, _ = ask(echo, tmp_path, Sampling(seed=3, first=2))
    assert [r.text for r in one] == [seeds[2]] and len(server.requests) == 1
    four, server, endpoint = ask(echo, tmp_path, Sampling(seed=3, n=4), price_in=10, price_out=100)
    assert [r.text for r in four] == seeds and len(server.requests) == 3
    stats = endpoint.stats
    assert (stats.requests, stats.journalled, stats.prompt, stats.completion, stats.cached) == (3, 1, 300, 30, 192)
    assert stats.spend == pytest.approx((300 * 10 + 30 * 100) / 1e6)
    again, server, _ = ask(echo, tmp_path, Sampling(seed=3, n=4))
    assert again == four and server.requests == []


@pytest.mark.parametrize("changed", [{"revision": "r2"}, {"model": "other"}, {"extra": {"effort": "high"}}])
def test_another_model_or_setting_is_never_answered_from_the_journal(tmp_path: Path, changed: dict[str, Any]) -> None:
    ask(lambda *_: reply(), tmp_path)
    _, server, endpoint = ask(lambda *_: reply(), tmp_path, **changed)
    assert len(server.requests) == 1
    assert endpoint.identity == f"{changed.get('model', 'teacher')}@{changed.get('revision', 'r1')}"


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "a", "reasoning": "r", "reasoning_content": "c"}, "a", "r"),
        ({"content": "a", "reasoning_content": "c"}, "a", "c"),
        ({"content": "\n<think>\nt\n</think>\n\na"}, "a", "t"),
        ({"content": "a <think>t</think>"}, "a <think>t</think>", ""),
        ({"content": "<think>cut"}, "", "cut"),
        ({"content": None}, "", ""),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", ""),
        ({"content": {"odd": 1}, "reasoning": 5}, "", ""),
    ],
)
def test_reasoning_is_split_off_wherever_a_server_puts_it(tmp_path: Path, message: dict[str, Any], text: str, reasoning: str) -> None:
    replies, _, _ = ask(lambda *_: reply(message=message), tmp_path)
    assert (replies[0].text, replies[0].reasoning) == (text, reasoning)


def test_the_finish_is_told(tmp_path: Path) -> None:
    assert ask(lambda *_: reply(finish_reason="length"), tmp_path / "a")[0][0].finish == "length"
    assert ask(lambda *_: reply(finish_reason=None), tmp_path / "b")[0][0].finish == "stop"
    filtered = ask(lambda *_: reply(finish_reason="content_filter"), tmp_path / "c")[0][0]
    assert filtered.finish == "failed" and "content filter" in filtered.error
    assert ask(lambda *_: reply("fine"), tmp_path / "c", retry_failed=True)[0][0].text == "fine"


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_final_refusal_is_journalled_and_not_asked_again(tmp_path: Path, status: int) -> None:
    replies, server, endpoint = ask(lambda *_: refuse(status, "bad\n image"), tmp_path)
    assert replies[0].finish == "failed" and replies[0].error == f"HTTP {status}: bad image"
    assert len(server.requests) == 1 and endpoint.stats.failed == 1
    again, server, _ = ask(lambda *_: reply(), tmp_path)
    assert again == replies and server.requests == []


def test_a_failed_row_is_asked_once_more_on_wish_and_the_new_reply_stands(tmp_path: Path) -> None:
    ask(lambda *_: refuse(400), tmp_path)
    still, server, _ = ask(lambda *_: refuse(422), tmp_path, retry_failed=True)
    assert still[0].error.startswith("HTTP 422") and len(server.requests) == 1
    good, server, _ = ask(lambda *_: reply("good"), tmp_path, retry_failed=True)
    assert good[0].text == "good" and len(server.requests) == 1
    for retry_failed in (False, True):
        later, server, _ = ask(lambda *_: refuse(400), tmp_path, retry_failed=retry_failed)
        assert later[0].text == "good" and server.requests == []


def broken_ways() -> dict[str, Answer]:
    async def reset(server: Server, _: dict[str, Any]) -> web.StreamResponse:
        server.current.transport.close()
        return reply()

    async def slow(*_: Any) -> web.StreamResponse:
        await asyncio.sleep(30)
        return reply()

    return {
        "500": lambda *_: refuse(500),
        "429": lambda *_: refuse(429),
        "503": lambda *_: refuse(503),
        "reset": reset,
        "slow": slow,
        "not json": lambda *_: web.Response(text="<html>"),
        "no choice": lambda *_: web.json_response({"choices": []}),
        "array": lambda *_: web.json_response([1]),
        "odd message": lambda *_: web.json_response({"choices": [{"message": "hi"}]}),
    }


@pytest.mark.parametrize("way", list(broken_ways()))
def test_a_passing_failure_is_retried_and_a_lasting_one_becomes_a_failed_row(tmp_path: Path, way: str) -> None:
    broken = broken_ways()[way]
    timeout = 0.5 if way == "slow" else 5
    passing = ask(lambda server, body: broken(server, body) if len(server.requests) < 3 else reply(), tmp_path / "a", timeout=timeout)
    assert passing[0][0].text == "hi" and (passing[2].stats.requests, passing[2].stats.retries) == (3, 2)
    lasting, server, _ = ask(broken, tmp_path / "b", timeout=timeout, retries=2)
    assert lasting[0].finish == "failed" and lasting[0].error.startswith(f"gave up after {len(server.requests)} attempts")
    # Being asked too much is no fault of the request: it is tried for as long as an outage may last.
    assert len(server.requests) > 10 if way == "429" else len(server.requests) == 3
    assert ask(lambda *_: reply(), tmp_path / "b")[0] == lasting


def test_retry_after_is_honoured_outside_the_slot(tmp_path: Path) -> None:
    async def run() -> tuple[float, float]:
        limited = {"seen": False}

        def answer(_: Server, body: dict[str, Any]) -> web.Response:
            if body["messages"][0]["content"] == "hello" and not limited["seen"]:
                limited["seen"] = True
                return refuse(429, **{"Retry-After": "1"})
            return reply()

        async with serving(answer, tmp_path, concurrency=1, max_outage=20) as (_, endpoint):
            begun = time.monotonic()
            waiting = asyncio.create_task(endpoint.complete(HELLO, Sampling()))
            await asyncio.sleep(0.1)
            await endpoint.complete([text_message("user", "other")], Sampling())
            other = time.monotonic() - begun
            await waiting
            return other, time.monotonic() - begun

    other, waited = asyncio.run(run())
    assert other < 0.8 and waited >= 1


@pytest.mark.parametrize(
    ("value", "waits"),
    [
        *((value, True) for value in ("86400", "inf", "1e400", "Fri, 31 Dec 9999 23:59:59 GMT")),
        *((value, False) for value in ("-5", "-inf", "nan", "soon", "Mon, 01 Jan 0001 00:00:00 -0000")),
    ],
)
def test_no_retry_after_makes_a_request_wait_longer_than_an_outage_may_last(tmp_path: Path, value: str, waits: bool) -> None:
    begun = time.monotonic()
    replies, _, endpoint = ask(lambda server, _: refuse(429, **{"Retry-After": value}) if len(server.requests) == 1 else reply(), tmp_path, max_outage=0.5)
    waited = time.monotonic() - begun
    assert replies[0].text == "hi" and endpoint.stats.retries == 1
    assert waited < 3 and (waited >= 0.5 or not waits)


def test_no_more_requests_than_slots_are_in_flight(tmp_path: Path) -> None:
    async def run() -> int:
        async def answer(*_: Any) -> web.Response:
            await asyncio.sleep(0.01)
            return reply()

        async with serving(answer, tmp_path, concurrency=3) as (server, endpoint):
            await endpoint.complete(HELLO, Sampling(n=20))
            return server.most

    assert asyncio.run(run()) == 3


def test_an_outage_pauses_all_requests_and_costs_no_attempts(tmp_path: Path) -> None:
    async def run() -> tuple[list[Reply], int]:
        async with serving(lambda *_: reply(), tmp_path, max_outage=20, retries=0) as (server, endpoint):
            await endpoint.complete(HELLO, Sampling(first=99))
            await server.stop()
            waiting = asyncio.create_task(endpoint.complete(HELLO, Sampling(n=10)))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            await server.start()
            return await asyncio.wait_for(waiting, 10), len(server.requests)

    replies, requests = asyncio.run(run())
    assert [r.text for r in replies] == ["hi"] * 10 and requests == 11


def test_an_endpoint_that_stays_away_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(lambda *_: reply(), tmp_path, max_outage=0.4) as (server, endpoint):
            await server.stop()
            begun = time.monotonic()
            with pytest.raises(EndpointDown, match=r"out of reach for 0\.4 s .* run the same command again"):
                await endpoint.complete(HELLO, Sampling(n=5))
            assert time.monotonic() - begun < 3
            await server.start()
            assert (await endpoint.complete(HELLO, Sampling()))[0].text == "hi"

    asyncio.run(run())


def test_a_gateway_before_a_dead_server_is_an_outage(tmp_path: Path) -> None:
    async def run() -> None:
        def answer(server: Server, _: dict[str, Any]) -> web.Response:
            return reply() if server.models_status == 200 else refuse(502)

        async with serving(answer, tmp_path, max_outage=20, retries=0) as (server, endpoint):
            server.models_status = 502
            waiting = asyncio.create_task(endpoint.complete(HELLO, Sampling()))
            await asyncio.sleep(0.3)
            server.models_status = 200
            assert (await asyncio.wait_for(waiting, 10))[0].text == "hi"

    asyncio.run(run())


@pytest.mark.parametrize("way", ["reset", "end"])
def test_a_front_that_breaks_off_every_request_while_the_server_loads_is_an_outage(tmp_path: Path, way: str) -> None:
    async def run() -> tuple[list[Reply], int]:
        async with serving(lambda *_: reply(), tmp_path) as (server, _), front(server, way) as port, serving_at(port, tmp_path, max_outage=20) as endpoint:
            await server.stop()
            waiting = asyncio.create_task(endpoint.complete(HELLO, Sampling(n=10)))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            await server.start()
            return await asyncio.wait_for(waiting, 10), len(server.requests)

    replies, requests = asyncio.run(run())
    assert [r.text for r in replies] == ["hi"] * 10 and requests == 10


@pytest.mark.parametrize("way", ["reset", "end"])
def test_a_front_whose_server_stays_away_ends_the_run_and_loses_nothing(tmp_path: Path, way: str) -> None:
    async def run() -> None:
        async with serving(lambda *_: reply(), tmp_path) as (server, _), front(server, way) as port, serving_at(port, tmp_path, max_outage=0.4) as endpoint:
            await server.stop()
            begun = time.monotonic()
            with pytest.raises(EndpointDown, match=rf"127\.0\.0\.1:{port}/v1 was out of reach for 0\.4 s \(.+\); nothing is lost"):
                await endpoint.complete(HELLO, Sampling(n=5))
            assert time.monotonic() - begun < 3
            await server.start()
            assert (await endpoint.complete(HELLO, Sampling(n=5)))[4].text == "hi"

    asyncio.run(run())


def test_a_request_that_ends_the_server_each_time_does_not_go_on_for_ever(tmp_path: Path) -> None:
    async def answer(server: Server, body: dict[str, Any]) -> web.StreamResponse:
        if body["messages"][0]["content"] == "hello":
            # Out of memory: the server is gone, and back again soon.
            server.models_status = 502
            asyncio.get_running_loop().call_later(0.1, setattr, server, "models_status", 200)
            server.current.transport.close()
        return reply()

    replies, server, endpoint = ask(answer, tmp_path, retries=1, max_outage=20)
    assert replies[0].finish == "failed" and replies[0].error.startswith("gave up after 2 attempts: ")
    # Whom an outage hits is asked again for nothing, but once in an attempt.
    assert len(server.requests) == 4 and (endpoint.stats.requests, endpoint.stats.retries) == (4, 3)
    assert ask(lambda *_: reply(), tmp_path, messages=[text_message("user", "other")])[0][0].text == "hi"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_the_users_to_mend_and_no_failed_row(tmp_path: Path, status: int) -> None:
    with pytest.raises(UserError, match="set the environment variable OPENAI_API_KEY"):
        ask(lambda *_: refuse(status), tmp_path)
    assert ask(lambda *_: reply(), tmp_path)[0][0].text == "hi"


def test_a_schema_is_dropped_once_and_for_good_where_it_is_refused(tmp_path: Path) -> None:
    async def run() -> list[bool]:
        def answer(_: Server, body: dict[str, Any]) -> web.Response:
            return refuse(400, "no response_format") if "response_format" in body else reply("{}")

        async with serving(answer, tmp_path) as (server, endpoint):
            for index in range(2):
                assert (await endpoint.complete(HELLO, Sampling(first=index, schema={"type": "object"})))[0].text == "{}"
            return ["response_format" in body for body in server.requests]

    assert asyncio.run(run()) == [True, False, False]


@pytest.mark.parametrize("status", [400, 422])
def test_a_request_under_way_when_the_schema_proves_unsupported_is_not_lost(tmp_path: Path, status: int) -> None:
    async def run() -> tuple[list[Reply], list[bool]]:
        learnt = asyncio.Event()

        async def answer(_: Server, body: dict[str, Any]) -> web.Response:
            if "response_format" not in body:
                return reply("{}")
            if body["messages"][0]["content"] == "late":
                await learnt.wait()
            return refuse(status, "no response_format")

        async with serving(answer, tmp_path) as (server, endpoint):
            sampling = Sampling(schema={"type": "object"})
            late = asyncio.create_task(endpoint.complete([text_message("user", "late")], sampling))
            while not server.requests:
                await asyncio.sleep(0.01)
            first = await endpoint.complete(HELLO, sampling)
            learnt.set()
            return first + await late, ["response_format" in body for body in server.requests]

    replies, schemas = asyncio.run(run())
    assert [(r.finish, r.text) for r in replies] == [("stop", "{}")] * 2
    assert schemas == [True, True, False, False]


def test_a_schema_that_worked_once_is_not_given_up(tmp_path: Path) -> None:
    async def run() -> list[bool]:
        refused, accepted = asyncio.Event(), asyncio.Event()

        async def answer(_: Server, body: dict[str, Any]) -> web.Response:
            if body["messages"][0]["content"] == "odd":
                if "response_format" in body:
                    return refuse(400, "this one is too long with a schema")
                refused.set()
                await accepted.wait()
            return reply("{}")

        async with serving(answer, tmp_path) as (server, endpoint):
            sampling = Sampling(schema={"type": "object"})
            odd = asyncio.create_task(endpoint.complete([text_message("user", "odd")], sampling))
            good = asyncio.create_task(endpoint.complete(HELLO, sampling))
            await refused.wait()
            await good
            accepted.set()
            assert (await odd)[0].text == "{}"
            await endpoint.complete([text_message("user", "later")], sampling)
            return ["response_format" in body for body in server.requests if body["messages"][0]["content"] != "odd"]

    assert asyncio.run(run()) == [True, True]


def test_a_bad_request_with_an_accepted_schema_is_final(tmp_path: Path) -> None:
    async def run() -> int:
        def answer(_: Server, body: dict[str, Any]) -> web.Response:
            assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
            return refuse(400) if body["messages"][0]["content"] == "bad" else reply("{}")

        async with serving(answer, tmp_path) as (server, endpoint):
            sampling = Sampling(schema={"type": "object"})
            await endpoint.complete(HELLO, sampling)
            assert (await endpoint.complete([text_message("user", "bad")], sampling))[0].finish == "failed"
            return len(server.requests)

    assert asyncio.run(run()) == 2


def test_cancelling_cancels_the_request(tmp_path: Path) -> None:
    async def run() -> int:
        async def answer(*_: Any) -> web.Response:
            await asyncio.sleep(30)
            return reply()

        async with serving(answer, tmp_path, concurrency=2) as (server, endpoint):
            task = asyncio.create_task(endpoint.complete(HELLO, Sampling(n=2)))
            while server.open < 2:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while server.open:
                await asyncio.sleep(0.01)
            return server.cut

    assert asyncio.run(run()) == 2


@pytest.mark.parametrize("split", [1, 3, 1000])
def test_a_stream_gives_reasoning_content_and_usage(tmp_path: Path, split: int) -> None:
    text = "<think>why < </thin</think>\nbecause <b>"

    async def answer(server: Server, body: dict[str, Any]) -> web.StreamResponse:
        assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(server.current)
        pieces = [text[start : start + split] for start in range(0, len(text), split)]
        events = [{"choices": [{"delta": {"role": "assistant"}}]}, *({"choices": [{"delta": {"content": piece}}]} for piece in pieces)]
        for event in [*events, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}]:
            await response.write(b": ping\n\ndata: " + orjson.dumps(event) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def run() -> list[Delta]:
        async with serving(answer, tmp_path) as (_, endpoint):
            deltas = [delta async for delta in endpoint.stream(HELLO, Sampling())]
            assert endpoint.stats.prompt == 3
            return deltas

    deltas = asyncio.run(run())
    assert "".join(d.text for d in deltas if d.kind == "reasoning") == "why < </thin"
    assert "".join(d.text for d in deltas if d.kind == "content") == "because <b>"
    assert [d.usage.completion for d in deltas if d.kind == "usage"] == [2]


@pytest.mark.parametrize("answer", [lambda *_: refuse(400, "no streams"), lambda *_: web.Response(text='data: {"error": {"message": "oops"}}\n\n')])
def test_a_stream_that_breaks_off_says_so(tmp_path: Path, answer: Answer) -> None:
    async def run() -> None:
        async with serving(answer, tmp_path) as (_, endpoint):
            async for _delta in endpoint.stream(HELLO, Sampling()):
                pass

    with pytest.raises(RequestFailed, match=r"no streams|oops"):
        asyncio.run(run())


def test_refusals_by_load_are_forgotten_when_streams_are_served_again(tmp_path: Path) -> None:
    busy = True

    async def answer(server: Server, _: dict[str, Any]) -> web.StreamResponse:
        if busy:
            return refuse(503, "busy")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(server.current)
        await response.write(b'data: {"choices": [{"delta": {"content": "hi"}}], "usage": {"completion_tokens": 9223372036854775808}}\n\ndata: [DONE]\n\n')
        return response

    async def run() -> tuple[float, float]:
        nonlocal busy
        async with serving(answer, tmp_path, concurrency=8) as (_, endpoint):
            limit = endpoint._transport._pool.replicas[0].limit

            async def streams(count: int) -> float:
                for _ in range(count):
                    with contextlib.suppress(RequestFailed):
                        assert [delta async for delta in endpoint.stream(HELLO, Sampling())][-1].usage.completion == 2**40  # type: ignore[union-attr]
                return limit.value

            low = await streams(20)
            busy = False
            return low, await streams(200)

    low, high = asyncio.run(run())
    assert low < 2 and high == 8


def test_a_probe_tells_capabilities_apart(tmp_path: Path) -> None:
    async def probe(answer: Answer, folder: Path, **config: Any) -> dict[str, Any]:
        async with serving(answer, folder, **config) as (_, endpoint):
            return await endpoint.probe()

    def text_only(_: Server, body: dict[str, Any]) -> web.Response:
        return refuse(400, "text only") if isinstance(body["messages"][0]["content"], list) else reply()

    facts = asyncio.run(probe(text_only, tmp_path / "a"))
    assert 0 < facts.pop("seconds") < 5
    assert facts == {"reachable": True, "listed": True, "answers": True, "json_schema": True, "image": False, "error": "image: HTTP 400: text only"}
    plain = asyncio.run(probe(lambda _, body: text_only(_, body) if "response_format" not in body else refuse(400, "no schema"), tmp_path / "d"))
    assert plain["answers"] and plain["error"] == "json_schema: HTTP 400: no schema; image: HTTP 400: text only"
    assert asyncio.run(probe(lambda *_: reply(), tmp_path / "b", model="misspelt"))["listed"] is False
    down = asyncio.run(probe(lambda *_: reply(), tmp_path / "c", url="http://127.0.0.1:9/v1"))
    assert down["reachable"] is False and "cannot be reached" in down["error"]


@pytest.mark.parametrize("url", ["", "localhost:8000/v1", "file:///etc/passwd"])
def test_a_wrong_url_is_a_user_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"url|URL"):
        Endpoint(EndpointConfig(url=url), ImageStore(tmp_path), None)


def test_pieces_of_the_protocol() -> None:
    assert split_think("plain") == ("", "plain")
    assert error_text(b"\xff not json\n at all") == "\ufffd not json at all"
    assert error_text(b'{"detail": [{"msg": "field"}]}') == "[{'msg': 'field'}]"
    assert len(error_text(b"x" * 1000)) == 300
    assert read_row({"message": {"content": "a"}, "finish_reason": "stop", "usage": {"prompt_tokens": "many"}}).usage.prompt == 0
