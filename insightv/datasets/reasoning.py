"""Reasoning set (Insight-V, section 3.3): the best path of each problem, and the rows of the models it is compared with."""

from collections.abc import Callable, Iterator, Sequence

from insightv.config import PromptsConfig, ReasoningDataConfig
from insightv.datasets.rows import Candidate, Made, Rated, Rejection, Row, row
from insightv.models.chat import Message, text_message
from insightv.prompts import answer_turn_messages, direct_messages, reasoner_messages, render_chain, single_completion, single_messages
from insightv.records import Problem
from insightv.store import derive_seed

Form = Callable[[Candidate, PromptsConfig], Row]
"""Makes a row of a best path."""


def build(rated: Rated, settings: ReasoningDataConfig, prompts: PromptsConfig, form: Form, *, seed: int) -> Iterator[Made]:
    """Problem by problem, rows of the best correct paths, and a rejection with its reason for every other chain, or for a problem out of the share."""
    for problem, candidates in rated:
        if not shared(problem.id, settings.share, seed):
            yield [], [{"problem_id": problem.id, "reason": "out_of_share"}]
            continue
        picks, rejections = select(problem, candidates, settings)
        yield [form(pick, prompts) for pick in picks], rejections


def shared(problem_id: str, share: float, seed: int) -> bool:
    """Whether a problem is in this share of all; one that is in a small share is in every larger one too."""
    return share == 1 or derive_seed(seed, "share", problem_id) < share * 2**31


def select(problem: Problem, candidates: Sequence[Candidate], settings: ReasoningDataConfig) -> tuple[list[Candidate], list[Rejection]]:
    """The best `per_problem` correct paths of a problem with at least `min_score`, and why the others were not taken."""
    picks: list[Candidate] = []
    rejections: list[Rejection] = []
    usable = []
    for candidate in candidates:
        if reason := unusable(candidate, settings.min_score):
            rejections.append(candidate.reject(reason, candidate.fault))
        else:
            usable.append(candidate)
    if not usable:
        rejections.append({"problem_id": problem.id, "reason": "no_usable_chain" if candidates else "no_chain"})
    usable.sort(key=lambda candidate: (-(candidate.value or 0), candidate.chain.index, candidate.chain.id))
    taken: set[str] = set()
    for candidate in usable:
        text = render_chain(candidate.chain)
        if text in taken:
            rejections.append(candidate.reject("duplicate_text"))
        elif len(taken) == settings.per_problem:
            rejections.append(candidate.reject("not_best"))
        else:
            taken.add(text)
            picks.append(candidate)
    return picks, rejections


def unusable(candidate: Candidate, min_score: int) -> str:
    """Why a chain cannot be shown as a good one: the name of a reason, empty if it can."""
    if candidate.chain.status != "ok":
        return candidate.chain.status
    if candidate.correct is None:
        return "not_judged"
    if not candidate.correct:
        return "wrong_answer"
    if candidate.value is None:
        return "not_scored"
    return "score_below_minimum" if candidate.value < min_score else ""


def reasoning_row(pick: Candidate, prompts: PromptsConfig) -> Row:
    """Reasoning agent: question -> chain."""
    return _row("reasoning", pick, reasoner_messages(pick.problem, prompts), _said(render_chain(pick.chain)))


def single_row(pick: Candidate, prompts: PromptsConfig) -> Row:
    """Control, one model for both: question -> chain and, between output tags, the answer."""
    return _row("single", pick, single_messages(pick.problem, prompts), _said(single_completion(render_chain(pick.chain), pick.problem.answers[0])))


def multi_turn_row(pick: Candidate, prompts: PromptsConfig) -> Row:
    """Control, one model over two turns: question -> chain, request for the answer -> answer.

    The completion is the three turns from the first chain on; the loss belongs to its assistant turns alone.
    """
    prompt = reasoner_messages(pick.problem, prompts)
    whole = answer_turn_messages(pick.problem, render_chain(pick.chain), prompts)
    return _row("multi_turn", pick, prompt, [*whole[len(prompt) :], *_said(pick.problem.answers[0])])


def plain_row(problem: Problem, prompts: PromptsConfig) -> Row:
    """Direct QA without reasoning: question -> first accepted answer."""
    return row("plain", problem, direct_messages(problem, prompts), {"completion": _said(problem.answers[0])}, {})


def _row(part: str, pick: Candidate, prompt: Sequence[Message], completion: Sequence[Message]) -> Row:
    return row(part, pick.problem, prompt, {"completion": completion}, {"chain": pick})


def _said(text: str) -> list[Message]:
    return [text_message("assistant", text)]
