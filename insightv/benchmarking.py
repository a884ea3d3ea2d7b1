"""Have the rows of a config answer published benchmarks: open their models, ask what is owed, and say what came of it."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from insightv.config import AgentConfig, Config, EndpointConfig, UserError
from insightv.config_file import save_config
from insightv.evaluation import benchmarks
from insightv.evaluation.suite import predictions
from insightv.evaluation.suite.generate import Heard, Parts, System, Task, generate, parts_of_answer, parts_of_chain, parts_of_reasoned
from insightv.evaluation.suite.predictions import Asking, Prediction
from insightv.files import explained, locked, try_lock
from insightv.loop import ROWS, row_of
from insightv.models.chat import Chat
from insightv.negative import Solver
from insightv.processes import heeding, metered
from insightv.progress import counting
from insightv.records import Problem, Solution
from insightv.scale.local import run as run_loop
from insightv.stages.context import SHIPPED_BASE, Context
from insightv.stages.evaluation import way
from insightv.store import Run, content_hash

PARTS: Mapping[str, Parts] = {"solve_reasoner": parts_of_chain, "solve_single": parts_of_reasoned, "solve_vote": parts_of_reasoned}
"""Way to solve -> which part of it is the answer; with any other the last reply is."""

CONFIG = Path("benchmarks") / "config.yaml"
"""In a run's folder: what its benchmarks were answered with."""

_AHEAD = 1.5
"""Items under way for each place at an endpoint, so that no place waits for this process."""

Items = Mapping[str, Mapping[str, Problem]]
"""Benchmark -> index -> item."""


@dataclass(frozen=True)
class _Work:
    """What every row of one call shares."""

    config: Config
    context: Context
    shard: str
    say: Callable[[str], None]

    @property
    def run(self) -> Run:
        return self.context.run


def answer(config: Config, names: Sequence[str], *, limit: int | None, shard: tuple[int, int], say: Callable[[str], None]) -> int:
    """Have every row of `evaluate.rows` answer the configured benchmarks, or those named; goes on where an earlier call stopped.

    Written are RUN/benchmarks/NAME/items and predictions; `say` hears a line of each benchmark and each row. Returns how many answers failed now.
    """
    wanted = _wanted(config, names)
    models = {model for row in config.evaluate.rows for model in row_of(row, config, "evaluate.rows")[1]}
    _check(config, models)
    run = Run(config.run, config.journal)
    # What failed before is owed, so it is asked again.
    work = _Work(config, Context(config, run, lambda _: None, retry_failed=True, meter=metered(config, run)), f"{shard[0]}-of-{shard[1]}", say)
    for model in sorted(models):
        if not _endpoint(config, model):
            _checkpoint(work, model)
    with _alone(run.folder / "benchmarks" / f".{work.shard}.lock"):
        with locked(run.folder / "benchmarks" / ".written.lock"):
            save_config(config, run.folder / CONFIG)
        asked = {name: _items(work, name, limit, shard) for name in wanted}
        return run_loop(_rows(work, asked))


def _check(config: Config, models: set[str]) -> None:
    known = models | {model for _, those in ROWS.values() for model in those}
    if strange := [name for name in config.evaluate.models if name not in known and not re.fullmatch(r"dpo\d+", name)]:
        raise UserError(f"evaluate.models.{strange[0]}: no row has such a model; those of evaluate.rows are {', '.join(sorted(models))}")
    if "pair-shuffled" in config.evaluate.rows:
        # Whose chain is shown would depend on what else is asked in the same call.
        raise UserError("evaluate.rows: pair-shuffled is a control on a run's own splits; benchmarks are answered without it")


def _wanted(config: Config, names: Sequence[str]) -> Sequence[str]:
    known = ", ".join(config.benchmarks)
    if unknown := [name for name in names if name not in config.benchmarks]:
        raise UserError(f"{unknown[0]} is not among the config's benchmarks, which are {known or 'none'}; add -o benchmarks.{unknown[0]}=FILE")
    if not config.benchmarks:
        raise UserError("no benchmark is configured; give one as -o benchmarks.mmstar=data/MMStar.tsv")
    return names or list(config.benchmarks)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with explained(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = try_lock(lock)
    if held is None:
        raise UserError(f"another process answers the same shard in {lock.parent}; let it end, or give each a --shard of its own")
    with held:
        yield


def _items(work: _Work, name: str, limit: int | None, shard: tuple[int, int]) -> dict[str, Problem]:
    """A benchmark's items by index, read and written down in one pass."""
    found: dict[str, Problem] = {}
    path = work.config.benchmarks[name]
    for problem in benchmarks.items(name, str(path or ""), work.run.images, limit=limit, shard=shard):
        index = str(problem.meta["index"])
        if index in found:
            raise UserError(f"{name}: {path or 'the hub'}: two items have the index {index}")
        found[index] = problem
    predictions.write_items(work.run.folder, name, work.shard, found.values())
    work.say(f"{name}: {len(found)} items")
    return found


async def _rows(work: _Work, asked: Items) -> int:
    with heeding(work.context.meter):
        return sum([await _row(work, row, asked) for row in work.config.evaluate.rows])


async def _row(work: _Work, row: str, asked: Items) -> int:
    """Ask a row for all that it owes; returns how many answers failed."""
    config, (solver, models) = work.config, row_of(row, work.config, "evaluate.rows")
    async with AsyncExitStack() as stack:
        chats = [await _opened(work, model, stack) for model in models]
        problems = [problem for items in asked.values() for problem in items.values()]
        solve = way(solver, problems, work.run.images, config.seed)
        system, asking = _system(config, row, solver, solve, models, chats)
        tasks, there = _owed(work, row, asking, asked)
        counts, reasons = Counter[str](), Counter[str]()
        with counting(row, len(tasks)) as show:

            def done(prediction: Prediction) -> None:
                counts[prediction.status] += 1
                reasons.update([prediction.reason] if prediction.status == "failed" else [])
                show(f"{counts['failed']} failed" if counts["failed"] else "")

            places = [_endpoint(config, model) for model in models]
            ahead = int(_AHEAD * sum(place.concurrency * len(place.urls) for place in places if place)) if all(places) else len(tasks)
            await generate(tasks, system, asking, work.run.folder, work.shard, seed=config.seed, concurrency=max(1, ahead), on_done=done)
    owed = f", {counts['failed']} failed, which the same command asks again; most often: {reasons.most_common(1)[0][0]}" if reasons else ""
    work.say(f"{row}: {counts['ok']} answered" + (f", {there} were there already" if there else "") + owed)
    return counts["failed"]


def _owed(work: _Work, row: str, asking: Asking, asked: Items) -> tuple[list[Task], int]:
    """What a row has yet to answer, and how much it has answered."""
    tasks, there = [], 0
    for name, items in asked.items():
        place = predictions.folder(work.run.folder, name, row)
        standing = predictions.standing(place, asking, items)
        good = {key for key, prediction in standing.items() if prediction.status == "ok"}
        samples = range(work.config.evaluate.samples)
        tasks += [Task(name, problem, sample) for index, problem in items.items() for sample in samples if (index, sample) not in good]
        there += sum(sample in samples for _, sample in good)
        with locked(work.run.folder / "benchmarks" / ".written.lock"):
            predictions.save_asking(place, asking)
    return tasks, there


def _system(config: Config, row: str, solver: str, way: Solver, models: Sequence[str], chats: Sequence[Chat]) -> tuple[System, Asking]:
    """A row's way to answer, and the name under which its answers are kept."""
    settings, prompts, heard = config.systems, config.prompts, [Heard(chat) for chat in chats]
    if set(models) == {"base"}:
        # It was trained on no prompt of ours; and a benchmark's own is what its other numbers are made with.
        prompts = prompts.model_copy(update={"direct": config.evaluate.direct, "single": config.evaluate.reasoned})
    if solver == "solve_single":
        together = settings.reasoner.max_tokens + settings.answer.max_tokens
        settings = settings.model_copy(update={"reasoner": settings.reasoner.model_copy(update={"max_tokens": together})})

    async def solve(problem: Problem, seed: int) -> Solution:
        return await way(problem, *heard, settings, prompts, seed, row)

    places = [_endpoint(config, model) for model in models]
    facts = {
        "row": row,
        "solver": solver,
        "models": {model: chat.identity for model, chat in zip(models, chats, strict=True)},
        "extra": [place.extra if place else {} for place in places],
        "sampling": [settings.reasoner.model_dump(), settings.answer.model_dump()],
        **({"votes": [settings.votes, settings.vote_temperature]} if solver == "solve_vote" else {}),
        "seed": config.seed,
    }
    asking = Asking(
        row=row,
        model=content_hash(facts)[:16],
        prompts=content_hash(prompts.model_dump())[:16],
        samples=config.evaluate.samples,
        facts=facts | {"prompts": prompts.model_dump()},
    )
    return System(solve, PARTS.get(solver, parts_of_answer)), asking


def _endpoint(config: Config, model: str) -> EndpointConfig | None:
    """Where a model is asked, with the concurrency of an evaluation where it names none; None for one of this process."""
    endpoint = config.evaluate.models.get(model, AgentConfig()).endpoint
    if endpoint is None or "concurrency" in endpoint.model_fields_set:
        return endpoint
    return endpoint.model_copy(update={"concurrency": config.evaluate.concurrency})


async def _opened(work: _Work, model: str, stack: AsyncExitStack) -> Chat:
    chat = _open(work, model)
    stack.push_async_callback(chat.close)
    return chat


def _checkpoint(work: _Work, model: str) -> tuple[Path, Path | None]:
    """The checkpoint of a model of this process, and the adapter on it: from the config, else the run's own."""
    given = work.config.evaluate.models.get(model, AgentConfig())
    path, adapter = (given.path, given.adapter) if given.path else work.context.model(model)
    if path == SHIPPED_BASE and not work.config.world:
        # It has seen nothing but the world's pictures.
        raise UserError(f"there is no model {model}: say where it is by evaluate.models.{model}.endpoint.url or .path, or set models.base")
    if not (path / "config.json").is_file():
        raise UserError(f"there is no model {model} at {path}: train it, or say where it is by evaluate.models.{model}.endpoint.url or .path")
    return path, adapter


def _open(work: _Work, model: str) -> Chat:
    """A model of a row: at its endpoint, or in this process."""
    if endpoint := _endpoint(work.config, model):
        return work.context.endpoint(endpoint)
    from insightv.models.local import LocalChat
    from insightv.models.vlm import load

    path, adapter = _checkpoint(work, model)
    return LocalChat(load(path, adapter=adapter, dtype=work.config.local.dtype), work.run.images, work.run.journal, work.config.local)
