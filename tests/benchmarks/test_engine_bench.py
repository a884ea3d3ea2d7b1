"""The benchmark of engines: its ideal against simulation and exhaustion, its stub's weather over real sockets, and the driver once, small."""

import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from benchmarks.engines import payload, report
from benchmarks.engines.drive import paid_twice
from benchmarks.engines.floor import pieces
from benchmarks.engines.ideal import Stay, ideal_seconds, schedule, stays
from benchmarks.engines.process import serving
from benchmarks.engines.stub import Stub
from benchmarks.engines.weather import Settings, poison, weather
from insightv.images import decode
from insightv.prompts import parse_conclusion, parse_step
from insightv.store import ImageStore

ROOT = Path(__file__).parents[2]
FAST: dict[str, Any] = {"latency": 10, "slow": 30}


def by_the_clock(rows: list[list[Stay]], slots: int) -> int:
    """The same schedule in order of rows, millisecond by millisecond."""
    place, ready = [0] * len(rows), [0] * len(rows)
    ends: dict[int, int] = {}
    for now in itertools.count():
        for row in [row for row, end in ends.items() if end == now]:
            ready[row] = now + rows[row][place[row]].wait
            place[row] += 1
            del ends[row]
        if all(place[row] == len(rows[row]) for row in range(len(rows))):
            return now
        for row in range(len(rows)):
            if len(ends) < slots and row not in ends and place[row] < len(rows[row]) and ready[row] <= now:
                ends[row] = now + rows[row][place[row]].milliseconds
    raise AssertionError


@pytest.mark.parametrize("seed", range(20))
def test_the_ideal_is_what_a_simulation_by_the_clock_gives(seed: int) -> None:
    lot = random.Random(seed)
    rows = [[Stay(lot.randint(1, 9), lot.choice((0, 0, 5))) for _ in range(lot.randint(1, 4))] for _ in range(lot.randint(1, 7))]
    slots = lot.randint(1, 4)
    assert schedule(rows, slots) == by_the_clock(rows, slots)


@pytest.mark.parametrize("seed", range(10))
def test_the_ideal_is_near_the_best_of_all_orders_and_never_below_the_bounds(seed: int) -> None:
    lot = random.Random(100 + seed)
    rows = [[Stay(lot.randint(1, 9))] for _ in range(6)]
    best = min(schedule(list(order), 3) for order in itertools.permutations(rows))
    assert best <= schedule(rows, 3) <= (2 - 1 / 3) * best
    assert best >= max(max(row[0].milliseconds for row in rows), -(-sum(row[0].milliseconds for row in rows) // 3))


def test_chains_evenly_scheduled_do_not_leave_a_long_one_to_the_end() -> None:
    rows = [[Stay(1)] * 4 for _ in range(3)]
    assert (schedule(rows, 2), schedule(rows, 2, even=True)) == (8, 6)
    calm = Settings(spread=0, slow_share=0)
    assert ideal_seconds(calm, 128, 1, 64) == pytest.approx(0.4)
    assert ideal_seconds(Settings(spread=0, slow_share=0, capacity=32), 128, 1, 64) == pytest.approx(0.8)


def test_the_ideal_repeats_what_fails_and_waits_as_told() -> None:
    settings = Settings(too_many=0.3, server_error=0.2, reset=0.1, malformed=0.1, retry_after=2, refused_rows=0.1, failing_rows=0.1)
    for row in range(300):
        needed, kinds = stays(settings, row, 1), [weather(settings, row, 1, attempt).kind for attempt in range(1, 7)]
        last = next((number for number, kind in enumerate(kinds, 1) if kind in ("ok", "400")), 6)
        assert len(needed) == last
        assert [stay.wait for stay in needed] == [2000 if kind == "429" else 0 for kind in kinds[:last]]


def test_the_weather_has_its_shares_and_depends_on_row_step_and_attempt_alone() -> None:
    settings = Settings(too_many=0.05, server_error=0.04, reset=0.03, malformed=0.02)
    draws = [weather(settings, row, step, attempt) for row in range(3000) for step in (1, 2) for attempt in (1, 2)]
    assert draws == [weather(settings, row, step, attempt) for row in range(3000) for step in (1, 2) for attempt in (1, 2)]
    assert len(set(draws)) > 5000
    shares = {kind: sum(draw.kind == kind for draw in draws) / len(draws) for kind in ("429", "500", "reset", "malformed")}
    assert shares == pytest.approx({"429": 0.05, "500": 0.04, "reset": 0.03, "malformed": 0.02}, abs=0.006)
    waits = [draw.milliseconds for draw in draws if draw.kind == "ok"]
    assert min(waits) == 140 and 2500 < max(waits) <= 2600 and sum(wait > 260 for wait in waits) / len(waits) == pytest.approx(0.02, abs=0.005)
    assert Settings.from_json(settings.to_json()) == settings
    stormy = Settings(down=((1.0, 2.0, "broken"),))
    assert Settings.from_json(stormy.to_json()) == stormy


def test_the_image_is_a_real_one_and_the_floors_body_is_the_messages(tmp_path: Path) -> None:
    assert decode(payload.image()).size == (128, 128) and 49_000 < len(payload.image()) < 50_000
    ImageStore(tmp_path).add(payload.image())
    head, opened, end = pieces()
    text = orjson.dumps(f"{payload.question(7)}\n\n{payload.NEXT_STEP}")
    body = orjson.loads(head + text + opened + end)
    assert body["messages"] == payload.messages(7, []) and 66_000 < len(head + text + opened + end) < 68_000


Ask = Callable[..., Awaitable[tuple[int, Any]]]


def asked(settings: Settings, script: Callable[[Stub, Ask], Awaitable[None]]) -> Stub:
    """Run a script against a stub in this process; `ask(row, steps)` gives (status, parsed body or text), status 0 for a broken connection."""

    async def run() -> Stub:
        stub = Stub(settings)
        await stub.start()
        async with aiohttp.ClientSession() as session:

            async def ask(row: int, steps: list[str] | None = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
                body = {"messages": payload.messages(row, steps or []), "model": "teacher"}
                try:
                    async with session.post(f"{stub.url}/chat/completions", json=body, headers=headers) as response:
                        text = await response.text()
                        if response.headers.get("Retry-After"):
                            text = f"after {response.headers['Retry-After']}"
                        return response.status, json.loads(text) if text.startswith('{"id"') and text.endswith("}") else text
                except aiohttp.ClientError:
                    return 0, ""

            await script(stub, ask)
        await stub.stop()
        return stub

    return asyncio.run(asyncio.wait_for(run(), 20))


def test_a_chain_is_four_steps_and_a_conclusion_that_parse() -> None:
    async def script(stub: Stub, ask: Ask) -> None:
        steps: list[str] = []
        for _ in range(5):
            status, body = await ask(3, steps)
            assert status == 200 and body["usage"]["completion_tokens"] > 0
            steps.append(body["choices"][0]["message"]["content"])
        read = [parse_step(text) for text in steps[:4]]
        assert [step and step.action for step, _ in read] == ["continue"] * 3 + ["summary"] and not any(defects for _, defects in read)
        assert len({step.summary for step, _ in read if step}) == 4
        assert parse_conclusion(steps[4])[1:] == ("7", ())

    stub = asked(Settings(**FAST), script)
    assert [entry[:4] for entry in stub.log] == [[3, step, 1, "ok"] for step in range(1, 6)]
    for _, step, attempt, _, arrived, answered in stub.log:
        assert answered - arrived == pytest.approx(weather(stub.settings, 3, step, attempt).milliseconds / 1000, abs=0.1)


@pytest.mark.parametrize(
    ("fault", "status"),
    [({"too_many": 1, "retry_after": 3}, 429), ({"server_error": 1}, 500), ({"reset": 1}, 0), ({"refused_rows": 1}, 400), ({"failing_rows": 1}, 500)],
)
def test_a_fault_is_what_a_client_meets_each_time(fault: dict[str, Any], status: int) -> None:
    async def script(stub: Stub, ask: Ask) -> None:
        found = [await ask(5) for _ in range(3)]
        assert [code for code, _ in found] == [status] * 3
        assert status != 429 or found[0][1] == "after 3"
        assert status == 0 or isinstance(found[0][1], str)

    assert [entry[:3] for entry in asked(Settings(**FAST, **fault), script).log] == [[5, 1, attempt] for attempt in (1, 2, 3)]


def test_malformed_bodies_come_in_every_shape_and_poison_keeps_to_its_rows() -> None:
    async def malformed(stub: Stub, ask: Ask) -> None:
        found = [await ask(row) for row in range(12)]
        assert {code for code, _ in found} == {200}
        bodies = [body for _, body in found]
        assert any(isinstance(body, dict) and body["choices"] == [] for body in bodies)
        assert any(isinstance(body, str) and body.startswith("<html>") for body in bodies)
        assert any(isinstance(body, str) and body.startswith('{"id"') for body in bodies)

    asked(Settings(**FAST, malformed=1), malformed)
    settings = Settings(**FAST, refused_rows=0.2, failing_rows=0.2)

    async def poisoned(stub: Stub, ask: Ask) -> None:
        for row in range(20):
            assert (await ask(row))[0] == {"ok": 200, "400": 400, "500": 500}[poison(settings, row)]

    asked(settings, poisoned)


def test_beyond_its_capacity_it_refuses_at_once() -> None:
    async def script(stub: Stub, ask: Ask) -> None:
        codes = [code for code, _ in await asyncio.gather(*(ask(row) for row in range(8)))]
        assert sorted(codes) == [200] * 3 + [429] * 5 and (await ask(9))[0] == 200

    stub = asked(Settings(latency=200, spread=0, slow_share=0, capacity=3), script)
    assert stub.most <= 4 and sum(entry[3] == "capacity" for entry in stub.log) == 5


@pytest.mark.parametrize("way", ["closed", "broken"])
def test_it_goes_away_and_comes_back_on_the_same_port(way: Any) -> None:
    async def script(stub: Stub, ask: Ask) -> None:
        assert (await ask(1))[0] == 200
        await asyncio.sleep(0.35)
        assert (await ask(2))[0] == 0
        await asyncio.sleep(0.5)
        assert (await ask(3))[0] == 200

    stub = asked(Settings(**FAST, down=((0.3, 0.4, way),)), script)
    assert [entry[0] for entry in stub.log] == [1, 3]


def test_a_client_that_goes_away_is_noted_and_a_connection_is_closed_on_wish() -> None:
    async def script(stub: Stub, ask: Ask) -> None:
        task = asyncio.ensure_future(ask(1))
        await asyncio.sleep(0.1)
        assert stub.in_flight == 1
        task.cancel()
        await asyncio.sleep(0.1)
        assert stub.in_flight == 0
        before = stub.connections
        await ask(2, headers={"Connection": "close"})
        await ask(3)
        assert stub.connections - before == 2

    stub = asked(Settings(latency=150, spread=0, slow_share=0), script)
    assert stub.log[0][5] is None and paid_twice(stub.log) == 0 and paid_twice([*stub.log, stub.log[0]]) == 1


def test_requests_may_come_in_pieces_and_without_a_marker_they_are_refused() -> None:
    async def script(stub: Stub, ask: Ask) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", stub.port)
        body = json.dumps({"messages": payload.messages(4, [])}).encode()
        request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        for start in (0, 30, 70, 20_000, len(request) - 3):
            cut = {0: 30, 30: 70, 70: 20_000, 20_000: len(request) - 3}.get(start, len(request))
            writer.write(request[start:cut])
            await writer.drain()
            await asyncio.sleep(0.01)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        async with aiohttp.ClientSession() as session, session.post(f"{stub.url}/chat/completions", json={"messages": []}) as response:
            assert response.status == 400
        async with aiohttp.ClientSession() as session, session.get(f"{stub.url}/models") as response:
            assert (await response.json())["data"][0]["id"] == "teacher"

    stub = asked(Settings(**FAST), script)
    assert [entry[3] for entry in stub.log] == ["ok", "unmarked"] and stub.probes == 1


def test_the_process_tells_its_log_and_ends_with_its_parent() -> None:
    with serving(Settings(**FAST)) as server:
        found = server.report()
        assert found["log"] == [] and found["connections"] == 1
        assert server.process.stdin
        server.process.stdin.close()
        until = time.monotonic() + 5
        while server.process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        assert server.process.poll() == 0


def test_the_driver_measures_floor_and_engine_and_writes_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    options = ["--quick", "--cases", "single-64", "--results", str(tmp_path / "all.json"), "--plot", str(tmp_path / "plot.svg"), "--write", str(page)]
    command = [sys.executable, "-m", "benchmarks.engine", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "all.json").read_text())["results"]
    assert [(found["engine"], found["done"], found["requests"]) for found in results] == [("floor", 48, 48), ("ours", 48, 48)]
    assert all(0.2 < found["of_ideal"] < 1.2 and found["cpu_per_1000"] > 0 and found["over_mb"] > 0 for found in results)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "| insightv |" in text and "(plot.svg)" in text
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
