"""Rows of the table: a system's answers on every split that is evaluated."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from insightv import agents, negative
from insightv.models.chat import Chat
from insightv.records import Problem, Solution
from insightv.stages.context import Context, Summary
from insightv.store import ImageStore

_OF_A_SPLIT = {"solve_shuffled": negative.shuffled, "solve_blind": negative.blind}
"""Systems that have to see all problems of a split before they answer one."""


def evaluate_row(context: Context, work: Path, solver: str, models: tuple[str, ...], row: str) -> Summary:
    """One row of the table: a system's solutions on every split that is evaluated."""
    # Tests of significance load scipy, for which every other stage with a process of its own would wait a second.
    from insightv.evaluation.run import accuracy, evaluate

    config = context.config
    figures: Summary = {}
    with ExitStack() as stack:
        opened = {model: stack.enter_context(context.chat(model)) for model in dict.fromkeys(models)}
        for split in config.systems.splits:
            problems = context.problems(split)
            system = _system(context, solver, [opened[model] for model in models], row, problems)
            path = work / ("solutions.jsonl" if split == "test" else f"{split}.jsonl")
            done = context.counted(len(problems))
            solutions = asyncio.run(evaluate(system, problems, path, concurrency=max(1, len(problems)), on_done=done))
            if solutions:
                result = accuracy(solutions, problems, seed=config.seed)
                groups = {name: round(rate.value, 4) for name, rate in result.groups.items()}
                figures[split] = {"macro": round(result.macro.value, 4), **groups, "unparsed": result.unparsed, "owed": result.owed}
    return figures


def way(solver: str, problems: Sequence[Problem], images: ImageStore, seed: int) -> negative.Solver:
    """A row's way to solve problems, by its name; those that another problem's chain is shown with must be known beforehand."""
    found: negative.Solver = _OF_A_SPLIT[solver](problems, images, seed) if solver in _OF_A_SPLIT else getattr(agents, solver)
    return found


def _system(context: Context, solver: str, chats: Sequence[Chat], row: str, problems: Sequence[Problem]) -> Callable[[Problem], Awaitable[Solution]]:
    config = context.config
    solve = way(solver, problems, context.run.images, config.seed)

    async def system(problem: Problem) -> Solution:
        solution: Solution = await solve(problem, *chats, config.systems, config.prompts, config.seed, row)
        return solution

    return system
