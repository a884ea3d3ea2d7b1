"""Places at replicas: who goes first, where to, and that no place is ever lost or given twice, whatever is cancelled or fails."""

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from insightv.models.limits import Limit
from insightv.models.pool import TURN, Pool, Replica


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def turned(work: Coroutine[Any, Any, Replica], turn: int) -> "asyncio.Task[Replica]":
    """A task whose work has that place in line."""
    context = contextvars.copy_context()
    context.run(TURN.set, turn)
    return asyncio.get_running_loop().create_task(work, context=context)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def names(pool: Pool, replicas: Sequence[Replica]) -> list[int]:
    return [pool.replicas.index(replica) for replica in replicas]


def test_the_lowest_turn_goes_first_and_equal_turns_as_they_came() -> None:
    async def main() -> None:
        pool, order = Pool(["a"], 1), []
        held = await pool.take()

        async def ask(name: str) -> Replica:
            replica = await pool.take()
            order.append(name)
            return replica

        tasks = [turned(ask(name), turn) for name, turn in (("5", 5), ("2 first", 2), ("9", 9), ("2 second", 2), ("0", 0))]
        await settle()
        for _ in tasks:
            pool.give(held)
            await settle()
        assert order == ["0", "2 first", "2 second", "5", "9"]

    run(main)


def test_nobody_overtakes_those_who_wait() -> None:
    async def main() -> None:
        pool = Pool(["a"], 1)
        held = await pool.take()
        waiting = turned(pool.take(), 7)
        await settle()
        pool.give(held)  # the place is granted, though its waiter has not run yet
        late = turned(pool.take(), 0)
        await settle()
        assert waiting.done() and not late.done()
        pool.give(waiting.result())
        await settle()
        assert late.done()

    run(main)


def test_requests_spread_to_the_least_loaded_replica_by_share_of_its_places() -> None:
    async def main() -> None:
        pool = Pool(["a", "b", "c"], 4)
        assert Counter(names(pool, [await pool.take() for _ in range(9)])) == {0: 3, 1: 3, 2: 3}
        pool.replicas[1].limit.value = 12
        assert names(pool, [await pool.take() for _ in range(6)]) == [1] * 6
        pool.replicas[0].taken = pool.replicas[2].taken = 0
        pool.replicas[0].limit.value = 1
        assert names(pool, [await pool.take() for _ in range(3)]) == [0, 2, 2]

    run(main)


def test_a_prefix_goes_home_while_there_is_a_place_and_elsewhere_rather_than_wait() -> None:
    async def main() -> None:
        pool = Pool(["a", "b"], 2)
        [home] = names(pool, [await pool.take(prefix=77)])
        other = 1 - home
        pool.give(pool.replicas[home])
        await pool.take()  # the home is now the more loaded one, and still the one to go to
        pool.replicas[other].taken, pool.replicas[home].taken = 0, 1
        assert names(pool, [await pool.take(prefix=77)]) == [home]
        assert names(pool, [await pool.take(prefix=77)]) == [other], "a full home leaves no other replica idle"
        pool.replicas[home].taken = 0
        assert names(pool, [await pool.take(prefix=77)]) == [other], "where it was last its prefix is cached"

    run(main)


def test_a_replica_takes_its_own_first_and_steals_from_the_longest_queue_rather_than_be_idle() -> None:
    async def main() -> None:
        pool = Pool(["a", "b"], 1)
        a, b = pool.replicas
        for prefix, replica in ((1, a), (2, b)):
            pool._homes[prefix] = replica
        await pool.take(1), await pool.take(2)
        of_a = [turned(pool.take(1), turn) for turn in (3, 4, 5)]
        of_b, of_none = turned(pool.take(2), 9), turned(pool.take(), 1)
        await settle()
        pool.give(b)
        await settle()
        assert of_none.done() and of_none.result() is b, "without a home comes before the own by its turn"
        pool.give(b)
        await settle()
        assert of_b.done() and of_b.result() is b, "the own before another's, whatever the turn"
        pool.give(b)
        await settle()
        assert of_a[0].done() and of_a[0].result() is b and not of_a[1].done(), "else another's, the first in its line"
        pool.give(a)
        await settle()
        assert of_a[1].result() is a

    run(main)


def test_a_replica_out_of_reach_gets_nothing_and_its_own_are_served_elsewhere() -> None:
    async def main() -> None:
        pool = Pool(["a", "b"], 1)
        a, b = pool.replicas
        pool._homes[1] = a
        a.outage = asyncio.create_task(asyncio.sleep(60))
        assert await pool.take(1) is b
        waiting = [turned(pool.take(1), 0), turned(pool.take(), 1)]
        await settle()
        assert not any(task.done() for task in waiting)
        pool.give(b)
        await settle()
        assert waiting[0].done() and waiting[0].result() is b
        a.outage.cancel()
        a.outage = None
        pool.dispatch()
        await settle()
        assert waiting[1].result() is a

    run(main)


@pytest.mark.parametrize("granted", [False, True])
def test_a_cancelled_waiter_leaves_its_place_to_the_next(granted: bool) -> None:
    async def main() -> None:
        pool = Pool(["a"], 1)
        held = await pool.take()
        first, second = turned(pool.take(), 0), turned(pool.take(), 1)
        await settle()
        if granted:
            pool.give(held)  # granted to the first, which is cancelled before it runs again
            first.cancel()
        else:
            first.cancel()
            await settle()
            pool.give(held)
        await settle()
        assert first.cancelled() and second.done()
        pool.give(second.result())
        assert pool.replicas[0].taken == 0
        assert await asyncio.wait_for(pool.take(), 1) is held

    run(main)


def test_an_error_reaches_all_who_wait_and_nobody_who_comes_later() -> None:
    async def main() -> None:
        pool = Pool(["a", "b"], 1)
        pool._homes[1] = pool.replicas[0]
        held = [await pool.take(), await pool.take()]
        waiting = [turned(pool.take(prefix), turn) for turn, prefix in enumerate((0, 1, 1, 0))]
        await settle()
        waiting[0].cancel()
        pool.fail(KeyError("gone"))
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError) and [type(result) for result in results[1:]] == [KeyError] * 3
        later = turned(pool.take(), 0)
        await settle()
        pool.give(held[0])
        assert await later is held[0]

    run(main)


def test_places_come_back_when_the_body_of_a_block_fails() -> None:
    async def main() -> None:
        pool = Pool(["a"], 1)
        for _ in range(3):
            with pytest.raises(KeyError), pool.held(await asyncio.wait_for(pool.take(), 1)):
                raise KeyError
        assert pool.replicas[0].taken == 0

    run(main)


def test_a_smaller_limit_takes_no_place_away_and_grants_none_until_it_is_met() -> None:
    async def main() -> None:
        pool = Pool(["a"], 3)
        held = [await pool.take() for _ in range(3)]
        pool.replicas[0].limit.value = 1
        waiting = turned(pool.take(), 0)
        for replica in held[:2]:
            pool.give(replica)
            await settle()
            assert not waiting.done()
        pool.give(held[2])
        await settle()
        assert waiting.done()

    run(main)


@pytest.mark.parametrize("seed", range(25))
def test_places_never_leak_and_never_exceed_the_limit(seed: int) -> None:
    """Random takes, gives, cancellations, failures, outages and limits; at the end every place is there."""

    async def main() -> None:
        chance = random.Random(seed)
        pool = Pool([str(number) for number in range(chance.randint(1, 4))], most := chance.randint(1, 5))
        held: list[Replica] = []
        waiting: list[asyncio.Task[Replica]] = []

        def collect() -> None:
            for task in [task for task in waiting if task.done()]:
                waiting.remove(task)
                if not task.cancelled() and not task.exception():
                    held.append(task.result())

        for _ in range(400):
            match chance.choice(("take", "take", "take", "give", "give", "cancel", "fail", "outage", "limit", "settle", "settle")):
                case "take":
                    waiting.append(turned(pool.take(chance.randint(0, 5)), chance.randint(0, 9)))
                case "give" if held:
                    pool.give(held.pop(chance.randrange(len(held))))
                case "cancel" if waiting:
                    chance.choice(waiting).cancel()
                case "fail" if chance.random() < 0.1:
                    pool.fail(ValueError())
                case "outage":
                    replica = chance.choice(pool.replicas)
                    replica.outage = None if replica.outage else asyncio.create_task(asyncio.sleep(0))
                    pool.dispatch()
                case "limit":
                    chance.choice(pool.replicas).limit.value = chance.randint(1, most)
                    pool.dispatch()
                case "settle":
                    await settle()
                    collect()
                    taken = Counter(id(replica) for replica in held)
                    assert all(replica.taken == taken[id(replica)] <= most for replica in pool.replicas)
                    # Whoever waits does so because there is no place.
                    assert not any(replica.free for replica in pool.replicas) or not [task for task in waiting if not task.done()]
        for replica in pool.replicas:
            replica.outage, replica.limit = None, Limit(most)
        pool.dispatch()
        while waiting or held:
            await settle()
            collect()
            while held:
                pool.give(held.pop())
        assert [replica.taken for replica in pool.replicas] == [0] * len(pool.replicas)
        everything = [await asyncio.wait_for(pool.take(), 1) for _ in range(most * len(pool.replicas))]
        assert set(Counter(id(replica) for replica in everything).values()) == {most}

    run(main)
