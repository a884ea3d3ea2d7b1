"""Do a stage's work on its items, in this process or in workers beside it, as the settings say."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from insightv.config import EndpointConfig, ScaleConfig
from insightv.models.meter import Meter, Stats
from insightv.scale.crew import Crew
from insightv.scale.local import completed
from insightv.scale.worker import Open

T = TypeVar("T")
R = TypeVar("R")


@asynccontextmanager
async def spread(
    open: Open[T, R], endpoints: Sequence[EndpointConfig], items: Iterable[T], name: Callable[[T], str], *, scale: ScaleConfig, concurrency: int, meter: Meter
) -> AsyncIterator[tuple[AsyncGenerator[tuple[int, R], None], list[Stats]]]:
    """The results (position, result) in order of completion, and the stats of who asks, for the time of a block.

    Without workers it is `local.completed` over the job that `open` makes. With them each worker opens the job over its share of the endpoints'
    concurrency and rates, and gets its share of `concurrency` items at once, most of them by the hash of their `name`. `meter` counts and halts
    all of it either way: `Halted` comes last, when what was in flight is journalled; a budget is kept but for what is in flight. Errors are those of
    the work; a missing Ray and an item that ends its workers are `UserError`s.

    Workers read the run's images and write journal files of their own, all by path, so they must see the run's folder. SQLite's documentation
    allows a database in WAL mode to processes of one host only, and not on a network file system: the index of the log is memory that they share.
    So all workers run on the driver's host, and one that finds itself elsewhere is a `UserError`.
    """
    if not scale.workers:
        async with open(endpoints) as job, aclosing(completed(job.work, items, concurrency=concurrency)) as results:
            yield results, job.stats
        return
    from insightv.scale.cluster import hiring

    # Nobody's share may be nothing, or together they would ask more at once than is allowed.
    workers = min(scale.workers, concurrency, *(endpoint.concurrency for endpoint in endpoints))
    seats = [([share(endpoint, part, workers) for endpoint in endpoints], _part(concurrency, part, workers)) for part in range(workers)]
    with hiring(scale.address, most=seats[0][1]) as hire:
        async with Crew(hire, open, seats, meter) as crew, aclosing(crew.completed(items, name)) as results:
            yield results, [crew.stats]


def share(endpoint: EndpointConfig, part: int, of: int) -> EndpointConfig:
    """What one of several workers may ask of an endpoint at once and per minute; together they ask what is allowed."""
    rates = {name: rate / of for name in ("requests_per_minute", "tokens_per_minute") if (rate := getattr(endpoint, name))}
    return endpoint.model_copy(update={"concurrency": _part(endpoint.concurrency, part, of), **rates})


def _part(amount: int, part: int, of: int) -> int:
    return amount // of + (part < amount % of)
