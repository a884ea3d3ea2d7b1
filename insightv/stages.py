"""What each stage of the method does: a function from finished stages to the files of a new one, and a summary of it.

`loop.py` says in which order; `processes.py` runs them. A function gets the context and the folder to write to.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from insightv import agents
from insightv.answers import settle
from insightv.config import Config, EndpointConfig, SamplingConfig, TrainConfig, UserError
from insightv.datasets import export, preference, reasoning, summary
from insightv.datasets.rows import Rated, Rejection, Row
from insightv.datasets.sources import read_problems, write_problems
from insightv.datasets.splits import read_splits
from insightv.evaluation.run import accuracy, evaluate
from insightv.generation import assess
from insightv.generation.diversity import diversity
from insightv.generation.sample import progressive
from insightv.models import attended
from insightv.models.chat import Chat
from insightv.models.endpoint import Endpoint
from insightv.records import Chain, Problem, Score, Solution, Verdict
from insightv.scale import map_records
from insightv.store import Run, read_records, write_records
from insightv.world.problems import make_split
from insightv.world.truth import chain_truth

Summary = dict[str, Any]
Report = Callable[[dict[str, Any]], None]
"""Hears `step`, `of` and what else is worth showing while a stage runs."""

T = TypeVar("T")
C = TypeVar("C", bound=TrainConfig)

SHIPPED_BASE = Path(__file__).parent / "world" / "base" / "weights"


@dataclass(frozen=True)
class Context:
    """What a stage may use."""

    config: Config
    run: Run
    report: Report
    retry_failed: bool = False

    def problems(self, split: str) -> list[Problem]:
        """The problems of a split."""
        return list(read_problems(self.run.folder / "problems" / f"{split}.jsonl"))

    def rated(self, chains: str, judged: str, split: str) -> Rated:
        """A split's problems with the chains of one stage and the judgements of another."""
        folder = self.run.folder / judged
        verdicts, scores = read_records(folder / "verdicts.jsonl", Verdict), read_records(folder / "scores.jsonl", Score)
        return Rated(self.problems(split), self.chains(chains), list(verdicts), list(scores))

    def chains(self, stage: str) -> list[Chain]:
        """The chains of a stage."""
        return list(read_records(self.run.folder / stage / "chains.jsonl", Chain))

    def endpoint(self, config: EndpointConfig) -> Endpoint:
        """A model behind a URL, with the run's images and journal."""
        return Endpoint(config, self.run.images, self.run.journal, retry_failed=self.retry_failed)

    def model(self, name: str) -> tuple[Path, Path | None]:
        """A model's checkpoint and the adapter on it, if its folder holds one."""
        base = base_path(self.config, self.run)
        if name == "base":
            return base, None
        folder = self.run.folder / name
        return (base, folder) if (folder / "adapter_config.json").is_file() else (folder, None)

    @contextmanager
    def chat(self, name: str) -> Iterator[Chat]:
        """A trained model in this process."""
        from insightv.models.local import LocalChat
        from insightv.models.vlm import load

        path, adapter = self.model(name)
        chat = LocalChat(load(path, adapter=adapter, dtype=self.config.local.dtype), self.run.images, self.run.journal, self.config.local)
        try:
            yield chat
        finally:
            asyncio.run(chat.close())

    def counted(self, total: int) -> Callable[[object], None]:
        """A callback for `on_done` that reports how many of `total` are done."""
        done = 0

        def count(_: object) -> None:
            nonlocal done
            done += 1
            self.report({"step": done, "of": total})

        return count


def base_path(config: Config, run: Run) -> Path:
    """Where the base model's checkpoint lies."""
    if config.models.base:
        return config.models.base
    return run.folder / "base" / "model" if config.world and config.world.retrain_base else SHIPPED_BASE


def make_problems(context: Context, work: Path) -> Summary:
    """Every split's problems: drawn by the world, or the user's files with their images."""
    config, counts = context.config, {}
    if config.world:
        world = config.world
        for split in ("train", "preference", "own", "plain", "development", "test", "heldout"):
            drawn = make_split(context.run.images, split, getattr(world, split), seed=config.seed, difficulty=world.difficulty)
            counts[split] = write_problems(work / f"{split}.jsonl", drawn)
            context.report({"step": len(counts), "of": 7})
        return counts
    given = {name: path for name, path in config.problems if path is not None}
    for split, problems in read_splits(given, context.run.images).items():
        counts[split] = write_problems(work / f"{split}.jsonl", problems)
    return counts


def make_base(context: Context, work: Path) -> Summary:
    """The base model: the world's, trained here if so configured, or the user's; records its identity."""
    from insightv.models.vlm import weights_hash

    config = context.config
    told: Summary = {}
    if config.models.base is None and config.world and config.world.retrain_base:
        from insightv.world.base.training import train_base

        told = {"skills": train_base(work / "model", work / "scratch", config.seed, config.world.base_steps, context.report)}
        identity = weights_hash(work / "model", None)
    else:
        path = base_path(config, context.run)
        if not (path / "config.json").is_file():
            raise UserError(f"models.base: no model at {path}: config.json is missing; give the folder of a checkpoint in transformers' layout")
        identity = weights_hash(path, None)
    (work / "base.json").write_text(json.dumps({"identity": identity}) + "\n", encoding="utf-8")
    return {"identity": identity, **told}


def generate(context: Context, work: Path) -> Summary:
    """The teacher's N chains for each training problem (Insight-V, section 3.1)."""
    config = context.config
    jobs = [(problem, index) for problem in context.problems("train") for index in range(config.generate.n)]

    async def write(chat: Endpoint) -> list[Chain]:
        async def one(job: tuple[Problem, int]) -> Chain:
            return await progressive(job[0], chat, config.generate, seed=config.seed, index=job[1])

        return await map_records(one, jobs, concurrency=config.generate.open_problems, on_done=context.counted(len(jobs)))

    return _keep_chains(work, _with_endpoint(context.endpoint(config.models.generator), write))


def sample(context: Context, work: Path, model: str, split: str, n: int, sampling: SamplingConfig, limit: tuple[int, int] | None = None) -> Summary:
    """A trained reasoner's own N chains for each problem of a split, or of a slice of it; from a server where one is configured."""
    config = context.config
    problems = context.problems(split)
    problems = problems if limit is None else rotate(problems, *limit)

    async def write(chat: Chat, concurrency: int) -> list[Chain]:
        async def one(problem: Problem) -> list[Chain]:
            return await agents.reason(problem, chat, sampling, config.prompts, config.seed, n)

        groups = await map_records(one, problems, concurrency=concurrency, on_done=context.counted(len(problems)))
        return [chain for group in groups for chain in group]

    if config.dpo.server is None:
        with context.chat(model) as chat:
            # All at once, so that a stage that is run again is cut into the same batches.
            return _keep_chains(work, asyncio.run(write(chat, max(1, len(problems)))))
    from insightv.models.serve import served

    path, adapter = context.model(model)
    with served(config.dpo.server, path, adapter, config.dpo.server_timeout, work / "scratch") as endpoint:
        return _keep_chains(work, _with_endpoint(context.endpoint(endpoint), lambda chat: write(chat, config.generate.open_problems)))


def rotate(problems: Sequence[Problem], start: int, count: int) -> list[Problem]:
    """`count` problems from position `start` on, round the end."""
    return [problems[(start + i) % len(problems)] for i in range(min(count, len(problems)))]


def _keep_chains(work: Path, chains: list[Chain]) -> Summary:
    """Write the chains, unless all failed: then the address or the model's name is wrong, and nothing below could work with them."""
    chains = sorted(chains, key=lambda chain: (chain.problem_id, chain.index))
    reasons = Counter(chain.reason for chain in chains if chain.status == "failed")
    failed = reasons.total()
    if chains and failed == len(chains):
        [(reason, count)] = reasons.most_common(1)
        why = " ".join(reason.split())[:300]
        raise UserError(f"all {failed} chains failed, {count} of them with: {why}; mend this, then run the same command with --retry-failed")
    write_records(work / "chains.jsonl", chains)
    defects = Counter(defect for chain in chains for defect in chain.defects)
    return {"chains": len(chains), **diversity(chains), "failed": failed, "defects": dict(sorted(defects.items()))}


def assess_chains(context: Context, work: Path, source: str, split: str, *, score: bool = True) -> Summary:
    """Verdicts of a stage's chains and, unless told not to, scores of those found correct, all of a problem together.

    With several shuffles, `ratings.jsonl` holds the score of each order, of which those in `scores.jsonl` are the means.
    """
    config = context.config
    known = {problem.id: problem for problem in context.problems(split)}
    groups: dict[str, list[Chain]] = {}
    for chain in context.chains(source):
        groups.setdefault(chain.problem_id, []).append(chain)

    async def judge_all(judge: Endpoint, scorer: Endpoint) -> list[tuple[list[Verdict], list[list[Score]]]]:
        async def one(name: str) -> tuple[list[Verdict], list[list[Score]]]:
            chains = groups[name]
            verdicts = await assess.verdicts(known[name], chains, judge, config.assess, config.seed)
            correct = [chain for chain, verdict in zip(chains, verdicts, strict=True) if verdict.correct and chain.status == "ok"]
            return verdicts, await assess.rate(known[name], correct, scorer, config.assess, config.seed) if score else []

        try:
            return await map_records(one, sorted(groups), concurrency=config.generate.open_problems, on_done=context.counted(len(groups)))
        finally:
            await judge.close()
            await scorer.close()

    judged = asyncio.run(judge_all(context.endpoint(config.models.judge), context.endpoint(config.models.scorer)))
    verdicts = [verdict for group, _ in judged for verdict in group]
    scores = [score for _, ratings in judged for score in assess.mean(ratings)]
    write_records(work / "verdicts.jsonl", verdicts)
    write_records(work / "scores.jsonl", scores)
    if config.assess.shuffles > 1:
        write_records(work / "ratings.jsonl", [rating for _, ratings in judged for order in ratings for rating in order])
    outcome = Counter({True: "correct", False: "wrong", None: "not_judged"}[verdict.correct] for verdict in verdicts)
    values = [score.value for score in scores if score.value is not None]
    by = Counter(verdict.by for verdict in verdicts)
    mean = round(sum(values) / len(values), 1) if values else None
    lacking = len(scores) - len(values)
    # A chain that failed cannot be judged; its own stage is the one to try again. What came but could not be read counts too: the records do
    # not tell it apart, and to ask again for it costs nothing, because the journal holds the replies.
    failed = lacking + sum(verdict.correct is None for verdict in verdicts) - sum(chain.status == "failed" for group in groups.values() for chain in group)
    told = {**dict(sorted(outcome.items())), "scored": len(values), "mean_score": mean, "not_scored": lacking}
    return {**told, "failed": failed, "by": dict(sorted(by.items()))}


def measure_truth(context: Context, work: Path, source: str, judged: str, split: str) -> Summary:
    """How well filter and scorer agree with what the world knows of its pictures."""
    rated = context.rated(source, judged, split)
    known = {problem.id: problem for problem in rated.problems}
    chains = [chain for chain in rated.chains if chain.status != "failed"]
    truth = {chain.id: chain_truth(known[chain.problem_id], chain) for chain in chains}
    right = {chain.id: settle(chain.answer, known[chain.problem_id]) is True for chain in chains}
    figures = assess.agreement(rated.verdicts, rated.scores, right, {name: share for name, (share, _) in truth.items()})
    exact = sum(whole for _, whole in truth.values()) / max(1, len(truth))
    summary = {**figures, "answers_right": round(sum(right.values()) / max(1, len(right)), 4), "chains_right": round(exact, 4)}
    (work / "agreement.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def build_reasoning(context: Context, work: Path, form: Callable[[Sequence[Any], Any], list[Row]]) -> Summary:
    """Best paths as rows of the reasoner, or in the form of a control."""
    picks, rejections = reasoning.select(context.rated("generate", "assess", "train"), context.config.reasoning)
    return _save(context, work, form(picks, context.config.prompts), rejections)


def build_summary(context: Context, work: Path, own: str) -> Summary:
    """The summary agent's four parts."""
    config = context.config
    teacher, chains = context.rated("generate", "assess", "train"), context.rated(own, f"{own}-assess", "own")
    rows, rejections, mixture = summary.build(teacher, chains, context.problems("plain"), config.summary, config.prompts, seed=config.seed)
    return _save(context, work, rows, rejections) | {"mixture": mixture}


def build_fair(context: Context, work: Path) -> Summary:
    """The fair control's set: chains with answers, and every question and label that the summary agent saw, as plain QA."""
    config = context.config
    picks, rejections = reasoning.select(context.rated("generate", "assess", "train"), config.reasoning)
    seen = {json.loads(line)["problem_id"] for line in (context.run.folder / "summary-data" / "manifest.jsonl").open(encoding="utf-8")}
    problems = [problem for split in ("train", "own", "plain") for problem in context.problems(split) if problem.id in seen]
    rows = reasoning.single_rows(picks, config.prompts) + reasoning.plain_rows(problems, config.prompts)
    return _save(context, work, rows, rejections)


def build_pairs(context: Context, work: Path, source: str, judged: str, split: str) -> Summary:
    """Preference pairs of one round (Insight-V, section 3.4)."""
    config = context.config
    rated = context.rated(source, judged, split)
    rows, rejections, counts = preference.build(*rated, config.preference, config.prompts, seed=config.seed)
    if not rows:
        outcome = Counter(verdict.correct for verdict in rated.verdicts)
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(rejection["reason"] for rejection in rejections).items()))
        raise UserError(
            f"no preference pairs: {outcome[True]} of {len(rated.chains)} chains were correct, {outcome[False]} wrong (why each is in no pair: {reasons}); "
            "sample more with dpo.n, loosen the preference settings, train the reasoner longer, or take the teacher's pairs by dpo.pairs_from: teacher"
        )
    return _save(context, work, rows, rejections) | {"pairs": counts}


def _save(context: Context, work: Path, rows: list[Row], rejections: list[Rejection]) -> Summary:
    return export.save(sorted(rows, key=lambda row: str(row["id"])), rejections, context.run.images, work)


def train_sft(context: Context, work: Path, data: str, settings: TrainConfig, like: tuple[str, ...] = ()) -> Summary:
    """Supervised fine-tuning of the base; with `like`, for as many updates as those models had together."""
    if like:
        manifests = [json.loads((context.run.folder / name / "manifest.json").read_bytes()) for name in like]
        settings = settings.model_copy(update={"max_steps": sum(manifest["summary"]["steps"] for manifest in manifests)})
    model, _ = context.model("base")
    return _train(context, work, "sft", settings, {"model": model, "data": context.run.folder / data})


def train_dpo(context: Context, work: Path, data: str, policy: str, reference: str) -> Summary:
    """One round of DPO: the policy M_t becomes M_t+1."""
    model, adapter = context.model(policy)
    reference_model, reference_adapter = context.model(reference)
    paths = {"model": model, "adapter": adapter, "reference": reference_model, "reference_adapter": reference_adapter}
    return _train(context, work, "dpo", seeded(context.config, context.config.dpo), paths | {"data": context.run.folder / data})


def seeded(config: Config, settings: C) -> C:
    """A training's settings with the run's seed in them."""
    return settings.model_copy(update={"seed": config.seed + settings.seed})


def _train(context: Context, work: Path, kind: str, settings: TrainConfig, paths: dict[str, Path | None]) -> Summary:
    arguments = {"out": work, "work": work / "scratch", **paths}
    if settings.processes == 1:
        from insightv.training import dpo, sft

        train: Callable[..., Summary] = sft.train if kind == "sft" else dpo.train
        return train(**arguments, config=settings, report=context.report)
    from insightv.training import job

    scratch = work / "scratch"
    file, log, said, progress = (scratch / name for name in ("job.json", "training.log", "summary.log", "progress.jsonl"))
    scratch.mkdir(exist_ok=True)
    file.write_text(json.dumps({"config": settings.model_dump(mode="json"), **{k: str(v) if v else None for k, v in arguments.items()}}))
    # Attended to, so that its processes end with this one.
    command = [sys.executable, "-m", attended.__name__, "15", *job.command("dpo" if kind == "dpo" else "sft", file, settings.processes)]
    with log.open("wb") as errors, said.open("wb") as output, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=errors) as process:
        while process.poll() is None:
            time.sleep(0.2)
            if line := _last_line(progress):
                context.report(json.loads(line))
    if process.returncode:
        raise UserError(f"training ended with exit code {process.returncode}; its messages are in {log}")
    summary: Summary = json.loads(_last_line(said))
    return summary


def _last_line(path: Path) -> str:
    """The last whole line of a file that may still grow; empty without one."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1].split("\n")
    return next((line for line in reversed(whole) if line.strip()), "")


def evaluate_row(context: Context, work: Path, solver: str, models: tuple[str, ...], row: str) -> Summary:
    """One row of the table: a system's solutions on every split that is evaluated."""
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


def _with_endpoint(chat: Endpoint, work: Callable[[Endpoint], Awaitable[T]]) -> T:
    async def go() -> T:
        try:
            return await work(chat)
        finally:
            await chat.close()

    return asyncio.run(go())
