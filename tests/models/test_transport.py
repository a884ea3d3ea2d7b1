"""The request engine over real HTTP: several servers of one model, what they know of images, paces, and an end that comes at once."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from insightv.images import encode_png
from insightv.journal import Bill, Journal
from insightv.models import endpoint as endpoint_module
from insightv.models.chat import EndpointDown, Halted, Image, Message, Reply, Sampling, Text, text_message
from insightv.models.meter import Meter
from insightv.models.together import together
from insightv.store import ImageStore


async def ask(endpoint: Any, count: int, first: int = 0, text: str = "question") -> list[Reply]:
    """Replies to so many requests that share nothing but their length."""
    several = [endpoint.complete([text_message("user", f"{text} {number:06d}")], Sampling()) for number in range(first, first + count)]
    return [reply for [reply] in await together(several)]


def billed(folder: Path) -> Bill:
    with Journal(folder / "journal") as journal:
        [bill] = journal.bills().values()
    return bill


def image(folder: Path, colour: str = "red") -> Message:
    digest = ImageStore(folder / "images").add(encode_png(PIL.Image.new("RGB", (8, 8), colour)))
    return Message("user", (Image(digest), Text("what?")))


def parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]


def test_samples_of_one_prompt_share_a_request_and_its_bill(servers: Any, tmp_path: Path) -> None:
    async def run() -> None:
        def answer(server: Any, body: dict[str, Any]) -> Any:
            return server.reply(*(f"{body['seed']} {number}" for number in range(body.get("n", 1))))

        async with servers(answer, n_per_request=4, price_in=1e4, price_out=1e5) as (endpoint, [server]):
            replies = await endpoint.complete([text_message("user", "a")], Sampling(n=6))
            assert sorted(body.get("n", 1) for body in server.bodies) == [2, 4]
            assert [reply.text.split()[1] for reply in replies] == ["0", "1", "2", "3", "0", "1"]
            assert (endpoint.stats.requests, endpoint.stats.prompt, endpoint.stats.completion) == (2, 200, 20)
            assert endpoint.stats.spend == pytest.approx(2 * 2)
            again = await endpoint.complete([text_message("user", "a")], Sampling(n=7))
            assert again[:6] == [Reply(reply.text, usage=reply.usage) for reply in replies] and len(server.bodies) == 3 and "n" not in server.bodies[2]
        assert billed(tmp_path) == Bill(3, 0, 300, 30, 0, pytest.approx(6))

    asyncio.run(run())


def test_a_server_that_gives_fewer_samples_is_asked_for_the_rest(servers: Any, tmp_path: Path) -> None:
    async def run() -> None:
        def answer(server: Any, body: dict[str, Any]) -> Any:
            return server.reply(*(str(len(server.bodies)) for _ in range(min(2, body.get("n", 1)))))

        async with servers(answer, n_per_request=8) as (endpoint, [server]):
            replies = await endpoint.complete([text_message("user", "a")], Sampling(n=5))
            assert [reply.text for reply in replies] == ["1", "1", "2", "2", "3"]
            assert [body.get("n", 1) for body in server.bodies] == [5, 3, 1]
        assert billed(tmp_path).requests == 3 and billed(tmp_path).prompt == 300

    asyncio.run(run())


def test_more_choices_than_asked_for_are_left(servers: Any) -> None:
    async def run() -> None:
        async with servers(lambda server, _: server.reply("a", "b", "c"), n_per_request=2) as (endpoint, _):
            assert [reply.text for reply in await endpoint.complete([text_message("user", "a")], Sampling(n=2))] == ["a", "b"]

    asyncio.run(run())


def test_a_broken_reply_for_several_is_asked_again_and_fails_them_together(servers: Any, tmp_path: Path) -> None:
    async def run() -> None:
        def answer(server: Any, body: dict[str, Any]) -> Any:
            good = server.reply("a", "b", "c")
            if len(server.bodies) == 1 or body["messages"][0]["content"] == "bad":
                good.body = good.body[: len(good.body) // 2]
            return good

        async with servers(answer, n_per_request=3, retries=2) as (endpoint, [server]):
            good = await endpoint.complete([text_message("user", "good")], Sampling(n=3))
            bad = await endpoint.complete([text_message("user", "bad")], Sampling(n=3))
            assert [reply.text for reply in good] == ["a", "b", "c"] and [reply.finish for reply in bad] == ["failed"] * 3
            assert len(server.bodies) == endpoint.stats.requests == 5 and endpoint.stats.failed == 3
        assert billed(tmp_path) == Bill(5, 3, 100, 10)

    asyncio.run(run())


def test_a_cached_prompt_has_its_own_price(servers: Any, tmp_path: Path) -> None:
    async def run() -> None:
        def answer(server: Any, _: Any) -> Any:
            return server.reply("hi", prompt_tokens=1000, completion_tokens=100, prompt_tokens_details={"cached_tokens": 800})

        async with servers(answer, price_in=10, price_out=100, price_cached=1) as (endpoint, _):
            await ask(endpoint, 2)
            assert endpoint.stats.cached == 1600 and endpoint.stats.spend == pytest.approx(2 * (200 * 10 + 800 * 1 + 100 * 100) / 1e6)
        assert billed(tmp_path) == Bill(2, 0, 2000, 200, 1600, pytest.approx(endpoint.stats.spend))

    asyncio.run(run())


def test_replicas_share_the_work_and_each_keeps_to_its_limit(servers: Any) -> None:
    async def run() -> None:
        async def answer(server: Any, _: Any) -> Any:
            await asyncio.sleep(0.02)
            return server.reply("hi")

        async with servers(answer, answer, answer, concurrency=4) as (endpoint, several):
            assert len(await ask(endpoint, 90)) == 90
            assert [server.most for server in several] == [4, 4, 4]
            assert all(20 <= len(server.bodies) <= 40 for server in several)

    asyncio.run(run())


def test_a_conversation_stays_with_the_replica_that_has_its_beginning(servers: Any) -> None:
    async def run() -> None:
        async def answer(server: Any, _: Any) -> Any:
            await asyncio.sleep(0.005)
            return server.reply("hi")

        async with servers(answer, answer, concurrency=8) as (endpoint, several):

            async def talk(number: int) -> None:
                opening = [text_message("system", "s"), text_message("user", str(number))]
                for turn in range(5):
                    await endpoint.complete([*opening, *(text_message("assistant", "x") for _ in range(turn))], Sampling())

            await asyncio.gather(*(talk(number) for number in range(8)))
            homes = [Counter(body["messages"][1]["content"] for body in server.bodies) for server in several]
            assert set((homes[0] + homes[1]).values()) == {5} and not set(homes[0]) & set(homes[1])
            assert len(homes[0]) == len(homes[1]) == 4

    asyncio.run(run())


def test_a_replica_that_dies_loses_nothing_costs_no_attempt_and_is_used_again_when_it_is_back(servers: Any) -> None:
    async def run() -> None:
        async def answer(server: Any, _: Any) -> Any:
            await asyncio.sleep(0.02)
            return server.reply("hi")

        async with servers(answer, answer, concurrency=4, retries=0, max_outage=20) as (endpoint, several):
            first = asyncio.create_task(ask(endpoint, 200))
            while len(several[1].bodies) < 20:
                await asyncio.sleep(0.005)
            await several[1].stop()
            replies = await first
            assert [reply.text for reply in replies] == ["hi"] * 200
            dead = len(several[1].bodies)
            await several[1].start()
            await asyncio.sleep(0.7)  # a probe sees that it is back
            assert all(reply.text == "hi" for reply in await ask(endpoint, 100, first=200))
            assert len(several[1].bodies) >= dead + 30

    asyncio.run(run())


def test_all_replicas_gone_end_the_run_in_time_and_say_so(servers: Any) -> None:
    async def run() -> None:
        async with servers(lambda server, _: server.reply("hi"), lambda server, _: server.reply("hi"), max_outage=0.8) as (endpoint, several):
            await ask(endpoint, 4)
            for server in several:
                await server.stop()
            begun = time.monotonic()
            with pytest.raises(EndpointDown, match=r"every replica of teacher was out of reach for 0\.8 s .* run the same command again"):
                await ask(endpoint, 6, first=4)
            assert 0.4 < time.monotonic() - begun < 3
            await several[1].start()
            assert [reply.text for reply in await ask(endpoint, 6, first=4)] == ["hi"] * 6, "one is enough"

    asyncio.run(run())


def test_an_image_is_sent_whole_once_and_then_by_its_uuid(servers: Any, tmp_path: Path) -> None:
    message = image(tmp_path)
    [digest] = [part.digest for part in message.parts if isinstance(part, Image)]

    async def run() -> None:
        async with servers(lambda server, _: server.reply("hi"), images="uuid") as (endpoint, [server]):
            for number in range(3):
                await endpoint.complete([message, text_message("user", str(number))], Sampling())
            sent = [parts(body) for body in server.bodies]
            assert sent[0][0]["image_url"]["url"].startswith("data:image/png;base64,") and sent[0][0]["uuid"] == digest
            assert sent[1:] == [[{"type": "image_url", "image_url": None, "uuid": digest}]] * 2

    asyncio.run(run())


def test_each_replica_gets_an_image_itself(servers: Any, tmp_path: Path) -> None:
    message = image(tmp_path)

    async def run() -> None:
        async with servers(lambda server, _: server.reply("hi"), lambda server, _: server.reply("hi"), images="uuid") as (endpoint, several):
            await asyncio.gather(*(endpoint.complete([message, text_message("user", str(number))], Sampling()) for number in range(2)))
            assert [parts(server.bodies[0])[0]["image_url"] is not None for server in several] == [True, True]

    asyncio.run(run())


def test_a_server_that_let_go_of_an_image_gets_it_again_in_the_same_attempt(servers: Any, tmp_path: Path) -> None:
    messages = [image(tmp_path, colour) for colour in ("red", "blue")]

    async def run() -> None:
        cache: set[str] = set()

        def answer(server: Any, body: dict[str, Any]) -> Any:
            if any(part["image_url"] is None and part["uuid"] not in cache for part in parts(body)):
                return server.refuse(400)
            cache.update(part["uuid"] for part in parts(body))
            return server.reply("hi")

        async with servers(answer, images="uuid", retries=0) as (endpoint, [server]):
            for message in messages:
                await endpoint.complete([message], Sampling())
            cache.clear()
            replies = await endpoint.complete([messages[0], text_message("user", "again")], Sampling())
            assert replies[0].text == "hi" and len(server.bodies) == 4
            assert [parts(body)[0]["image_url"] is None for body in server.bodies] == [False, False, True, False]
            assert (endpoint.stats.requests, endpoint.stats.retries, endpoint.stats.failed) == (4, 1, 0)
            # What else was in that cache is gone too.
            await endpoint.complete([messages[1], text_message("user", "again")], Sampling())
            assert parts(server.bodies[4])[0]["image_url"] is not None
        assert billed(tmp_path).requests == 5

    asyncio.run(run())


def test_a_bad_request_with_a_known_image_is_refused_in_the_end(servers: Any, tmp_path: Path) -> None:
    message = image(tmp_path)

    async def run() -> None:
        def answer(server: Any, body: dict[str, Any]) -> Any:
            return server.refuse(400) if len(body["messages"]) > 1 else server.reply("hi")

        async with servers(answer, images="uuid") as (endpoint, [server]):
            await endpoint.complete([message], Sampling())
            [bad] = await endpoint.complete([message, text_message("user", "bad")], Sampling())
            assert bad.finish == "failed" and bad.error.startswith("HTTP 400") and len(server.bodies) == 3
        assert billed(tmp_path).requests == 3

    asyncio.run(run())


def test_an_image_may_be_named_by_its_file(servers: Any, tmp_path: Path) -> None:
    message = image(tmp_path)

    async def run() -> None:
        async with servers(lambda server, _: server.reply("hi"), images="file") as (endpoint, [server]):
            await endpoint.complete([message], Sampling())
            [part] = parts(server.bodies[0])
            assert set(part) == {"type", "image_url"}
            assert Path(part["image_url"]["url"].removeprefix("file://")).read_bytes().startswith(b"\x89PNG")

    asyncio.run(run())


def test_a_deadline_ends_the_attempts_of_a_request(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "LONGEST_BACKOFF", 0.1)

    async def run() -> None:
        for status in (500, 429):
            async with servers(lambda server, _, status=status: server.refuse(status), deadline=0.5, retries=1000) as (endpoint, [server]):
                begun = time.monotonic()
                [reply] = await ask(endpoint, 1, text=str(status))
                assert reply.finish == "failed" and f"HTTP {status}" in reply.error and time.monotonic() - begun < 0.8
                assert 3 <= len(server.bodies) <= 12

    asyncio.run(run())


def test_too_many_requests_are_forgiven_beyond_the_retries_and_other_failures_are_not(servers: Any) -> None:
    async def run() -> None:
        def answer(server: Any, body: dict[str, Any]) -> Any:
            text = body["messages"][0]["content"]
            return server.refuse(429 if text.startswith("429") else 500) if len(server.bodies) < 15 else server.reply("hi")

        async with servers(answer, retries=1) as (endpoint, [server]):
            assert [reply.finish for reply in await ask(endpoint, 1, text="500")] == ["failed"]
            assert [reply.text for reply in await ask(endpoint, 1, text="429")] == ["hi"] and len(server.bodies) == 15

    asyncio.run(run())


def test_a_server_that_refuses_for_a_day_is_asked_for_a_day(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "LONGEST_BACKOFF", 0.0)

    async def run() -> None:
        async with servers(lambda server, _: server.refuse(429) if len(server.bodies) < 1100 else server.reply("hi"), max_outage=86400) as (endpoint, _):
            assert [reply.text for reply in await ask(endpoint, 1)] == ["hi"]

    asyncio.run(run())


def test_an_overloaded_server_says_how_long_to_wait(servers: Any) -> None:
    async def run() -> None:
        def answer(server: Any, _: Any) -> Any:
            return server.reply("hi") if len(server.bodies) > 1 else server.refuse(503, **{"Retry-After": "1"})

        async with servers(answer) as (endpoint, [server]):
            assert [reply.text for reply in await ask(endpoint, 1)] == ["hi"]
            assert 1 <= server.at[1] - server.at[0] < 1.5 and endpoint.stats.retries == 1

    asyncio.run(run())


def test_requests_per_minute_are_kept(servers: Any) -> None:
    async def run() -> None:
        async with servers(lambda server, _: server.reply("hi"), requests_per_minute=60 * 40) as (endpoint, [server]):
            await ask(endpoint, 100)
            at = [moment - server.at[0] for moment in server.at]
            # A second's worth at once, then one each 25 ms; the first may have been held up itself.
            assert all(number <= 40 + 40 * (moment + 0.2) for number, moment in enumerate(at)) and at[-1] < 2.5

    asyncio.run(run())


def test_tokens_per_minute_are_kept_though_nobody_knows_before_what_a_request_takes(servers: Any) -> None:
    async def run() -> None:
        async with servers(lambda server, _: server.reply("hi"), tokens_per_minute=60 * 5500, concurrency=32) as (endpoint, [server]):
            await ask(endpoint, 150)
            at = [moment - server.at[0] for moment in server.at]
            # 110 tokens each: a second's worth and what is in flight before the first answer, then 50 a second.
            late = [number for number, moment in enumerate(at) if number > 50 + 32 + 50 * (moment + 0.2)]
            assert not late and 0.9 < at[-1] < 3

    asyncio.run(run())


@pytest.mark.parametrize("way", ["backoff", "outage", "pace", "tokens", "queue"])
def test_a_halt_ends_whoever_waits_at_once(servers: Any, way: str) -> None:
    """Waiting after a refusal, for a server that is gone, for the pace of requests or tokens, or for a place."""
    config: dict[str, Any] = {"pace": {"requests_per_minute": 6}, "tokens": {"tokens_per_minute": 660}, "queue": {"concurrency": 1}}.get(way, {})

    async def run() -> None:
        async def answer(server: Any, _: Any) -> Any:
            if way == "queue":
                await asyncio.sleep(1)
            return server.refuse(429, **{"Retry-After": "60"}) if way == "backoff" else server.reply("hi")

        meter = Meter()
        async with servers(answer, meter=meter, **({"max_outage": 60} | config)) as (endpoint, [server]):
            if way == "outage":
                await server.stop()
            await asyncio.gather(*(endpoint.complete([text_message("user", "before")], Sampling()) for _ in range(way == "tokens")))
            several = [asyncio.create_task(ask(endpoint, 1, first=number)) for number in range(8)]
            await asyncio.sleep(0.3)
            begun = time.monotonic()
            meter.halt(Halted("stopped", 143))
            results = await asyncio.gather(*several, return_exceptions=True)
            assert time.monotonic() - begun < (1.5 if way == "queue" else 0.3)
            halted = [result for result in results if isinstance(result, Halted)]
            assert len(halted) >= 6 and all((str(error), error.code) == ("stopped", 143) for error in halted)
            # Whoever was at the server has its reply.
            assert len(halted) + sum(isinstance(result, list) for result in results) == 8

    asyncio.run(run())
