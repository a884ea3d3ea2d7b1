"""Named profiles of scoring: one item's mark by a benchmark's own rule (`official`), or as a harness would give it. None ever guesses or asks a model.

`official` is the rule that the benchmark's authors published, in two cases short of it: where that draws an option by chance, or asks a language model,
nothing was read. docs/scoring.md has the source of each rule and what was chosen where there are several.
"""

from insightv.config import UserError
from insightv.evaluation import marking
from insightv.evaluation.marking import Mark, Rule
from insightv.evaluation.scorers.columns import Row
from insightv.evaluation.scorers.received import lmms_received, vlmeval_received

LMMS, VLMEVAL = "lmms-0.7.3", "vlmeval-e8e78f0"


def _received_by_lmms(rule: Rule) -> Rule:
    return lambda reply, row: rule(lmms_received(reply), row)


def _received_by_vlmeval(rule: Rule) -> Rule:
    return lambda reply, row: rule(vlmeval_received(reply), row)


def _stripped(rule: Rule) -> Rule:
    return lambda reply, row: rule(reply.strip(), row)


_OFFICIAL: dict[str, Rule] = {
    "mmmu": marking.mmmu,
    "mmmu-pro": marking.mmmu_pro,
    "mmmu-pro-vision": marking.mmmu_pro,
    "mmbench": marking.mmbench,
    "mme": marking.mme,
    "chartqa": marking.chartqa,
    "mmstar": marking.mmstar,
    "mathvista": marking.mathvista_own,
    "textvqa": marking.textvqa,
    "docvqa": marking.docvqa,
    "ocrbench": marking.ocrbench,
    "ai2d": marking.ai2d,
    "ai2d-no-mask": marking.ai2d,
}
_LMMS: dict[str, Rule] = {
    "mmmu": marking.mmmu_lmms,
    "mmmu-pro": marking.mmmu_pro_lmms,
    "mmmu-pro-vision": marking.mmmu_pro_vision_lmms,
    "mmbench": marking.mmbench_lmms,
    "mme": marking.mme_lmms,
    "chartqa": marking.chartqa_harness,
    "mmstar": marking.mmstar_lmms,
    "mathvista": marking.mathvista_lmms,
    "textvqa": marking.textvqa,
    "docvqa": marking.docvqa,
    "ocrbench": marking.ocrbench_lmms,
}
_VLMEVAL: dict[str, Rule] = {
    "mmmu": marking.mmmu_vlmeval,
    "mmmu-pro": marking.mmmu_vlmeval,
    "mmmu-pro-vision": marking.mmmu_vlmeval,
    "mmbench": marking.choice_vlmeval,
    "mme": marking.mme_vlmeval,
    "chartqa": marking.chartqa_harness,
    "mmstar": marking.choice_vlmeval,
    "mathvista": marking.mathvista_vlmeval,
    "textvqa": marking.textvqa_vlmeval,
    "docvqa": marking.docvqa,
    "ocrbench": marking.ocrbench,
    "ai2d": marking.choice_vlmeval,
    "ai2d-no-mask": marking.choice_vlmeval,
}

PROFILES: dict[str, dict[str, Rule]] = {
    "official": {name: _stripped(rule) for name, rule in _OFFICIAL.items()},
    # AI2D looks at the reply as it came.
    LMMS: {name: _received_by_lmms(rule) for name, rule in _LMMS.items()} | {"ai2d": marking.ai2d_lmms, "ai2d-no-mask": marking.ai2d_lmms},
    VLMEVAL: {name: _received_by_vlmeval(rule) for name, rule in _VLMEVAL.items()},
}
"""By the name that stands beside every number: each benchmark's rule, of a reply as it came and the row of `Problem.meta`."""


def rule(profile: str, benchmark: str) -> Rule:
    """The rule of a benchmark under a profile; an unknown name is a `UserError`."""
    rules = PROFILES.get(profile)
    if rules is None:
        raise UserError(f"no scoring profile {profile!r}; there are {', '.join(PROFILES)}")
    if benchmark not in rules:
        raise UserError(f"no benchmark {benchmark!r}; there are {', '.join(rules)}")
    return rules[benchmark]


def mark(profile: str, benchmark: str, reply: str, row: Row) -> Mark:
    """The mark of a reply to the question of `row`, the source's columns of either layout, lists unfolded."""
    return rule(profile, benchmark)(reply, row)
