"""The paper on one page: which stages there are, and what each is made from.

problems -> chains -> assessment -> data -> two agents -> T x (sample from M_t -> assess -> pairs -> DPO -> M_t+1) -> evaluation
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

from insightv import corrections
from insightv.config import Config, UserError
from insightv.datasets import reasoning
from insightv.plan import Plan
from insightv.stages import chains, evaluation, sets, start, trainings
from insightv.stages.context import SHIPPED_BASE

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
    "train": r"reasoner|summarizer|single|single-fair|multi-turn|round\d+-reference|dpo\d+",
    "evaluate": r"evaluate-.*",
}
"""Verb of the command line -> the stages that it asks for; what these need is made too."""


def plan(config: Config, corrected: int | None = None) -> Plan:
    """All stages that the configured rows need, by name: the whole method; with the corrections by hand up to `corrected`, else all (`corrections.end`)."""
    c, steps = config, Plan(config, corrections.read(config.run, corrected))
    by_hand = corrections.digest(steps.by_hand)
    add = steps.add
    checked = [c.decontaminate, *([name, path] for name, path in c.benchmarks.items())] if c.benchmarks and c.decontaminate else []
    files = [path for _, path in c.problems if path] + _benchmark_files(c) * bool(checked)
    add("problems", (), start.make_problems, [c.world, c.problems, c.seed, *checked], outside=files)
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
        add(name, rated, partial(sets.build_reasoning, form=form), [c.reasoning, c.prompts, *by_hand], apart=True)
        add(model, ("base", name), partial(trainings.train_sft, data=name, settings=settings), settings, apart=True)

    policy = "reasoner"
    for t in range(1, c.dpo.rounds + 1):
        policy = _dpo_round(steps, c, t, policy, by_hand)

    author, own = (policy, "dpo-chains") if c.summary.own_chains == "dpo" else ("reasoner", "own-chains")
    drawn = c.summary.own_sampling or c.systems.reasoner
    draw = partial(chains.sample, model=author, split="own", n=c.summary.own_n, sampling=drawn)
    add(own, ("problems", author), draw, [c.summary.own_n, c.dpo.server, *_drawing(c, drawn)], apart=True)
    add(f"{own}-assess", ("problems", own), partial(chains.assess_chains, source=own, split="own", score=False), _judging(c))
    add("summary-data", (*rated, own, f"{own}-assess"), partial(sets.build_summary, own=own), [c.summary, c.prompts, c.seed, *by_hand], apart=True)
    judge, fair = trainings.seeded(c, c.summarizer), trainings.seeded(c, c.single)
    add("summarizer", ("base", "summary-data"), partial(trainings.train_sft, data="summary-data", settings=judge), judge, apart=True)

    add("single-fair-data", (*rated, "summary-data"), sets.build_fair, [c.reasoning, c.prompts, *by_hand], apart=True)
    like = ("reasoner", "summarizer")
    add("single-fair", ("base", "single-fair-data", *like), partial(trainings.train_sft, data="single-fair-data", settings=fair, like=like), fair, apart=True)

    for row in c.systems.rows:
        solver, models = row_of(row, c)
        decoding = [c.systems.reasoner, c.systems.splits, *_drawing(c, c.systems.answer)]
        add(f"evaluate-{row}", ("problems", *models), partial(evaluation.evaluate_row, solver=solver, models=models, row=row), decoding, apart=True)
    return steps


def needed(steps: Plan) -> set[str]:
    """The stages behind the configured rows and the report; a plan holds others too."""
    return steps.closure({name for name in steps.steps if re.fullmatch(r"evaluate-.*|truth", name)})


def _benchmark_files(config: Config) -> list[Path]:
    """The files behind the configured benchmarks; those from the hub are taken to stay as they are."""
    paths = [path for path in config.benchmarks.values() if path]
    return [file for path in paths for file in (sorted(path.rglob("[!.]*")) if path.is_dir() else [path])]


def _base_files(config: Config) -> list[Path]:
    """The files of the base's folder, of which its identity is made; none where the base is trained here, or the folder is missing."""
    if config.models.base is None and config.world and config.world.retrain_base:
        return []
    folder = config.models.base or SHIPPED_BASE
    return sorted(path for path in folder.glob("[!.]*") if path.is_file())


def _dpo_round(steps: Plan, c: Config, t: int, policy: str, by_hand: list[str]) -> str:
    """Round t (Insight-V, section 3.4): D_t comes from M_t itself, or off-policy from the teacher; returns the name of M_t+1."""
    source, judged, split = "generate", "assess", "train"
    if c.dpo.pairs_from == "policy":
        source, judged, split = f"round{t}-chains", f"round{t}-chains-assess", "preference"
        limit = (c.dpo.problems * (t - 1), c.dpo.problems) if c.dpo.problems else None
        draw = partial(chains.sample, model=policy, split=split, n=c.dpo.n, sampling=c.dpo.sampling, limit=limit)
        steps.add(source, ("problems", policy), draw, [c.dpo.n, limit, c.dpo.server, *_drawing(c, c.dpo.sampling)], apart=True)
        steps.add(judged, ("problems", source), partial(chains.assess_chains, source=source, split=split), _judging(c))
    data, scores, name = f"round{t}-data", f"round{t}-reference", f"dpo{t}"
    pair = partial(sets.build_pairs, source=source, judged=judged, split=split)
    steps.add(data, ("problems", source, judged), pair, [c.preference, c.prompts, c.seed, *by_hand], apart=True)
    reference = {"previous": policy, "initial": "reasoner", "base": "base"}[c.dpo.reference]
    precise = [c.dpo.dtype, c.dpo.batch_size, c.dpo.max_length]
    scoring = partial(trainings.score_reference, data=data, reference=reference)
    # TRL keeps a reference of its own.
    stored = (scores,) if c.dpo.trainer == "insightv" else ()
    if stored:
        steps.add(scores, tuple(dict.fromkeys(("base", data, reference))), scoring, precise, apart=True)
    training = partial(trainings.train_dpo, data=data, policy=policy, reference=reference, scores=scores if stored else None)
    # What made the pairs is in the data already: another round, say, leaves the earlier ones as they are.
    made = {"rounds", "n", "problems", "sampling", "server", "server_timeout", "pairs_from"}
    settings = trainings.seeded(c, c.dpo).model_dump(mode="json", exclude=made)
    steps.add(name, tuple(dict.fromkeys(("base", data, policy, reference, *stored))), training, settings, apart=True)
    return name


def row_of(row: str, config: Config, setting: str = "systems.rows") -> tuple[str, tuple[str, ...]]:
    """How a row of the table solves a problem, and its models; a row that there is not is a `UserError` about the setting."""
    if row in ROWS:
        return ROWS[row]
    if match := re.fullmatch(r"pair\+dpo(\d*)", row):
        t = int(match[1] or config.dpo.rounds)
        if 1 <= t <= config.dpo.rounds:
            return "solve", (f"dpo{t}", "summarizer")
        raise UserError(f"{setting}: {row} needs dpo.rounds to be at least {max(t, 1)}, it is {config.dpo.rounds}")
    raise UserError(f"{setting}: no row {row!r}; there are {', '.join(ROWS)}, pair+dpo and pair+dpo1, pair+dpo2 ..")


def _who(config: Config, *roles: str) -> list[Any]:
    """What names the models behind the roles' endpoints, without their addresses."""
    return [getattr(config.models, role).model_dump(include={"model", "revision", "extra"}) for role in roles]


def _judging(config: Config) -> list[Any]:
    return [config.assess, *_who(config, "judge", "scorer"), config.seed]


def _drawing(config: Config, sampling: Any) -> list[Any]:
    return [sampling, config.prompts, config.local.batch_size, config.local.dtype, config.seed]
