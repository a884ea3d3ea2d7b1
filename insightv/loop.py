"""The paper on one page: which stages there are, and what each is made from.

problems -> chains -> assessment -> data -> two agents -> T x (sample from M_t -> assess -> pairs -> DPO -> M_t+1) -> evaluation
"""

import re
from functools import partial
from pathlib import Path

from insightv import corrections
from insightv.config import Config, UserError
from insightv.controls import RATED, add_after_dpo, add_controls, add_own, best
from insightv.datasets import reasoning
from insightv.plan import Plan
from insightv.rounds import add_round, drawing, judging, who
from insightv.stages import chains, evaluation, sets, start, trainings
from insightv.stages.context import SHIPPED_BASE

ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "base": ("solve_direct", ("base",)),
    "base-reasoned": ("solve_single", ("base",)),
    "plain": ("solve_direct", ("plain",)),
    "single": ("solve_single", ("single",)),
    "single-fair": ("solve_single", ("single-fair",)),
    "single-fair-vote": ("solve_vote", ("single-fair",)),
    "multi-turn": ("solve_multi_turn", ("multi-turn",)),
    "two-roles": ("solve", ("two-roles", "two-roles")),
    "summarizer": ("solve_direct", ("summarizer",)),
    "reasoner": ("solve_reasoner", ("reasoner",)),
    "pair": ("solve", ("reasoner", "summarizer")),
    "pair-shuffled": ("solve_shuffled", ("reasoner", "summarizer")),
    "pair-blind": ("solve_blind", ("reasoner", "summarizer")),
    "pair-high": ("solve", ("reasoner", "summarizer-high")),
}
"""Row of the table -> how it solves a problem, and its models. `pair+dpoT` is the pair after T rounds, `pair+dpo` after the last."""

DPO_ROWS: dict[str, tuple[str, str]] = {
    "pair+rlaif": ("rlaif", "summarizer"),
    "pair+rft": ("rft", "summarizer"),
    "pair+dpo-pooled": ("dpo-pooled", "summarizer"),
}
"""Rows that stand on DPO's rounds -> their reasoner and summary agent. `pair+dpo-refreshed` has a summary agent made after the last of them."""

FROM_REASONER = frozenset(reasoner for reasoner, _ in DPO_ROWS.values())
"""Their reasoners, all of which go on from the one after SFT."""

VERBS = {
    "problems": r"problems",
    "base": r"base",
    "generate": r"filter|generate",
    "assess": r"assess|truth",
    "build": r".*-data",
    "train": r"reasoner|summarizer(-high|-refreshed)?|single|single-fair|multi-turn|plain|two-roles|rft"
    r"|(round\d+|rlaif|dpo-pooled)-reference|dpo\d+|rlaif|dpo-pooled",
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
        add("filter", ("problems",), chains.choose, [c.filter, c.prompts.direct, c.assess, *who(c, "generator", "judge"), c.seed])
        chosen = ("problems", "filter")
    add("generate", chosen, chains.generate, [c.generate, who(c, "generator"), c.seed])
    add("assess", ("problems", "generate"), partial(chains.assess_chains, source="generate", split="train"), judging(c))
    if c.world:
        add("truth", ("problems", "generate", "assess"), partial(chains.measure_truth, source="generate", judged="assess", split="train"), [])

    for name, model, form in (
        ("reasoning-data", "reasoner", reasoning.reasoning_row),
        ("single-data", "single", reasoning.single_row),
        ("multi-turn-data", "multi-turn", reasoning.multi_turn_row),
    ):
        settings = trainings.shared(c, trainings.seeded(c, c.reasoner if model == "reasoner" else c.single))
        add(name, RATED, partial(sets.build_reasoning, form=form), [*best(c), c.prompts, *by_hand], apart=True)
        add(model, ("base", name), partial(trainings.train_sft, data=name, settings=settings), settings, apart=True)

    policy = "reasoner"
    for t in range(1, c.dpo.rounds + 1):
        policy = add_round(steps, c, t, policy, by_hand)

    author, own = (policy, "dpo-chains") if c.summary.own_chains == "dpo" else ("reasoner", "own-chains")
    add_own(steps, c, author, own)
    add("summary-data", (*RATED, own, f"{own}-assess"), partial(sets.build_summary, own=own), [c.summary, c.prompts, c.seed, *by_hand], apart=True)
    judge = trainings.seeded(c, c.summarizer)
    add("summarizer", ("base", "summary-data"), partial(trainings.train_sft, data="summary-data", settings=judge), judge, apart=True)
    add_controls(steps, c, by_hand)
    add_after_dpo(steps, c, by_hand)

    for row in c.systems.rows:
        solver, models = row_of(row, c)
        votes = [c.systems.votes, c.systems.vote_temperature] if solver == "solve_vote" else []
        decoding = [c.systems.reasoner, c.systems.splits, *drawing(c, c.systems.answer), *votes]
        needs = ("problems", *dict.fromkeys(models))
        add(f"evaluate-{row}", needs, partial(evaluation.evaluate_row, solver=solver, models=models, row=row), decoding, apart=True)
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


def row_of(row: str, config: Config, setting: str = "systems.rows") -> tuple[str, tuple[str, ...]]:
    """How a row of the table solves a problem, and its models; a row that there is not is a `UserError` about the setting."""
    if row in ROWS:
        return ROWS[row]
    rounds = config.dpo.rounds
    match = re.fullmatch(r"pair\+dpo(\d*)", row)
    if not (match or row in DPO_ROWS or row == "pair+dpo-refreshed"):
        raise UserError(f"{setting}: no row {row!r}; there are {', '.join([*ROWS, *DPO_ROWS])}, pair+dpo-refreshed, pair+dpo and pair+dpo1, pair+dpo2 ..")
    t = int(match[1] or rounds) if match else 1
    if not 1 <= t <= rounds:
        raise UserError(f"{setting}: {row} needs dpo.rounds to be at least {max(t, 1)}, it is {rounds}")
    if match:
        return "solve", (f"dpo{t}", "summarizer")
    if row in DPO_ROWS:
        return "solve", DPO_ROWS[row]
    if config.summary.own_chains == "dpo":
        raise UserError(f"{setting}: with summary.own_chains: dpo the summary agent of every row is made after DPO, so take {row} out, or set it to sft")
    return "solve", (f"dpo{rounds}", "summarizer-refreshed")


def is_method(row: str) -> bool:
    """Whether a row is the method itself, after however many rounds of DPO; the others are what it is held against."""
    return re.fullmatch(r"pair(\+dpo\d*)?", row) is not None
