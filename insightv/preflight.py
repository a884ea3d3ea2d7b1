"""Before anything large is spent: probe every endpoint, make one chain and one judgement per role, project time and cost."""

import asyncio
import time
from typing import Any

from insightv.config import Config, EndpointConfig, UserError
from insightv.generation import assess
from insightv.generation.sample import progressive
from insightv.models.endpoint import Endpoint
from insightv.records import Chain, Problem
from insightv.store import Run

Facts = dict[str, object]


def check(config: Config, run: Run, problem: Problem, problems: int) -> list[Facts]:
    """One row of facts per role. Nothing is journalled: what fails here is asked anew by the next check and by the run, and every check pays for itself."""
    return asyncio.run(_check(config, run, problem, problems))


async def _check(config: Config, run: Run, problem: Problem, problems: int) -> list[Facts]:
    rows: list[Facts] = []
    chains: list[Chain] = []
    scored = problems * config.generate.n
    for role, amount in (("generator", scored), ("judge", scored), ("scorer", problems)):
        settings: EndpointConfig = getattr(config.models, role)
        chat = Endpoint(settings, run.images, None)
        try:
            found = await chat.probe()
            if not found["reachable"]:
                raise UserError(f"models.{role}: no answer from {settings.url}: {found['error']}")
            began = time.monotonic()
            if role == "generator":
                chains = [await progressive(problem, chat, config.generate, seed=config.seed, index=0)]
                outcome = f"{chains[0].status}, {len(chains[0].steps)} steps, answer {chains[0].answer!r}"
            elif role == "judge":
                verdict = await assess.verdict(*open_case(problem), chat, config.assess, config.seed)
                outcome = verdict.reason if verdict.correct is None else f"calls a right answer {'correct' if verdict.correct else 'wrong'}"
            else:
                [score] = await assess.scores(problem, chains, chat, config.assess, config.seed)
                outcome = f"score {score.value}"
            rows.append(_facts(role, settings, found, chat, outcome, time.monotonic() - began, amount))
        finally:
            await chat.close()
    return rows


def open_case(problem: Problem) -> tuple[Problem, Chain]:
    """A case that rules leave to the judge, whatever the problem's type of answer: an open question, and a right answer in other words."""
    chain = Chain(id="check", problem_id=problem.id, model="check", mode="single", index=0, answer=f"I believe it to be {problem.answers[0]}")
    return problem.model_copy(update={"options": (), "answer_type": "text"}), chain


def _facts(role: str, settings: EndpointConfig, found: dict[str, Any], chat: Endpoint, outcome: str, seconds: float, amount: int) -> Facts:
    stats = chat.stats
    hours = seconds * amount / settings.concurrency / 3600
    return {
        "role": role,
        "model": chat.identity,
        "listed": found["listed"],
        "json schema": found["json_schema"],
        "images": found["image"],
        "one item": outcome,
        "requests": stats.requests,
        "tokens in/out": f"{stats.prompt}/{stats.completion}",
        "seconds": round(seconds, 2),
        "items in the run": amount,
        "hours at most": round(hours, 2),
        "cost at most": round(stats.spend * amount, 2),
    }
