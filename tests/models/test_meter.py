"""Budgets: where they stop, what is kept then, who counts what was spent before, and how a run goes on."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from insightv.config import BudgetConfig
from insightv.journal import Bill, Journal
from insightv.models.chat import Halted, Reply, Sampling, text_message
from insightv.models.meter import Meter, Stats
from insightv.scale.local import completed


def spent(journal: Journal, payer: str, budget: BudgetConfig) -> Meter:
    """As a process of the run begins: with what the earlier ones were billed."""
    paid = journal.bills(payer).values()
    return Meter(budget, requests=sum(bill.requests for bill in paid), cost=sum(bill.cost for bill in paid))


async def ask_all(endpoint: Any, count: int, concurrency: int = 128) -> tuple[list[Reply], str]:
    """Replies to so many different requests, and why the rest was not asked."""

    async def one(number: int) -> Reply:
        [reply] = await endpoint.complete([text_message("user", str(number))], Sampling())
        return reply

    replies: list[Reply] = []
    try:
        async for _, reply in completed(one, range(count), concurrency=concurrency):
            replies.append(reply)
    except Halted as halted:
        return replies, f"{halted} ({halted.code})"
    return replies, ""


def test_max_requests_is_kept_to_the_request_with_many_in_flight(servers: Any) -> None:
    async def run() -> None:
        async def answer(server: Any, _: Any) -> Any:
            number = len(server.bodies)
            await asyncio.sleep(0.02)
            return server.reply("hi") if number % 7 else server.refuse(500)

        meter = Meter(BudgetConfig(max_requests=333))
        async with servers(answer, concurrency=64, meter=meter) as (endpoint, [server]):
            replies, why = await ask_all(endpoint, 1000)
            assert len(server.bodies) == endpoint.stats.requests == 333 and server.most == 64
            assert why == "budget.max_requests: 333 requests were sent; raise it (2)"
            # What was answered well is there, none of it for nothing.
            assert len(replies) == sum(number % 7 > 0 for number in range(1, 334))

    asyncio.run(run())


def test_a_budget_of_nothing_asks_nothing(servers: Any) -> None:
    async def run() -> None:
        for budget in (BudgetConfig(max_requests=0), BudgetConfig(max_cost=0)):
            async with servers(lambda *_: None, meter=Meter(budget)) as (endpoint, [server]):
                replies, why = await ask_all(endpoint, 5)
                assert not replies and why and not server.bodies

    asyncio.run(run())


def test_max_cost_stops_and_what_is_in_flight_is_kept_and_billed(servers: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async def answer(server: Any, _: Any) -> Any:
            await asyncio.sleep(0.05)
            return server.reply("hi")

        prices = {"price_in": 100.0, "price_out": 1000.0}  # 0.02 a request
        async with servers(answer, concurrency=16, meter=Meter(BudgetConfig(max_cost=1.0)), payer="run", **prices) as (endpoint, [server]):
            replies, why = await ask_all(endpoint, 1000)
            assert why.startswith("budget.max_cost: 1.") and why.endswith(" of 1 is spent; raise it (2)")
            # 50 make 1.0; those in flight then come on top.
            assert 50 <= len(replies) <= 50 + 16 and len(replies) == len(server.bodies)
        with Journal(tmp_path / "journal") as journal:
            [bill] = journal.bills("run").values()
        assert bill.requests == len(replies) and bill.cost == pytest.approx(0.02 * len(replies)) == pytest.approx(endpoint.stats.spend)

    asyncio.run(run())


def test_hours_are_those_of_one_start(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(BudgetConfig(max_hours=2), requests=10**9, cost=10**9)
    meter.admit()
    begun = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: begun + 2 * 3600 + 1)
    with pytest.raises(Halted, match=r"^budget.max_hours: 2 hours are over; raise it$"):
        meter.admit()


@pytest.mark.parametrize("retries", [0, 3])
def test_a_second_process_counts_what_the_first_spent_and_another_run_does_not(servers: Any, tmp_path: Path, retries: int) -> None:
    async def run() -> None:
        def answer(server: Any, _: Any) -> Any:
            return server.reply("hi") if len(server.bodies) % 5 else server.refuse(500)

        budget, sent, replies = BudgetConfig(max_requests=60), 0, []
        for number in range(3):
            with Journal(tmp_path / "journal") as journal:
                meters = {payer: spent(journal, payer, budget) for payer in ("run", "other")}
            async with servers(answer, concurrency=8, meter=meters["run"], payer="run", retries=retries) as (endpoint, [server]):
                replies, why = await ask_all(endpoint, 25 * (number + 1))
                sent += len(server.bodies)
        assert why and sent == 60
        async with servers(answer, meter=meters["other"], payer="other") as (endpoint, [server]):
            again, why = await ask_all(endpoint, len(replies))
            assert not why and len(again) == len(replies), "the other run has a budget of its own, and finds the replies that the first paid"
            assert endpoint.stats.journalled >= 0.8 * len(replies)

    asyncio.run(run())


def test_a_raised_budget_goes_on_and_asks_for_nothing_twice(servers: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async def answer(server: Any, _: Any) -> Any:
            await asyncio.sleep(0.01)
            return server.reply("hi")

        asked: list[str] = []
        for most in (30, 70, None):
            with Journal(tmp_path / "journal") as journal:
                meter = spent(journal, "run", BudgetConfig(max_requests=most))
            async with servers(answer, concurrency=16, meter=meter, payer="run") as (endpoint, [server]):
                replies, why = await ask_all(endpoint, 100)
                asked += [body["messages"][0]["content"] for body in server.bodies]
                assert len(asked) == (most or 100) == len(replies) and bool(why) == (most is not None)
        assert sorted(asked) == sorted(map(str, range(100)))

    asyncio.run(run())


def test_all_endpoints_share_the_budget_and_the_end() -> None:
    meter, generator, judge = Meter(BudgetConfig(max_requests=5)), Stats(), Stats()
    meter.join(generator)
    meter.join(judge)
    generator.requests, judge.requests = 3, 1
    meter.admit()
    judge.requests = 2
    heard: list[str] = []
    meter.watch(lambda halted: heard.append(str(halted)))
    forget = meter.watch(lambda halted: heard.append("forgotten"))
    forget()
    for _ in range(2):
        with pytest.raises(Halted, match="5 requests were sent"):
            meter.admit()
    meter.halt(Halted("stopped", 143))
    with pytest.raises(Halted, match="5 requests were sent") as halt:
        meter.admit()
    assert halt.value.code == 2, "the first reason stands"
    assert meter.busy and set(heard) == {"budget.max_requests: 5 requests were sent; raise it"}


def test_bills_are_added_field_by_field() -> None:
    assert Bill(1, 0, 2, 3, 4, 0.5).plus(Bill(10, 1, 20, 30, 40, 0.25)) == Bill(11, 1, 22, 33, 44, 0.75)
