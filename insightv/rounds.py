"""DPO as stages (Insight-V, section 3.4): a policy's own chains, what is judged of them, pairs, and the training on them; and what each depends on."""

from functools import partial
from typing import Any, NamedTuple

from insightv.config import Config
from insightv.plan import Plan
from insightv.stages import chains, sets, trainings


class Sampled(NamedTuple):
    """Where a round's chains are."""

    source: str
    """The stage that holds them."""
    judged: str
    """The stage that holds verdicts and scores."""
    split: str
    """Whose problems they answer."""


def sampled(c: Config, t: int) -> Sampled:
    """The chains of round t: of M_t itself, or off-policy the teacher's."""
    if c.dpo.pairs_from == "teacher":
        return Sampled("generate", "assess", "train")
    return Sampled(f"round{t}-chains", f"round{t}-chains-assess", "preference")


def add_round(steps: Plan, c: Config, t: int, policy: str, by_hand: list[str]) -> str:
    """Round t: D_t is made by M_t; returns the name of M_t+1."""
    source, judged, split = sampled(c, t)
    if c.dpo.pairs_from == "policy":
        limit = (c.dpo.problems * (t - 1), c.dpo.problems) if c.dpo.problems else None
        draw = partial(chains.sample, model=policy, split=split, n=c.dpo.n, sampling=c.dpo.sampling, limit=limit)
        steps.add(source, ("problems", policy), draw, [c.dpo.n, limit, c.dpo.server, *drawing(c, c.dpo.sampling)], apart=True)
        steps.add(judged, ("problems", source), partial(chains.assess_chains, source=source, split=split), judging(c))
    data, name = f"round{t}-data", f"dpo{t}"
    pair = partial(sets.build_pairs, source=source, judged=judged, split=split)
    steps.add(data, ("problems", source, judged), pair, [c.preference, c.prompts, c.seed, *by_hand], apart=True)
    add_training(steps, c, name, data, f"round{t}-reference", policy)
    return name


def add_training(steps: Plan, c: Config, name: str, data: str, scores: str, policy: str, like: tuple[str, ...] = ()) -> None:
    """The training of a policy on pairs, with the reference's scores of them before it; with `like`, by as many updates as those models had together."""
    reference = {"previous": policy, "initial": "reasoner", "base": "base"}[c.dpo.reference]
    precise = [c.dpo.dtype, c.dpo.batch_size, c.dpo.max_length]
    scoring = partial(trainings.score_reference, data=data, reference=reference)
    # TRL keeps a reference of its own.
    stored = (scores,) if c.dpo.trainer == "insightv" else ()
    if stored:
        steps.add(scores, tuple(dict.fromkeys(("base", data, reference))), scoring, precise, apart=True)
    training = partial(trainings.train_dpo, data=data, policy=policy, reference=reference, scores=scores if stored else None, like=like)
    # What made the pairs is in the data already: another round, say, leaves the earlier ones as they are.
    made = {"rounds", "n", "problems", "sampling", "server", "server_timeout", "pairs_from"}
    settings = trainings.seeded(c, c.dpo).model_dump(mode="json", exclude=made)
    steps.add(name, tuple(dict.fromkeys(("base", data, policy, reference, *stored, *like))), training, settings, apart=True)


def who(config: Config, *roles: str) -> list[Any]:
    """What names the models behind the roles' endpoints, without their addresses."""
    return [getattr(config.models, role).model_dump(include={"model", "revision", "extra"}) for role in roles]


def judging(config: Config) -> list[Any]:
    """What verdicts and scores depend on."""
    return [config.assess, *who(config, "judge", "scorer"), config.seed]


def drawing(config: Config, sampling: Any) -> list[Any]:
    """What a model of the run says depends on, beside its weights and the problems."""
    return [sampling, config.prompts, config.local.batch_size, config.local.dtype, config.seed]
