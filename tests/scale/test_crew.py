"""Workers that die, fall silent or say no: real workers and journals, of which only the process is spared. See test_cluster.py for those under Ray."""

import asyncio
import contextlib
import pickle
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from insightv import verbs
from insightv.config import BudgetConfig, EndpointConfig, TeacherDials, UserError
from insightv.config_file import load_config
from insightv.models.chat import EndpointDown, Halted
from insightv.models.meter import Meter, Stats
from insightv.scale import cluster, crew, worker
from insightv.scale.crew import Crew, Lost
from insightv.scale.spread import share, spread
from insightv.scale.worker import Answer, Job, Worker, here

SMALL = Path(__file__).parents[1] / "small.yaml"
OUTPUTS = ("generate/chains.jsonl", "assess/verdicts.jsonl", "assess/scores.jsonl")


class Dies(BaseException):
    """Work that ends its process."""


class Beside:
    """A worker in this process that gets and gives only what can be pickled, and that can be killed."""

    def __init__(self) -> None:
        self.worker = Worker()
        self.death: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.given = 0

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            task = asyncio.ensure_future(getattr(self.worker, name)(*pickle.loads(pickle.dumps(arguments))))
            await asyncio.wait({task, self.death}, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not isinstance(task.exception(), Dies) and not self.death.done():
                return pickle.loads(pickle.dumps(task.result()))
            self.kill()
            await asyncio.gather(task, return_exceptions=True)
            raise Lost("it was killed")

        return call

    async def work(self, position: int, item: Any) -> Answer:
        self.given += 1
        answer: Answer = await self.__getattr__("work")(position, item)
        return answer

    def kill(self) -> None:
        if not self.death.done():
            self.death.set_result(None)
            # All at once, as a process dies.
            self.end = asyncio.ensure_future(self.worker.close())


@pytest.fixture
def hired(monkeypatch: pytest.MonkeyPatch) -> list[Beside]:
    """The workers that a stage hires, all in this process."""
    hands: list[Beside] = []

    @contextlib.contextmanager
    def hiring(address: str | None, most: int) -> Iterator[Callable[[], Beside]]:
        def hire() -> Beside:
            hands.append(Beside())
            return hands[-1]

        yield hire

    monkeypatch.setattr(cluster, "hiring", hiring)
    return hands


@contextlib.asynccontextmanager
async def counting(stats: Stats, meter: Meter, work: Callable[[Any, Stats, Meter], Any], endpoints: Sequence[EndpointConfig]) -> AsyncIterator[Job[Any, Any]]:
    """A job of `work`, pickled with its name."""
    meter.join(stats)
    yield Job(partial(work, stats=stats, meter=meter), [stats], meter)


def job(work: Callable[..., Any]) -> Any:
    return partial(counting, Stats(), _Plain(), work)


class _Plain(Meter):
    """A meter that can be pickled as a new one."""

    def __reduce__(self) -> Any:
        return _Plain, ()


async def collect(work: Callable[..., Any], items: Any, seats: Sequence[int], meter: Meter | None = None) -> tuple[list[Any], list[Beside], Stats]:
    """Results in order of completion, the workers, and what was counted."""
    hands: list[Beside] = []

    def hire() -> Beside:
        hands.append(Beside())
        return hands[-1]

    results = []
    crew = Crew(hire, job(work), [((), most) for most in seats], meter or Meter())
    async with crew as workers, contextlib.aclosing(workers.completed(items, str)) as pairs:
        async for _, result in pairs:
            results.append(result)
    return results, hands, workers.stats


async def squared(number: int, *, stats: Stats, meter: Meter) -> int:
    meter.admit()
    stats.requests += 1
    await asyncio.sleep((7 * number % 5) / 1000)
    return number * number


async def deadly(number: int, *, stats: Stats, meter: Meter) -> int:
    await asyncio.sleep(0.001)
    if number == 13:
        raise Dies
    await asyncio.sleep(0.004)
    return number


async def slow(number: int, *, stats: Stats, meter: Meter) -> int:
    await asyncio.sleep(0.02)
    return number


async def failing(number: int, *, stats: Stats, meter: Meter) -> int:
    if number == 5:
        raise EndpointDown("gone")
    await asyncio.sleep(30)
    return number


def test_every_item_is_done_once_and_counted() -> None:
    results, hands, stats = asyncio.run(collect(squared, range(200), [3, 3, 2]))
    assert sorted(results) == [number * number for number in range(200)]
    assert stats.requests == 200 == sum(hand.given for hand in hands) and len(hands) == 3


def test_no_more_is_held_than_there_are_places() -> None:
    pulled, done = 0, 0

    def items() -> Iterator[int]:
        nonlocal pulled
        for number in range(3000):
            pulled += 1
            assert pulled - done <= 8
            yield number

    async def go() -> None:
        nonlocal done
        async with Crew(Beside, job(squared), [((), 4), ((), 4)], Meter()) as workers:
            async for _ in workers.completed(items(), str):
                done += 1

    asyncio.run(go())
    assert done == 3000


def test_a_worker_with_a_place_free_takes_over_from_a_busy_one() -> None:
    results, hands, _ = asyncio.run(collect(slow, [0] * 40, [1, 1]))
    assert results == [0] * 40 and min(hand.given for hand in hands) >= 10


def test_what_a_dead_worker_had_in_hand_is_done_by_others() -> None:
    async def go() -> tuple[list[int], int]:
        hands: list[Beside] = []

        def hire() -> Beside:
            hands.append(Beside())
            return hands[-1]

        results = []
        async with Crew(hire, job(squared), [((), 4)] * 3, Meter()) as workers:
            async for _, result in workers.completed(range(120), str):
                results.append(result)
                if len(results) in (20, 60):
                    hands[len(results) // 40].kill()
        return results, len(hands)

    results, hired = asyncio.run(go())
    assert sorted(results) == [number * number for number in range(120)] and hired == 5


@pytest.mark.parametrize("seats", [[1], [4], [4, 4, 4]])
def test_an_item_that_ends_its_workers_is_named_and_no_other(seats: list[int]) -> None:
    hands: list[Beside] = []
    done: list[int] = []

    def hire() -> Beside:
        hands.append(Beside())
        return hands[-1]

    async def go() -> None:
        async with Crew(hire, job(deadly), [((), most) for most in seats], Meter()) as workers:
            async for _, result in workers.completed(range(40), str):
                done.append(result)

    with pytest.raises(UserError, match=r"^3 workers died at problem 13, the last with nothing else in hand; .*\(it was killed\)$"):
        asyncio.run(go())
    assert sum(hand.death.done() for hand in hands) >= 3 and 13 not in done and len(set(done)) == len(done)


def test_the_first_error_ends_all_as_itself() -> None:
    with pytest.raises(EndpointDown, match=r"^gone$"):
        asyncio.run(asyncio.wait_for(collect(failing, range(100), [3, 3]), 10))


def test_a_halt_lets_what_is_in_flight_be_answered_and_comes_last() -> None:
    meter = Meter(BudgetConfig(max_requests=50))

    async def go() -> list[int]:
        results = []
        async with Crew(Beside, job(squared), [((), 4)] * 2, meter) as workers:
            with pytest.raises(Halted, match=r"^budget\.max_requests: \d+ requests were sent; raise it$"):
                async for _, result in workers.completed(range(10_000), str):
                    results.append(result)
        assert workers.stats.requests == len(results)
        return results

    assert 50 <= len(asyncio.run(go())) <= 50 + 8


def test_a_stop_from_another_thread_reaches_the_workers() -> None:
    meter = Meter()

    async def go() -> None:
        asyncio.get_running_loop().run_in_executor(None, meter.halt, Halted("stopped", 143))
        await collect(squared, range(10_000), [4, 4], meter)

    with pytest.raises(Halted) as end:
        asyncio.run(go())
    assert (str(end.value), end.value.code) == ("stopped", 143)


def test_a_worker_that_cannot_begin_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dies(*_: object) -> None:
        raise Dies

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "open", dies)
        with pytest.raises(UserError, match=r"^3 workers in a row ended before they could begin: it was killed$"):
            asyncio.run(collect(squared, range(3), [1, 1]))
    monkeypatch.setattr(crew, "here", lambda: "elsewhere")
    with pytest.raises(UserError, match=r"^a worker runs on .*only processes of one host may use the journal's SQLite files"):
        asyncio.run(collect(squared, range(3), [1]))


def test_shares_add_up_to_the_whole() -> None:
    whole = EndpointConfig(url="http://127.0.0.1/v1", concurrency=10, requests_per_minute=90, tokens_per_minute=3000)
    parts = [share(whole, part, 4) for part in range(4)]
    assert [part.concurrency for part in parts] == [3, 3, 2, 2]
    assert [part.requests_per_minute for part in parts] == [22.5] * 4 and [part.tokens_per_minute for part in parts] == [750] * 4
    assert share(whole, 0, 1) == whole


def settings(run: Path, url: str, *more: str) -> Any:
    return load_config(SMALL, [f"run={run}", f"models.base={run}", *(f"models.{role}.url={url}" for role in ("generator", "judge", "scorer")), *more])


def test_stages_make_the_same_bytes_with_any_number_of_workers(tmp_path: Path, counting_teacher: Any, hired: list[Beside]) -> None:
    url, asked = counting_teacher(TeacherDials(latency=0.002))
    made = {}
    for workers in (0, 1, 3):
        verbs.run(settings(tmp_path / str(workers), url, f"scale.workers={workers}", "generate.open_problems=6"), {"assess"})
        made[workers] = [(tmp_path / str(workers) / name).read_bytes() for name in OUTPUTS]
        assert set(asked.values()) == {1}
        asked.clear()
    assert made[0] == made[1] == made[3]
    # Each of two stages hires its own.
    assert len(hired) == 2 * 1 + 2 * 3
    verbs.run(settings(tmp_path / "0", url, "scale.workers=3"), {"assess"})
    assert not asked, "where the work is done is no part of what a stage is made from"


def test_a_stage_outlives_a_worker_and_pays_twice_at_most_what_that_had_in_flight(tmp_path: Path, counting_teacher: Any, hired: list[Beside]) -> None:
    url, asked = counting_teacher(TeacherDials(latency=0.02))
    verbs.run(settings(tmp_path / "calm", url), {"generate"})
    expected: Counter[str] = Counter(asked)
    asked.clear()

    async def work(self: Beside, position: int, item: Any) -> Answer:
        self.given += 1
        if self is hired[0] and self.given == 5:
            asyncio.get_running_loop().call_later(0.03, self.kill)
        answer: Answer = await self.__getattr__("work")(position, item)
        return answer

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Beside, "work", work)
        verbs.run(settings(tmp_path / "storm", url, "scale.workers=2", "generate.open_problems=8"), {"generate"})
    assert hired[0].death.done() and len(hired) == 3
    assert asked.keys() == expected.keys() and asked.total() - len(asked) <= 2
    assert (tmp_path / "storm" / OUTPUTS[0]).read_bytes() == (tmp_path / "calm" / OUTPUTS[0]).read_bytes()


def test_a_missing_ray_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("RAY_AUTH_TOKEN", *cluster._QUIET, *cluster._PRIVATE):
        monkeypatch.setenv(name, "as it was")

    async def go() -> None:
        endpoint = EndpointConfig(url="http://127.0.0.1/v1")
        scale = load_config(SMALL, ["scale.workers=2"]).scale
        async with spread(job(squared), [endpoint], range(3), str, scale=scale, concurrency=2, meter=Meter()):
            raise AssertionError

    with pytest.raises(UserError, match=r"^scale\.workers needs Ray: pip install 'insightv\[ray\]', or set scale\.workers to 0$"):
        asyncio.run(go())


def test_this_host_is_itself() -> None:
    assert here() == worker.here() != ""
