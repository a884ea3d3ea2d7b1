"""The paper on one page: which stages there are, what each is made from, and the verbs that run and show them.

problems -> chains -> assessment -> data -> two agents -> T x (sample from M_t -> assess -> pairs -> DPO -> M_t+1) -> evaluation
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insightv import agents
from insightv.config import Config, EndpointConfig, UserError, load_config
from insightv.datasets import reasoning
from insightv.datasets.sources import read_problems
from insightv.images import ImageError, decode
from insightv.models.chat import Delta
from insightv.processes import PROGRESS, Plan, execute, tell
from insightv.records import Problem
from insightv.replies import DEFECTS
from insightv.stages import chains, evaluation, sets, start, trainings
from insightv.stages.context import SHIPPED_BASE, Context
from insightv.store import Run, Stage, content_hash

if TYPE_CHECKING:
    from insightv.evaluation.figures import ReportData

ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "base": ("solve_direct", ("base",)),
    "base-reasoned": ("solve_single", ("base",)),
    "single": ("solve_single", ("single",)),
    "single-fair": ("solve_single", ("single-fair",)),
    "multi-turn": ("solve_multi_turn", ("multi-turn",)),
    "summarizer": ("solve_direct", ("summarizer",)),
    "reasoner": ("solve_reasoner", ("reasoner",)),
    "pair": ("solve", ("reasoner", "summarizer")),
}
"""Row of the table -> how it solves a problem, and its models. `pair+dpoT` is the pair after T rounds, `pair+dpo` after the last."""

VERBS = {
    "problems": r"problems",
    "base": r"base",
    "generate": r"filter|generate",
    "assess": r"assess|truth",
    "build": r".*-data",
    "train": r"reasoner|summarizer|single|single-fair|multi-turn|dpo\d+",
    "evaluate": r"evaluate-.*",
}
"""Verb of the command line -> the stages that it asks for; what these need is made too."""


def plan(config: Config) -> Plan:
    """All stages that the configured rows need, by name: the whole method."""
    c, steps = config, Plan(config)
    add = steps.add
    files = [path for _, path in c.problems if path]
    add("problems", (), start.make_problems, [c.world, c.problems, c.seed], outside=files)
    trained = c.world and (c.world.retrain_base, c.world.base_steps)
    add("base", (), start.make_base, [trained, c.models.base, c.seed], apart=True, outside=_base_files(c))

    chosen: tuple[str, ...] = ("problems",)
    if c.filter.hard_only:
        add("filter", ("problems",), chains.choose, [c.filter, c.prompts.direct, c.assess, *_who(c, "generator", "judge"), c.seed])
        chosen = ("problems", "filter")
    add("generate", chosen, chains.generate, [c.generate, _who(c, "generator"), c.seed])
    add("assess", ("problems", "generate"), partial(chains.assess_chains, source="generate", split="train"), _judging(c))
    if c.world:
        add("truth", ("problems", "generate", "assess"), partial(chains.measure_truth, source="generate", judged="assess", split="train"), [])

    rated = ("problems", "generate", "assess")
    for name, model, form in (
        ("reasoning-data", "reasoner", reasoning.reasoning_row),
        ("single-data", "single", reasoning.single_row),
        ("multi-turn-data", "multi-turn", reasoning.multi_turn_row),
    ):
        settings = trainings.seeded(c, c.reasoner if model == "reasoner" else c.single)
        add(name, rated, partial(sets.build_reasoning, form=form), [c.reasoning, c.prompts], apart=True)
        add(model, ("base", name), partial(trainings.train_sft, data=name, settings=settings), settings, apart=True)

    policy = "reasoner"
    for t in range(1, c.dpo.rounds + 1):
        policy = _dpo_round(steps, c, t, policy)

    author, own = (policy, "dpo-chains") if c.summary.own_chains == "dpo" else ("reasoner", "own-chains")
    drawn = c.summary.own_sampling or c.systems.reasoner
    draw = partial(chains.sample, model=author, split="own", n=c.summary.own_n, sampling=drawn)
    add(own, ("problems", author), draw, [c.summary.own_n, c.dpo.server, *_drawing(c, drawn)], apart=True)
    add(f"{own}-assess", ("problems", own), partial(chains.assess_chains, source=own, split="own", score=False), _judging(c))
    add("summary-data", (*rated, own, f"{own}-assess"), partial(sets.build_summary, own=own), [c.summary, c.prompts, c.seed], apart=True)
    judge, fair = trainings.seeded(c, c.summarizer), trainings.seeded(c, c.single)
    add("summarizer", ("base", "summary-data"), partial(trainings.train_sft, data="summary-data", settings=judge), judge, apart=True)

    add("single-fair-data", (*rated, "summary-data"), sets.build_fair, [c.reasoning, c.prompts], apart=True)
    like = ("reasoner", "summarizer")
    add("single-fair", ("base", "single-fair-data", *like), partial(trainings.train_sft, data="single-fair-data", settings=fair, like=like), fair, apart=True)

    for row in c.systems.rows:
        solver, models = _row(row, c)
        decoding = [c.systems.reasoner, c.systems.splits, *_drawing(c, c.systems.answer)]
        add(f"evaluate-{row}", ("problems", *models), partial(evaluation.evaluate_row, solver=solver, models=models, row=row), decoding, apart=True)
    return steps


def _base_files(config: Config) -> list[Path]:
    """The files of the base's folder, of which its identity is made; none where the base is trained here, or the folder is missing."""
    if config.models.base is None and config.world and config.world.retrain_base:
        return []
    folder = config.models.base or SHIPPED_BASE
    return sorted(path for path in folder.glob("[!.]*") if path.is_file())


def _dpo_round(steps: Plan, c: Config, t: int, policy: str) -> str:
    """Round t (Insight-V, section 3.4): D_t comes from M_t itself, or off-policy from the teacher; returns the name of M_t+1."""
    source, judged, split = "generate", "assess", "train"
    if c.dpo.pairs_from == "policy":
        source, judged, split = f"round{t}-chains", f"round{t}-chains-assess", "preference"
        limit = (c.dpo.problems * (t - 1), c.dpo.problems) if c.dpo.problems else None
        draw = partial(chains.sample, model=policy, split=split, n=c.dpo.n, sampling=c.dpo.sampling, limit=limit)
        steps.add(source, ("problems", policy), draw, [c.dpo.n, limit, c.dpo.server, *_drawing(c, c.dpo.sampling)], apart=True)
        steps.add(judged, ("problems", source), partial(chains.assess_chains, source=source, split=split), _judging(c))
    data, name = f"round{t}-data", f"dpo{t}"
    pair = partial(sets.build_pairs, source=source, judged=judged, split=split)
    steps.add(data, ("problems", source, judged), pair, [c.preference, c.prompts, c.seed], apart=True)
    reference = policy if c.dpo.reference == "previous" else "reasoner"
    training = partial(trainings.train_dpo, data=data, policy=policy, reference=reference)
    # What made the pairs is in the data already: another round, say, leaves the earlier ones as they are.
    made = {"rounds", "n", "problems", "sampling", "server", "server_timeout", "pairs_from"}
    settings = trainings.seeded(c, c.dpo).model_dump(mode="json", exclude=made)
    steps.add(name, tuple(dict.fromkeys(("base", data, policy, reference))), training, settings, apart=True)
    return name


def _row(row: str, config: Config, setting: str = "systems.rows") -> tuple[str, tuple[str, ...]]:
    if row in ROWS:
        return ROWS[row]
    if match := re.fullmatch(r"pair\+dpo(\d*)", row):
        t = int(match[1] or config.dpo.rounds)
        if 1 <= t <= config.dpo.rounds:
            return "solve", (f"dpo{t}", "summarizer")
        raise UserError(f"{setting}: {row} needs dpo.rounds to be at least {max(t, 1)}, it is {config.dpo.rounds}")
    raise UserError(f"{setting}: no row {row!r}; there are {', '.join(ROWS)}, pair+dpo and pair+dpo1, pair+dpo2 ..")


def _check_comparisons(config: Config) -> None:
    """Every row that is to be compared is evaluated: a test that was written down beforehand must not drop out by a slip of the pen."""
    systems, rows = config.systems, ", ".join(config.systems.rows)
    for setting, names, advice in (
        ("systems.baseline", (systems.baseline,), f"-o systems.baseline={systems.rows[0] if systems.rows else 'ROW'}, for instance"),
        ("systems.primary", (row for pair in systems.primary for row in pair), "-o 'systems.primary=[]' to compare nothing beforehand"),
    ):
        for row in names:
            _row(row, config, setting)
            if row not in systems.rows:
                raise UserError(f"{setting}: {row} is not among systems.rows, which are {rows or 'none'}; add it there, name others, or write {advice}")


def _who(config: Config, *roles: str) -> list[Any]:
    """What names the models behind the roles' endpoints, without their addresses."""
    return [getattr(config.models, role).model_dump(include={"model", "revision", "extra"}) for role in roles]


def _judging(config: Config) -> list[Any]:
    return [config.assess, *_who(config, "judge", "scorer"), config.seed]


def _drawing(config: Config, sampling: Any) -> list[Any]:
    return [sampling, config.prompts, config.local.batch_size, config.local.dtype, config.seed]


def run(config: Config, only: set[str] | None = None, *, retry_failed: bool = False) -> None:
    """Make all stages that a verb asks for (all without one), then the table and the report; goes on where an earlier run stopped."""
    config = name_teacher(config)
    steps = plan(config)
    _check_comparisons(config)
    needed = _needed(steps)
    pattern = "|".join(VERBS[verb] for verb in only) if only else ".*"
    wanted = {name for name in needed if re.fullmatch(pattern, name)}
    if config.world is None and config.models.base is None and "base" in steps.closure(wanted):
        # The shipped base has seen nothing but the world's pictures.
        raise UserError("models.base is not set: give the folder of a checkpoint in transformers' layout, or configure a world, which brings a base")
    execute(config, plan, wanted, with_teacher, retry_failed)
    if only is None or "evaluate" in only:
        from insightv.table import show

        data = _gathered(config.run)
        page = _rendered(data, config.run)
        show(data.tables)
        print(f"report: {page}")


def _needed(steps: Plan) -> set[str]:
    """The stages behind the configured rows and the report; a plan holds others too."""
    return steps.closure({name for name in steps.steps if re.fullmatch(r"evaluate-.*|truth", name)})


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


def report(run: Path) -> Path:
    """Write RUN/report.html from what the run holds; returns its path."""
    return _rendered(_gathered(run), run)


def _gathered(run: Path) -> "ReportData":
    from insightv.evaluation.collect import collect

    config, here = _saved(run), Run(run)
    steps, systems = plan(config), config.systems
    # A report is of what the run made: the files outside may be elsewhere by now.
    steps.recall(here, steps.steps)
    made = _made(steps, here)
    rows = [row for row in systems.rows if f"evaluate-{row}" in made]
    stale = [row for row in systems.rows if row not in rows and (run / f"evaluate-{row}").is_dir()]
    if stale:
        print(f"not shown, because made with other settings or an older version: {', '.join(stale)}; run the config again", file=sys.stderr)
    known = [problem for path in sorted((run / "problems").glob("*.jsonl")) for problem in read_problems(path)]
    return collect(here, known, rows=rows, baseline=systems.baseline, primary=systems.primary, seed=config.seed)


def _rendered(data: "ReportData", run: Path) -> Path:
    from insightv.evaluation.report import render

    render(data, run / "report.html")
    return run / "report.html"


def _saved(run: Path, advice: str = "") -> Config:
    """The config that a run was made with."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"no run at {run}: it has no config.yaml{advice}")
    return load_config(run / "config.yaml")


def journal_of(place: Path) -> Path:
    """The folder of a run's journal; a folder that is no run's is taken for the journal's own."""
    return (_saved(place).journal or place / "journal") if (place / "config.yaml").is_file() else place


def status(run: Path) -> list[dict[str, object]]:
    """The stages of a run, whether they are done, and what each said of itself."""
    steps = plan(_saved(run))
    made, needed = _made(steps, Run(run)), _needed(steps)
    rows: list[dict[str, object]] = []
    for name in (name for name in steps.steps if name in needed):
        word = _word(run, name)
        state, said = ("done", tell(made[name].summary)) if name in made else ("begun", _said(word)) if word is not None else ("to do", "")
        rows.append({"stage": name, "state": state, "summary": said})
    return rows


def _word(run: Path, name: str) -> dict[str, Any] | None:
    """What a stage that was begun left in its work folder of how far it is; None if it was not begun."""
    try:
        folders = sorted((run / ".work").glob(f"{name}-{'?' * 12}"), key=lambda folder: folder.stat().st_mtime)
        if not folders:
            return None
        word: dict[str, Any] = json.loads((folders[-1] / PROGRESS).read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return word


def _said(word: dict[str, Any]) -> str:
    if not word:
        return ""
    age = timedelta(seconds=int(time.time() - word["at"]))
    return str(word["line"]) + (f"  (said {age} ago)" if age > timedelta(seconds=5) else "")


def defects(run: Path) -> list[dict[str, object]]:
    """What was wrong with the chains of a run's stages, also of one that is under way: each defect with its number of chains and an example."""
    rows: list[dict[str, object]] = []
    for name in (name for name in plan(_saved(run)).steps if re.fullmatch(r"generate|.*-chains", name)):
        path = run / name / "defects.json"
        found = json.loads(path.read_bytes()) if path.is_file() else (_word(run, name) or {}).get("defects", {})
        for defect, told in sorted(found.items(), key=lambda item: -int(item[1]["chains"])):
            example = f"problem {told['problem']}" + (f": {told['said']}" if told["said"] else "")
            rows.append({"stage": name, "defect": defect, "chains": told["chains"], "what it is": DEFECTS[defect], "example": example})
    return rows


def _made(steps: Plan, run: Run) -> dict[str, Stage]:
    """The stages of a plan that are done in the run, by name."""
    made: dict[str, Stage] = {}
    for name, step in steps.steps.items():
        if made.keys() >= set(step.needs) and (stage := steps.stage(run, name)).done:
            made[name] = stage
    return made


def ask(run: Path, image: Path, question: str, options: tuple[str, ...] = ()) -> Iterator[Delta]:
    """The trained pair's reasoning and answer to one question, as deltas."""
    config, here = _saved(run, "; run `insightv demo` first"), Run(run)
    models = next((models for models in (_row(row, config)[1] for row in reversed(config.systems.rows)) if len(models) == 2), ("reasoner", "summarizer"))
    missing = [name for name in models if not (run / name / "manifest.json").is_file()]
    if missing:
        raise UserError(f"{run} has no trained {' and no '.join(missing)} yet; finish the run first")
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
