"""What is asked of endpoints for each problem, as jobs that can be done in this process or in a worker."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from insightv import agents
from insightv.config import EndpointConfig, SamplingConfig
from insightv.generation import assess
from insightv.generation.difficulty import direct_verdict
from insightv.generation.sample import paths
from insightv.prompts import direct_messages, rating_messages
from insightv.records import Chain, Problem, Score, Verdict
from insightv.scale.worker import Job
from insightv.stages.context import Context

Group = tuple[Problem, list[Chain]]
Judged = tuple[list[Chain], list[Verdict], list[list[Score]]]
"""A problem's chains, their verdicts, and for each order the scores of those found correct."""


@asynccontextmanager
async def choosing(context: Context, endpoints: Sequence[EndpointConfig]) -> AsyncIterator[Job[Problem, tuple[Problem, Verdict | None]]]:
    """The verdict on the generator's direct answer; None where the problem's source need not be asked. Endpoints: generator, judge."""
    config, settings = context.config, context.config.filter
    messages = partial(direct_messages, prompts=config.prompts)
    async with context.asking(endpoints) as [generator, judge]:

        async def one(problem: Problem) -> tuple[Problem, Verdict | None]:
            if problem.source in settings.always:
                return problem, None
            return problem, await direct_verdict(problem, generator, judge, messages, settings.sampling, config.assess, config.seed)

        yield Job(one, [generator.stats, judge.stats], context.meter)


@asynccontextmanager
async def generating(context: Context, endpoints: Sequence[EndpointConfig]) -> AsyncIterator[Job[Problem, list[Chain]]]:
    """The teacher's chains. Endpoint: generator."""
    async with context.asking(endpoints) as [chat]:
        yield Job(partial(paths, chat=chat, settings=context.config.generate, seed=context.config.seed), [chat.stats], context.meter)


@asynccontextmanager
async def sampling(context: Context, drawn: SamplingConfig, n: int, endpoints: Sequence[EndpointConfig]) -> AsyncIterator[Job[Problem, list[Chain]]]:
    """A served reasoner's own chains. Endpoint: its server."""
    config = context.config
    async with context.asking(endpoints) as [chat]:

        async def one(problem: Problem) -> list[Chain]:
            return await agents.reason(problem, chat, drawn, config.prompts, config.seed, n)

        yield Job(one, [chat.stats], context.meter)


@asynccontextmanager
async def assessing(context: Context, score: bool, endpoints: Sequence[EndpointConfig]) -> AsyncIterator[Job[Group, Judged]]:
    """Verdicts and, with `score`, scores. Endpoints: judge, scorer."""
    config = context.config
    async with context.asking(endpoints) as [judge, scorer]:

        async def one(group: Group) -> Judged:
            problem, chains = group
            verdicts = await assess.verdicts(problem, chains, judge, config.assess, config.seed)
            correct = [chain for chain, verdict in zip(chains, verdicts, strict=True) if verdict.correct and chain.status == "ok"]
            return chains, verdicts, await assess.rate(problem, correct, scorer, config.assess, config.seed) if score else []

        yield Job(one, [judge.stats, scorer.stats], context.meter)


@asynccontextmanager
async def rating(context: Context, endpoints: Sequence[EndpointConfig]) -> AsyncIterator[Job[Group, Judged]]:
    """Scores of all chains that came, right or wrong, by a scorer that is not told the ground truth. Endpoint: scorer."""
    config = context.config
    async with context.asking(endpoints) as [scorer]:

        async def one(group: Group) -> Judged:
            problem, chains = group
            whole = [chain for chain in chains if chain.status != "failed"]
            return chains, [], await assess.rate(problem, whole, scorer, config.assess, config.seed, rating_messages)

        yield Job(one, [scorer.stats], context.meter)
