"""Before anything large is spent: probe every endpoint, give each role a piece of its work, and project all that the run asks of them."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from insightv.config import Config, EndpointConfig, UserError
from insightv.datasets.sources import read_problems
from insightv.generation import assess
from insightv.generation.sample import progressive
from insightv.loop import needed, plan
from insightv.models.chat import EndpointDown
from insightv.models.endpoint import Endpoint
from insightv.records import Chain, Problem
from insightv.replies import DEFECTS, MENDED
from insightv.store import Run

T = TypeVar("T")
Facts = dict[str, Any]

ASSUMED = (
    "Projected is what a run from its beginning asks of these endpoints: training chains and their assessment, verdicts on the reasoner's own chains, "
    "verdicts and scores of the DPO rounds. Trainings, and what the run's own models write, take hours beside these.",
    "Assumed: every chain, verdict and scoring takes what the one here took, and the chains of the run's own models are as long as this one.",
    "Assumed: the judge is asked about every chain, and every path is correct and so scored. Rules settle many answers and wrong paths are not scored, "
    "so judge and scorer will take less.",
    "Assumed: with `filter.hard_only` every training problem gets its chains; the direct answers before that are not counted.",
    "Assumed: a server with all requests in flight that the settings allow answers each as fast as it answered here, alone.",
)
"""What a projection stands on."""

_HIDDEN = ("role", "reasons", "ready")
"""Facts that have no line of their own in the table."""


class Spent(NamedTuple):
    """What some work took."""

    requests: float = 0.0
    """Answered ones."""
    prompt: float = 0.0
    completion: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Chains that the run has judged or rated, or written too."""

    stage: str
    """The stage that judges or rates them."""
    problems: int
    n: int
    """Chains of each problem."""
    generated: bool
    """Whether the generator writes them, and not a model of the run."""
    judged: bool
    """Whether the judge is asked for verdicts."""
    scored: bool


@dataclass(frozen=True)
class Piece:
    """What came of the piece of work that a role was given."""

    said: str
    trouble: str = ""
    """Why the role cannot do its part; empty where it can."""
    spent: Mapping[int, Spent] = field(default_factory=dict)
    """By the number of paths that were shown, 1 for what shows none; nothing where the work failed."""
    chain: Chain | None = None
    """The generator's chain."""


def check(config: Config, run: Run, problem: Problem, problems: int) -> list[Facts]:
    """One row of facts per role, also where a role fails: `ready` says whether it can do its part, `reasons` what went wrong, a line each.

    `problems` is the number of training problems. Nothing is journalled: what fails here is asked anew by the next check and by the run, and
    every check pays for itself. Projected are `requests`, `tokens in`, `tokens out`, `hours` and `cost`, the last in the currency of the prices.
    """
    counts = {split: sum(1 for _ in read_problems(run.folder / "problems" / f"{split}.jsonl")) for split in ("own", "preference")}
    return asyncio.run(_check(config, run, problem, teacher_work(config, {"train": problems, **counts})))


def teacher_work(config: Config, sizes: Mapping[str, int]) -> list[Batch]:
    """All that the configured rows need of generator, judge and scorer; `sizes` holds the number of problems of each split."""
    steps, dpo = plan(config), config.dpo
    wanted = needed(steps)
    drawn = min(dpo.problems or sizes["preference"], sizes["preference"])
    batches = []
    for stage in (name for name in steps.steps if name in wanted):
        if stage in ("assess", "generate-rating"):
            first = stage == "assess"
            batches.append(Batch(stage, sizes["train"], config.generate.n, generated=first, judged=first, scored=True))
        elif stage in ("own-chains-assess", "dpo-chains-assess"):
            batches.append(Batch(stage, sizes["own"], config.summary.own_n, generated=False, judged=True, scored=False))
        elif re.fullmatch(r"round\d+-chains-(assess|rating)", stage):
            batches.append(Batch(stage, drawn, dpo.n, generated=False, judged=stage.endswith("assess"), scored=True))
    return batches


def sheet(rows: Sequence[Facts]) -> list[Facts]:
    """The facts as a table to show: a row for each, with a column for each role."""
    return [{"": name} | {row["role"]: _shown(row[name]) for row in rows} for name in rows[0] if name not in _HIDDEN]


def remarks(rows: Sequence[Facts]) -> list[str]:
    """What went wrong, and with whom: a line for each reason."""
    return [f"{row['role']}: {reason}" for row in rows for reason in row["reasons"]]


def demand(rows: Sequence[Facts]) -> None:
    """Raise a `UserError` that names the roles that cannot do their part, if there are any."""
    lacking = [row["role"] for row in rows if not row["ready"]]
    if lacking:
        raise UserError(f"not ready for a run: {', '.join(lacking)}; mend what is said above and check again")


async def _check(config: Config, run: Run, problem: Problem, work: Sequence[Batch]) -> list[Facts]:
    most = max((batch.n for batch in work if batch.scored), default=1)
    written, generator = await _look("generator", config, run, work, lambda chat: _write(problem, chat, config))
    _, judge = await _look("judge", config, run, work, lambda chat: _judge(problem, chat, config))
    _, scorer = await _look("scorer", config, run, work, lambda chat: _score(problem, written.chain, most, chat, config))
    return [generator, judge, scorer]


async def _look(role: str, config: Config, run: Run, work: Sequence[Batch], give: Callable[[Endpoint], Awaitable[Piece]]) -> tuple[Piece, Facts]:
    """Probe a role's endpoint and give it its piece of work; its failures become the piece's trouble."""
    settings: EndpointConfig = getattr(config.models, role)
    chat = Endpoint(settings, run.images, None)
    found: Facts = {}
    try:
        if role == "judge" and config.assess.rules_only:
            piece, work = Piece("not asked: assess.rules_only", spent={1: Spent()}), ()
        elif (found := await chat.probe())["reachable"]:
            piece = await give(chat)
        else:
            piece = Piece("none", trouble=found.pop("error"))
    except (UserError, EndpointDown) as error:
        piece = Piece("none", trouble=str(error))
    finally:
        await chat.close()
    unlisted = f"{settings.url}/models does not list {settings.model!r}" if found.get("listed") is False else ""
    return piece, {
        "role": role,
        "model": chat.identity,
        "listed": _yes_no(found.get("listed")),
        "json schema": _yes_no(found.get("json_schema")),
        "images": _yes_no(found.get("image")),
        "one item": piece.said,
        "it took": "; ".join(_taken(spent) for spent in piece.spent.values()) or "unknown",
        **_projection(role, settings, config, work, piece),
        "reasons": [reason for reason in (unlisted, found.get("error"), piece.trouble) if reason],
        "ready": not piece.trouble,
    }


async def _write(problem: Problem, chat: Endpoint, config: Config) -> Piece:
    chain, spent = await _measured(chat, progressive(problem, chat, config.generate, seed=config.seed, index=0))
    said = f"{chain.status}, {len(chain.steps)} steps, answer {chain.answer!r}"
    if chain.status == "ok":
        return Piece(said, spent={1: spent}, chain=chain)
    defects = "; ".join(DEFECTS[name] for name in chain.defects if name not in MENDED)
    if chain.status == "failed":
        return Piece(said, trouble=chain.reason)
    return Piece(said, trouble=f"the chain is not usable after {config.generate.step_tries} tries: {defects}; {chain.reason}")


async def _judge(problem: Problem, chat: Endpoint, config: Config) -> Piece:
    verdict, spent = await _measured(chat, assess.verdict(*open_case(problem), chat, config.assess, config.seed))
    if verdict.correct is None:
        return Piece("none", trouble=verdict.reason)
    return Piece("calls a right answer " + ("correct" if verdict.correct else f"wrong: {verdict.reason}"), spent={1: spent})


async def _score(problem: Problem, chain: Chain | None, most: int, chat: Endpoint, config: Config) -> Piece:
    """Have the chain scored alone, and as often in one request as the run shows paths of a problem at most: that is what may not fit."""
    if chain is None:
        return Piece("none", trouble="not asked, because there is no chain to score")
    took: dict[int, Spent] = {}
    for count in sorted({1, most}):
        paths = [chain.model_copy(update={"id": f"{chain.id}-{index}", "index": index}) for index in range(count)]
        given, took[count] = await _measured(chat, assess.scores(problem, paths, chat, config.assess, config.seed))
        if missing := [score.reason for score in given if score.value is None]:
            return Piece("none", trouble=f"{count} paths in one request: {missing[0]}")
    values = [score.value for score in given if score.value is not None]
    return Piece(f"scores from {min(values)} to {max(values)}, {most} paths in one request", spent=took)


def open_case(problem: Problem) -> tuple[Problem, Chain]:
    """A case that rules leave to the judge, whatever the problem's type of answer: an open question, and a right answer in other words."""
    chain = Chain(id="check", problem_id=problem.id, model="check", mode="single", index=0, answer=f"I believe it to be {problem.answers[0]}")
    return problem.model_copy(update={"options": (), "answer_type": "text"}), chain


async def _measured(chat: Endpoint, work: Awaitable[T]) -> tuple[T, Spent]:
    before, began = replace(chat.stats), time.monotonic()
    result = await work
    now = chat.stats
    answered = (now.requests - now.retries) - (before.requests - before.retries)
    return result, Spent(answered, now.prompt - before.prompt, now.completion - before.completion, time.monotonic() - began)


def _projection(role: str, settings: EndpointConfig, config: Config, work: Sequence[Batch], piece: Piece) -> Facts:
    """The facts of the whole run, for one role."""
    loads = _loads(role, work, config.generate.open_problems)
    items = sum(count for count, *_ in loads)
    amount = {"generator": f"{items:,} chains", "judge": f"up to {items:,} verdicts", "scorer": f"up to {items:,} scorings"}[role]
    if not piece.spent:
        return {"in the run": amount} | dict.fromkeys(("requests", "tokens in", "tokens out", "hours", "cost"), "unknown")
    total = Spent()
    for count, paths, abreast in loads:
        each = _each(piece.spent, paths)
        lanes = max(1, min(settings.concurrency * len(settings.urls), abreast))
        total = Spent(*(whole + count * part for whole, part in zip(total, each._replace(seconds=each.seconds / lanes), strict=True)))
    silent = total.requests > 0 and total.prompt + total.completion == 0
    return {
        "in the run": amount,
        "requests": round(total.requests),
        "tokens in": "not reported" if silent else round(total.prompt),
        "tokens out": "not reported" if silent else round(total.completion),
        "hours": total.seconds / 3600,
        "cost": _cost(total, silent, settings),
    }


def _cost(total: Spent, silent: bool, settings: EndpointConfig) -> float | str:
    if not settings.price_in and not settings.price_out:
        return "no prices set: price_in, price_out"
    return "unknown: no tokens reported" if silent else (total.prompt * settings.price_in + total.completion * settings.price_out) / 1e6


def _loads(role: str, work: Sequence[Batch], open_problems: int) -> list[tuple[int, int, int]]:
    """(pieces of work, paths in each, pieces under way at once at most) of a role, batch by batch."""
    if role == "generator":
        return [(batch.problems * batch.n, 1, min(batch.problems, open_problems) * batch.n) for batch in work if batch.generated]
    if role == "judge":
        return [(batch.problems * batch.n, 1, min(batch.problems, open_problems)) for batch in work if batch.judged]
    return [(batch.problems, batch.n, min(batch.problems, open_problems)) for batch in work if batch.scored]


def _each(spent: Mapping[int, Spent], paths: int) -> Spent:
    """What a piece of work with so many paths takes, between the fewest and the most that were tried."""
    few, most = min(spent), max(spent)
    share = (paths - few) / (most - few) if most > few else 0.0
    return Spent(*(low + (high - low) * share for low, high in zip(spent[few], spent[most], strict=True)))


def _taken(spent: Spent) -> str:
    return f"{spent.requests:.0f} request{'' if spent.requests == 1 else 's'}, {spent.prompt:.0f}/{spent.completion:.0f} tokens, {spent.seconds:.2f} s"


def _shown(fact: object) -> str:
    if isinstance(fact, float):
        return "under 0.01" if 0 < fact < 0.005 else f"{fact:,.2f}"
    return f"{fact:,}" if isinstance(fact, int) else str(fact)


def _yes_no(fact: bool | None) -> str:
    return "unknown" if fact is None else "yes" if fact else "no"
