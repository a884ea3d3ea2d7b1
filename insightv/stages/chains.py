"""Chains: the teacher's, the reasoner's own, and what is judged of them."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from operator import attrgetter
from pathlib import Path

import orjson

from insightv import agents
from insightv.answers import settle
from insightv.config import EndpointConfig, SamplingConfig, UserError
from insightv.files import replacing
from insightv.generation import assess
from insightv.generation.diversity import diversity
from insightv.models.chat import Chat
from insightv.models.meter import Stats
from insightv.records import Chain, Problem, Score, Verdict
from insightv.scale.local import completed, run
from insightv.sorting import Sorter
from insightv.stages import asking
from insightv.stages.asking import assessing, choosing, generating, rating
from insightv.stages.context import CHOSEN, Context, Summary
from insightv.stages.live import Defects, Live
from insightv.store import read_manifest, read_records
from insightv.world.truth import chain_truth


def choose(context: Context, work: Path) -> Summary:
    """The training problems that the generator's direct answer misses, in their order, and those that need not be asked."""
    models = context.config.models
    kept = {name: Sorter(work / "scratch" / name) for name in (CHOSEN, "rejections")}
    counts: Counter[str] = Counter()

    async def write() -> None:
        problems = context.stream("train")
        async with context.spread(partial(choosing, context), [models.generator, models.judge], problems, attrgetter("id")) as (answered, stats):
            live = Live(context.report, context.count("train"), stats)
            async for position, (problem, verdict) in answered:
                place = position.to_bytes(8)
                if verdict and verdict.correct:
                    kept["rejections"].add(place, orjson.dumps({"problem_id": problem.id, "reason": "answered_directly"}) + b"\n")
                else:
                    kept[CHOSEN].add(place, problem.model_dump_json().encode() + b"\n")
                counts["not asked" if verdict is None else {True: "easy", False: "hard", None: "failed"}[verdict.correct]] += 1
                live.done(1)

    run(write())
    for name, lines in kept.items():
        _write(work / f"{name}.jsonl", lines)
    if not counts.total() - counts["easy"]:
        raise UserError(
            f"the generator answers all {counts['easy']} training problems directly: none is left for chains; take harder ones or filter.hard_only: false"
        )
    return {CHOSEN: counts.total() - counts["easy"], **{name: counts[name] for name in ("hard", "easy", "not asked", "failed")}}


def generate(context: Context, work: Path) -> Summary:
    """The teacher's N chains for each training problem, or for those that a filter chose (Insight-V, section 3.1)."""
    config = context.config
    split = CHOSEN if config.filter.hard_only else "train"
    kept = Sorter(work / "scratch" / "chains")

    async def write() -> None:
        async with context.spread(partial(generating, context), [config.models.generator], context.stream(split), attrgetter("id")) as (groups, stats):
            live = Live(context.report, context.count(split) * config.generate.n, stats)
            async for _, chains in groups:
                _keep(chains, kept, live)

    run(write())
    return _keep_chains(work, kept)


def sample(context: Context, work: Path, model: str, split: str, n: int, sampling: SamplingConfig, limit: tuple[int, int] | None = None) -> Summary:
    """A trained reasoner's own N chains for each problem of a split, or of a slice of it; from a server where one is configured."""
    config = context.config
    problems = context.problems(split)
    problems = problems if limit is None else rotate(problems, *limit)
    kept = Sorter(work / "scratch" / "chains")

    async def keep(groups: AsyncIterator[tuple[int, list[Chain]]], stats: Sequence[Stats]) -> None:
        live = Live(context.report, n * len(problems), stats)
        async for _, chains in groups:
            _keep(chains, kept, live)

    async def draw(chat: Chat) -> None:
        async def one(problem: Problem) -> list[Chain]:
            return await agents.reason(problem, chat, sampling, config.prompts, config.seed, n)

        # All at once, so that a stage that is run again is cut into the same batches.
        async with aclosing(completed(one, problems, concurrency=max(1, len(problems)))) as groups:
            await keep(groups, ())

    async def ask(endpoint: EndpointConfig) -> None:
        async with context.spread(partial(asking.sampling, context, sampling, n), [endpoint], problems, attrgetter("id")) as (groups, stats):
            await keep(groups, stats)

    if config.dpo.server is None:
        with context.chat(model) as local:
            asyncio.run(draw(local))
        return _keep_chains(work, kept)
    from insightv.models.serve import served

    path, adapter = context.model(model)
    with served(config.dpo.server, path, adapter, config.dpo.server_timeout, work / "scratch") as endpoint:
        run(ask(endpoint))
    return _keep_chains(work, kept)


def rotate(problems: Sequence[Problem], start: int, count: int) -> list[Problem]:
    """`count` problems from position `start` on, round the end."""
    return [problems[(start + i) % len(problems)] for i in range(min(count, len(problems)))]


def assess_chains(context: Context, work: Path, source: str, split: str, *, score: bool = True, told: bool = True) -> Summary:
    """Verdicts of a stage's chains and, unless told not to, scores of those found correct, all of a problem together.

    Where the ground truth is not `told` there are no verdicts, and scores of all chains. With several shuffles, `ratings.jsonl` holds the score of
    each order, of which those in `scores.jsonl` are the means.
    """
    config = context.config
    kept = {name: Sorter(work / "scratch" / name) for name in ("verdicts", "scores", *(["ratings"] if config.assess.shuffles > 1 else []))}
    tally: Counter[str] = Counter()

    async def write() -> None:
        groups = context.grouped(source, split, work / "scratch" / "problems")
        work_on, asked = partial(rating, context), [config.models.scorer]
        if told:
            work_on, asked = partial(assessing, context, score), [config.models.judge, config.models.scorer]
        async with context.spread(work_on, asked, groups, lambda group: group[0].id) as (judged, stats):
            live = Live(context.report, read_manifest(context.run.folder / source)["summary"]["problems"], stats)
            async for _, (chains, verdicts, ratings) in judged:
                scores = assess.mean(ratings)
                orders = [rating for order in ratings for rating in order]
                records: dict[str, Sequence[Verdict | Score]] = {"verdicts": verdicts, "scores": scores, "ratings": orders}
                for name, sorter in kept.items():
                    for record in records[name]:
                        sorter.add(record.problem_id.encode(), record.model_dump_json().encode() + b"\n")
                tally.update(_judged(chains, verdicts, scores))
                live.done(1)

    run(write())
    for name, sorter in kept.items():
        _write(work / f"{name}.jsonl", sorter)
    return _assessed(tally)


def _judged(chains: Sequence[Chain], verdicts: Sequence[Verdict], scores: Sequence[Score]) -> Counter[str]:
    """What came of the chains of one problem, to be added up."""
    counts = Counter({True: "correct", False: "wrong", None: "not_judged"}[verdict.correct] for verdict in verdicts)
    counts.update(f"by {verdict.by}" for verdict in verdicts)
    values = [score.value for score in scores if score.value is not None]
    counts.update({"scored": len(values), "points": sum(values), "not_scored": len(scores) - len(values)})
    counts["broken off"] += sum(chain.status == "failed" for chain in chains) if verdicts else 0
    return counts


def _assessed(tally: Counter[str]) -> Summary:
    scored = tally["scored"]
    # A chain that failed cannot be judged; its own stage is the one to try again. What came but could not be read counts too: the records do
    # not tell it apart, and to ask again for it costs nothing, because the journal holds the replies.
    failed = tally["not_scored"] + tally["not_judged"] - tally["broken off"]
    outcome = {name: tally[name] for name in ("correct", "not_judged", "wrong") if tally[name]}
    by = {name: tally[f"by {name}"] for name in ("judge", "none", "rule") if tally[f"by {name}"]}
    mean = round(tally["points"] / scored, 1) if scored else None
    return {**outcome, "scored": scored, "mean_score": mean, "not_scored": tally["not_scored"], "failed": failed, "by": by}


def measure_truth(context: Context, work: Path, source: str, judged: str, split: str) -> Summary:
    """How well filter and scorer agree with what the world knows of its pictures."""
    rights: Counter[str] = Counter()

    def known() -> Iterator[tuple[bool | None, int | None, bool, float]]:
        for problem, candidates in context.rated(source, judged, split, work / "scratch"):
            for candidate in (candidate for candidate in candidates if candidate.chain.status != "failed"):
                share, whole = chain_truth(problem, candidate.chain)
                right = settle(candidate.chain.answer, problem) is True
                rights.update({"chains": 1, "answers_right": right, "chains_right": whole})
                if candidate.verdict:
                    yield candidate.correct, candidate.value, right, share

    figures = assess.agreement(known())
    shares = {name: round(rights[name] / max(1, rights["chains"]), 4) for name in ("answers_right", "chains_right")}
    summary = {**figures, **shares}
    (work / "agreement.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _keep(chains: Sequence[Chain], kept: Sorter, live: Live) -> None:
    for chain in chains:
        kept.add(f"{chain.problem_id}\0{chain.index:06d}".encode(), chain.model_dump_json().encode() + b"\n")
        live.chain(chain)
    live.done(len(chains))


def _keep_chains(work: Path, kept: Sorter) -> Summary:
    """Write the chains in order, unless all failed: then the address or the model's name is wrong, and nothing below could work with them."""
    _write(work / "chains.jsonl", kept)
    reasons: Counter[str] = Counter()
    defects = Defects()

    def counted() -> Iterator[Chain]:
        for chain in read_records(work / "chains.jsonl", Chain):
            defects.add(chain)
            reasons.update([chain.reason] if chain.status == "failed" else [])
            yield chain

    figures = diversity(counted())
    failed = reasons.total()
    if failed and failed == figures["chains"]:
        [(reason, count)] = reasons.most_common(1)
        why = " ".join(reason.split())[:300]
        raise UserError(f"all {failed} chains failed, {count} of them with: {why}; mend this, then run the same command with --retry-failed")
    found = dict(sorted(defects.found.items()))
    (work / "defects.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return {**figures, "failed": failed, "defects": {name: defect["chains"] for name, defect in found.items()}}


def _write(path: Path, lines: Iterable[bytes]) -> None:
    with replacing(path) as file:
        file.writelines(lines)
