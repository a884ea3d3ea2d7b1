"""The verbs that make something of the plan: run its stages, check what they ask, ask the agents that they trained."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from insightv import agents
from insightv.config import Config, EndpointConfig, PromptsConfig, UserError
from insightv.datasets import trainers
from insightv.datasets.sources import read_problems
from insightv.hosting import trained
from insightv.images import ImageError, decode
from insightv.loop import VERBS, needed, plan, row_of
from insightv.models.chat import Delta
from insightv.processes import execute
from insightv.records import Problem
from insightv.showing import gathered, rendered, saved
from insightv.stages.context import Context
from insightv.store import ImageStore, Run, content_hash


def run(config: Config, only: set[str] | None = None, *, retry_failed: bool = False) -> None:
    """Make all stages that a verb asks for (all without one), then the table and the report; goes on where an earlier run stopped."""
    config = name_teacher(config)
    steps = plan(config)
    _check_comparisons(config)
    pattern = "|".join(VERBS[verb] for verb in only) if only else ".*"
    wanted = {name for name in needed(steps) if re.fullmatch(pattern, name)}
    if config.world is None and config.models.base is None and "base" in steps.closure(wanted):
        # The shipped base has seen nothing but the world's pictures.
        raise UserError("models.base is not set: give the folder of a checkpoint in transformers' layout, or configure a world, which brings a base")
    execute(config, plan, wanted, with_teacher, retry_failed)
    if only is None or "evaluate" in only:
        from insightv.table import show

        data = gathered(config.run)
        page = rendered(data, config.run)
        show(data.tables)
        print(f"report: {page}")


def _check_comparisons(config: Config) -> None:
    """Every row that is to be compared is evaluated: a test that was written down beforehand must not drop out by a slip of the pen."""
    systems, rows = config.systems, ", ".join(config.systems.rows)
    for setting, names, advice in (
        ("systems.baseline", (systems.baseline,), f"-o systems.baseline={systems.rows[0] if systems.rows else 'ROW'}, for instance"),
        ("systems.primary", (row for pair in systems.primary for row in pair), "-o 'systems.primary=[]' to compare nothing beforehand"),
    ):
        for row in names:
            row_of(row, config, setting)
            if row not in systems.rows:
                raise UserError(f"{setting}: {row} is not among systems.rows, which are {rows or 'none'}; add it there, name others, or write {advice}")


def check(config: Config) -> list[dict[str, object]]:
    """Facts about every role's endpoint, from one chain and one judgement each, with time and cost of the whole projected."""
    from insightv.preflight import check

    run(config, {"problems"})
    problems = list(read_problems(config.run / "problems" / "train.jsonl"))
    if not problems:
        raise UserError("there is no training problem to make a chain for")
    with with_teacher(name_teacher(config)) as resolved:
        return check(resolved, Run(config.run, config.journal), problems[0], len(problems))


def name_teacher(config: Config) -> Config:
    """The config with the simulated teacher's dials as its revision, where an endpoint has no URL: other dials are another model."""
    if config.world is None:
        return config
    revision = content_hash(config.world.teacher.model_dump())[:12]
    return _fill(config, lambda endpoint: {"revision": endpoint.revision or revision})


@contextmanager
def with_teacher(config: Config) -> Iterator[Config]:
    """The config with the address of the world's teacher, which runs meanwhile, wherever an endpoint has no URL."""
    roles = (config.models.generator, config.models.judge, config.models.scorer)
    if all(role.url for role in roles):
        yield config
    elif config.world is None:
        raise UserError("models.generator.url, models.judge.url and models.scorer.url must be set, or a world configured")
    else:
        from insightv.world.teacher import serve

        with serve(config.world.teacher) as url:
            yield _fill(config, lambda _: {"url": url})


def _fill(config: Config, values: Callable[[EndpointConfig], dict[str, str]]) -> Config:
    def filled(role: EndpointConfig) -> EndpointConfig:
        return role if role.url else role.model_copy(update=values(role))

    models = config.models
    update = {"generator": filled(models.generator), "judge": filled(models.judge), "scorer": filled(models.scorer)}
    return config.model_copy(update={"models": models.model_copy(update=update)})


def ask(run: Path, image: Path, question: str, options: tuple[str, ...] = ()) -> Iterator[Delta]:
    """The trained pair's reasoning and answer to one question, as deltas."""
    config, here = saved(run, "; run `insightv demo` first"), Run(run)
    models = trained(config, run)
    try:
        data = image.read_bytes()
        decode(data)
    except (OSError, ImageError) as error:
        raise UserError(f"{image}: {error.strerror if isinstance(error, OSError) else error}") from None
    problem = Problem(id="asked", question=question, images=(here.images.add(data),), options=options, answers=("?",))
    context = Context(config, here, lambda _: None)
    with context.chat(models[0]) as reasoner, context.chat(models[1]) as summarizer:
        deltas = agents.stream(problem, reasoner, summarizer, config.systems, config.prompts, config.seed)
        with asyncio.Runner() as runner:
            while delta := runner.run(_next(deltas)):
                yield delta


async def _next(deltas: AsyncIterator[Delta]) -> Delta | None:
    return await anext(deltas, None)


def export(data: Path, out: Path, layout: str) -> dict[str, int]:
    """Write a data set, or for verl a file of problems, in another trainer's layout; returns counts.

    The problems' images and the reasoner's prompt are those of the run that they lie in, else the images beside them and the default prompt.
    """
    if layout != "verl":
        return trainers.export(data, out, layout)
    if data.suffix != ".jsonl" or not data.is_file():
        raise UserError(f"verl trains on problems, so give a file of them, such as RUN/problems/train.jsonl, instead of {data}")
    run = data.parent.parent
    inside = (run / "config.yaml").is_file()
    images = ImageStore((run if inside else data.parent) / "images")
    prompts = saved(run).prompts if inside else PromptsConfig()
    return trainers.export_verl(read_problems(data), images, prompts, data.stem, out)
