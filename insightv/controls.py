"""The stages of the models that the method is held against: each changes one thing and leaves the rest, updates included, as it is."""

from functools import partial

from insightv.config import Config, TrainConfig
from insightv.plan import Plan
from insightv.rounds import add_training, drawing, judging, sampled, who
from insightv.stages import chains, sets, trainings

RATED = ("problems", "generate", "assess")
"""The teacher's chains with their judgements."""


def add_controls(steps: Plan, c: Config, by_hand: list[str]) -> None:
    """Of the agents after SFT: base and chains on their labels as plain QA, one model in both roles, and a summary agent that saw nothing flawed."""
    add, both = steps.add, ("reasoner", "summarizer")
    judge, fair = trainings.seeded(c, c.summarizer), trainings.seeded(c, c.single)

    def train(name: str, data: str, settings: TrainConfig, like: tuple[str, ...]) -> None:
        add(name, ("base", data, *like), partial(trainings.train_sft, data=data, settings=settings, like=like), settings, apart=True)

    add("single-fair-data", (*RATED, "summary-data"), sets.build_fair, [*best(c), c.prompts, *by_hand], apart=True)
    train("single-fair", "single-fair-data", fair, both)
    add("plain-data", ("problems", "summary-data"), sets.build_plain, [c.prompts.direct], apart=True)
    train("plain", "plain-data", judge, ("summarizer",))
    parts = ("reasoning-data", "summary-data")
    add("two-roles-data", parts, partial(sets.build_joined, sources=parts), [], apart=True)
    train("two-roles", "two-roles-data", fair, both)
    shares = c.summary.model_dump(mode="json", include={"optimal", "flawed", "own", "plain", "high"})
    high = partial(sets.build_high, like="summary-data")
    add("summary-high-data", (*RATED, "summary-data"), high, [shares, c.prompts, c.seed, *by_hand], apart=True)
    train("summarizer-high", "summary-high-data", judge, ("summarizer",))


def add_own(steps: Plan, c: Config, author: str, own: str) -> None:
    """The own chains of a reasoner, for its summary agent, and the verdicts on them."""
    drawn = c.summary.own_sampling or c.systems.reasoner
    draw = partial(chains.sample, model=author, split="own", n=c.summary.own_n, sampling=drawn)
    steps.add(own, ("problems", author), draw, [c.summary.own_n, c.dpo.server, *drawing(c, drawn)], apart=True)
    steps.add(f"{own}-assess", ("problems", own), partial(chains.assess_chains, source=own, split="own", score=False), judging(c))


def add_after_dpo(steps: Plan, c: Config, by_hand: list[str]) -> None:
    """Of DPO: pairs by ratings alone, its chosen chains only imitated, the pairs of all rounds in one, and a summary agent made after it."""
    if not c.dpo.rounds:
        return
    _add_rlaif(steps, c, by_hand)
    imitate = TrainConfig(**{name: getattr(c.dpo, name) for name in TrainConfig.model_fields})
    imitate = trainings.seeded(c, imitate)
    steps.add("rft-data", ("round1-data",), partial(sets.build_chosen, source="round1-data"), [], apart=True)
    sft = partial(trainings.train_sft, data="rft-data", settings=imitate, like=("dpo1",), start="reasoner")
    steps.add("rft", ("base", "rft-data", "reasoner", "dpo1"), sft, imitate, apart=True)
    rounds = range(1, c.dpo.rounds + 1)
    data = tuple(f"round{t}-data" for t in rounds)
    steps.add("dpo-pooled-data", data, partial(sets.build_joined, sources=data), [], apart=True)
    add_training(steps, c, "dpo-pooled", "dpo-pooled-data", "dpo-pooled-reference", "reasoner", like=tuple(f"dpo{t}" for t in rounds))
    if c.summary.own_chains == "sft":
        _add_refreshed(steps, c, by_hand)


def best(c: Config) -> list[object]:
    """What the choice of the best paths depends on."""
    values = c.reasoning.model_dump(mode="json")
    share = values.pop("share")
    return [values] if share == 1 else [values, share, c.seed]


def _add_rlaif(steps: Plan, c: Config, by_hand: list[str]) -> None:
    source, _, split = sampled(c, 1)
    rating, data = f"{source}-rating", "rlaif-data"
    rate = partial(chains.assess_chains, source=source, split=split, told=False)
    asked = c.assess.model_dump(mode="json", include={"scorer_sampling", "tries", "shuffles", "paths_per_request"})
    steps.add(rating, ("problems", source), rate, [asked, *who(c, "scorer"), c.seed])
    pair = partial(sets.build_pairs, source=source, judged=rating, split=split, like="round1-data")
    settings = c.preference.model_dump(mode="json", exclude={"rules", "max_pairs"})
    steps.add(data, ("problems", source, rating, "round1-data"), pair, [settings, c.prompts, c.seed, *by_hand], apart=True)
    add_training(steps, c, "rlaif", data, "rlaif-reference", "reasoner", like=("dpo1",))


def _add_refreshed(steps: Plan, c: Config, by_hand: list[str]) -> None:
    data, name, like = "summary-refreshed-data", "summarizer-refreshed", ("summarizer",)
    add_own(steps, c, f"dpo{c.dpo.rounds}", "dpo-chains")
    shares = c.summary.model_dump(mode="json", exclude={"size", "own_chains", "own_n", "own_sampling"})
    build = partial(sets.build_summary, own="dpo-chains", like="summary-data")
    steps.add(data, (*RATED, "dpo-chains", "dpo-chains-assess", "summary-data"), build, [shares, c.prompts, c.seed, *by_hand], apart=True)
    settings = trainings.seeded(c, c.summarizer)
    steps.add(name, ("base", data, *like), partial(trainings.train_sft, data=data, settings=settings, like=like), settings, apart=True)
