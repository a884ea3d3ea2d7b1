"""Before anything large is spent: probe every endpoint, make one chain and one judgement per role, project time and cost."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from insightv.config import Config, EndpointConfig, UserError
from insightv.generation import assess
from insightv.generation.sample import progressive
from insightv.models.chat import EndpointDown
from insightv.models.endpoint import Endpoint
from insightv.records import Chain, Problem
from insightv.replies import DEFECTS, MENDED
from insightv.store import Run

Facts = dict[str, Any]

_HIDDEN = ("role", "reasons", "ready")
"""Facts that have no line of their own in the table."""


@dataclass(frozen=True)
class Piece:
    """What came of the piece of work that a role was given."""

    said: str
    trouble: str = ""
    """Why the role cannot do its part; empty where it can."""
    chain: Chain | None = None
    """The generator's chain."""
    seconds: float = 0.0


def check(config: Config, run: Run, problem: Problem, problems: int) -> list[Facts]:
    """One row of facts per role, also where a role fails: `ready` says whether it can do its part, `reasons` what went wrong, a line each.

    Nothing is journalled: what fails here is asked anew by the next check and by the run, and every check pays for itself.
    """
    return asyncio.run(_check(config, run, problem, problems))


def sheet(rows: Sequence[Facts]) -> list[Facts]:
    """The facts as a table to show: a row for each, with a column for each role."""
    return [{"": name} | {row["role"]: row[name] for row in rows} for name in rows[0] if name not in _HIDDEN]


def remarks(rows: Sequence[Facts]) -> list[str]:
    """What went wrong, and with whom: a line for each reason."""
    return [f"{row['role']}: {reason}" for row in rows for reason in row["reasons"]]


def demand(rows: Sequence[Facts]) -> None:
    """Raise a `UserError` that names the roles that cannot do their part, if there are any."""
    lacking = [row["role"] for row in rows if not row["ready"]]
    if lacking:
        raise UserError(f"not ready for a run: {', '.join(lacking)}; mend what is said above and check again")


async def _check(config: Config, run: Run, problem: Problem, problems: int) -> list[Facts]:
    chains = problems * config.generate.n
    written, generator = await _look("generator", config, run, chains, lambda chat: _write(problem, chat, config))
    _, judge = await _look("judge", config, run, chains, lambda chat: _judge(problem, chat, config))
    _, scorer = await _look("scorer", config, run, problems, lambda chat: _score(problem, written.chain, chat, config))
    return [generator, judge, scorer]


async def _look(role: str, config: Config, run: Run, amount: int, work: Callable[[Endpoint], Awaitable[Piece]]) -> tuple[Piece, Facts]:
    """Probe a role's endpoint and let it do its piece of work; its failures become the piece's trouble."""
    settings: EndpointConfig = getattr(config.models, role)
    chat = Endpoint(settings, run.images, None)
    found: Facts = {}
    try:
        if role == "judge" and config.assess.rules_only:
            piece = Piece("not asked: assess.rules_only")
        elif (found := await chat.probe())["reachable"]:
            began = time.monotonic()
            piece = replace(await work(chat), seconds=time.monotonic() - began)
        else:
            piece = Piece("none", trouble=found.pop("error"))
    except (UserError, EndpointDown) as error:
        piece = Piece("none", trouble=str(error))
    finally:
        await chat.close()
    return piece, _facts(role, settings, found, piece, chat, amount)


async def _write(problem: Problem, chat: Endpoint, config: Config) -> Piece:
    chain = await progressive(problem, chat, config.generate, seed=config.seed, index=0)
    said = f"{chain.status}, {len(chain.steps)} steps, answer {chain.answer!r}"
    if chain.status == "ok":
        return Piece(said, chain=chain)
    defects = "; ".join(DEFECTS[name] for name in chain.defects if name not in MENDED)
    return Piece(said, trouble=chain.reason or f"the chain is not usable after {config.generate.step_tries} tries: {defects}")


async def _judge(problem: Problem, chat: Endpoint, config: Config) -> Piece:
    verdict = await assess.verdict(*open_case(problem), chat, config.assess, config.seed)
    if verdict.correct is None:
        return Piece("none", trouble=verdict.reason)
    return Piece(f"calls a right answer {'correct' if verdict.correct else 'wrong'}")


async def _score(problem: Problem, chain: Chain | None, chat: Endpoint, config: Config) -> Piece:
    if chain is None:
        return Piece("none", trouble="not asked, because there is no chain to score")
    [score] = await assess.scores(problem, [chain], chat, config.assess, config.seed)
    return Piece("none", trouble=score.reason) if score.value is None else Piece(f"score {score.value}")


def open_case(problem: Problem) -> tuple[Problem, Chain]:
    """A case that rules leave to the judge, whatever the problem's type of answer: an open question, and a right answer in other words."""
    chain = Chain(id="check", problem_id=problem.id, model="check", mode="single", index=0, answer=f"I believe it to be {problem.answers[0]}")
    return problem.model_copy(update={"options": (), "answer_type": "text"}), chain


def _facts(role: str, settings: EndpointConfig, found: Facts, piece: Piece, chat: Endpoint, amount: int) -> Facts:
    stats = chat.stats
    unlisted = f"{settings.url}/models does not list {settings.model!r}" if found.get("listed") is False else ""
    hours = piece.seconds * amount / settings.concurrency / 3600
    return {
        "role": role,
        "model": chat.identity,
        "listed": _yes_no(found.get("listed")),
        "json schema": _yes_no(found.get("json_schema")),
        "images": _yes_no(found.get("image")),
        "one item": piece.said,
        "requests": stats.requests,
        "tokens in/out": f"{stats.prompt}/{stats.completion}",
        "seconds": round(piece.seconds, 2),
        "items in the run": amount,
        "hours at most": round(hours, 2),
        "cost at most": round(stats.spend * amount, 2),
        "reasons": [reason for reason in (unlisted, found.get("error"), piece.trouble) if reason],
        "ready": not piece.trouble,
    }


def _yes_no(fact: bool | None) -> str:
    return "unknown" if fact is None else "yes" if fact else "no"
