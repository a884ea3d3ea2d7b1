"""Mapping over records keeps the places filled, the memory bounded and the order of the results."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

import pytest

from insightv.models.chat import Halted
from insightv.models.pool import TURN
from insightv.scale.local import completed, map_records


def test_results_are_in_the_order_of_the_items() -> None:
    async def wait(number: int) -> int:
        await asyncio.sleep((7 * number % 5) / 1000)
        return number * number

    heard: list[int] = []
    assert asyncio.run(map_records(wait, range(40), concurrency=8, on_done=heard.append)) == [n * n for n in range(40)]
    assert sorted(heard) == [n * n for n in range(40)] and heard != sorted(heard)


def test_items_are_pulled_only_when_a_place_is_free() -> None:
    pulled, done = 0, 0

    def items() -> Iterator[int]:
        nonlocal pulled
        for number in range(100):
            pulled += 1
            assert pulled - done <= 4
            yield number

    async def work(number: int) -> None:
        nonlocal done
        await asyncio.sleep(0.001)
        done += 1

    asyncio.run(map_records(work, items(), concurrency=4))
    assert done == 100


def test_a_slow_item_holds_nobody_up() -> None:
    async def run() -> list[int]:
        others = asyncio.Event()
        count = 0

        async def work(number: int) -> int:
            nonlocal count
            if number == 0:
                await asyncio.wait_for(others.wait(), 5)
            count += 1
            if count == 49:
                others.set()
            return number

        return [result async for _, result in completed(work, range(50), concurrency=2)]

    order = asyncio.run(run())
    assert order[-1] == 0 and sorted(order) == list(range(50))


def test_the_first_error_cancels_the_rest_and_is_raised() -> None:
    cancelled: list[int] = []

    async def work(number: int) -> None:
        if number == 3:
            raise KeyError("three")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    with pytest.raises(KeyError, match="three"):
        asyncio.run(map_records(work, range(100), concurrency=5))
    assert cancelled and 3 not in cancelled and max(cancelled) < 5


def test_cancelling_cancels_what_is_in_flight() -> None:
    async def run() -> int:
        cancelled = 0

        async def work(number: int) -> None:
            nonlocal cancelled
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled += 1
                raise

        task = asyncio.create_task(map_records(work, range(9), concurrency=3))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return cancelled

    assert asyncio.run(run()) == 3


def test_nothing_and_nonsense() -> None:
    async def work(number: int) -> int:
        return number

    assert asyncio.run(map_records(work, [], concurrency=3)) == []
    with pytest.raises(ValueError, match="at least 1"):
        asyncio.run(map_records(work, [1], concurrency=0))


def test_a_halt_lets_the_others_end_by_themselves_and_is_raised_last() -> None:
    async def run() -> tuple[list[int], list[int], str]:
        begun: list[int] = []
        came: list[int] = []

        async def work(number: int) -> int:
            begun.append(number)
            if number in (3, 4):
                await asyncio.sleep(0.01)
                raise Halted(f"halted by {number}", 143)
            await asyncio.sleep(0.02 + number / 1000)
            return number

        try:
            async for _, result in completed(work, range(100), concurrency=8):
                came.append(result)
        except Halted as halted:
            return begun, came, f"{halted} {halted.code}"
        raise AssertionError

    begun, came, why = asyncio.run(run())
    assert begun == list(range(8)) and sorted(came) == [0, 1, 2, 5, 6, 7] and why == "halted by 3 143"


def test_an_error_after_a_halt_is_raised_at_once() -> None:
    async def work(number: int) -> None:
        if number == 0:
            raise Halted("stopped")
        if number == 1:
            await asyncio.sleep(0.01)
            raise KeyError("worse")
        await asyncio.sleep(30)

    with pytest.raises(KeyError, match="worse"):
        asyncio.run(map_records(work, range(3), concurrency=3))


def test_whoever_stops_listening_cancels_what_is_in_flight() -> None:
    async def run() -> tuple[int, int]:
        begun = cancelled = 0

        async def work(number: int) -> int:
            nonlocal begun, cancelled
            begun += 1
            try:
                await asyncio.sleep(number and 30)
            except asyncio.CancelledError:
                cancelled += 1
                raise
            return number

        async with contextlib.aclosing(completed(work, range(50), concurrency=5)) as results:
            async for _ in results:
                break
        return begun, cancelled

    begun, cancelled = asyncio.run(run())
    assert (begun, cancelled) == (5, 4)


def test_every_item_has_its_place_in_line_and_what_it_starts_has_it_too() -> None:
    async def work(number: int) -> tuple[int, int, int]:
        async def inner() -> int:
            await asyncio.sleep(0)
            return TURN.get()

        return number, TURN.get(), await asyncio.create_task(inner())

    async def run() -> None:
        assert await map_records(work, range(20), concurrency=4) == [(number, number, number) for number in range(20)]
        assert TURN.get() == 0, "and nobody else"

    asyncio.run(run())


def test_ten_thousand_items_take_ten_times_as_long_as_one_thousand() -> None:
    async def work(number: int) -> int:
        for _ in range(number % 3):
            await asyncio.sleep(0)
        return number

    def seconds(count: int) -> float:
        begun = time.process_time()
        assert asyncio.run(map_records(work, range(count), concurrency=256)) == list(range(count))
        return time.process_time() - begun

    few, many = min(seconds(1000) for _ in range(5)), min(seconds(10_000) for _ in range(2))
    assert many < 25 * few
