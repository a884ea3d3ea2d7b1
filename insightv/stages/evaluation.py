"""Rows of the table: a system's answers on every split that is evaluated."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

from insightv import agents
from insightv.records import Problem, Solution
from insightv.stages.context import Context, Summary


def evaluate_row(context: Context, work: Path, solver: str, models: tuple[str, ...], row: str) -> Summary:
    """One row of the table: a system's solutions on every split that is evaluated."""
    # Tests of significance load scipy, for which every other stage with a process of its own would wait a second.
    from insightv.evaluation.run import accuracy, evaluate

    config = context.config
    solve: Callable[..., Awaitable[Solution]] = getattr(agents, solver)
    figures: Summary = {}
    with ExitStack() as stack:
        chats = [stack.enter_context(context.chat(model)) for model in models]

        async def system(problem: Problem) -> Solution:
            return await solve(problem, *chats, config.systems, config.prompts, config.seed, row)

        for split in config.systems.splits:
            problems = context.problems(split)
            path = work / ("solutions.jsonl" if split == "test" else f"{split}.jsonl")
            done = context.counted(len(problems))
            solutions = asyncio.run(evaluate(system, problems, path, concurrency=max(1, len(problems)), on_done=done))
            if solutions:
                result = accuracy(solutions, problems, seed=config.seed)
                groups = {name: round(rate.value, 4) for name, rate in result.groups.items()}
                figures[split] = {"macro": round(result.macro.value, 4), **groups, "unparsed": result.unparsed, "owed": result.owed}
    return figures
