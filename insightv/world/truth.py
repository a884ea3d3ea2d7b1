"""Hold reasoning against the scene: is every step right, does it follow, does it concern what was asked, is anything missing?"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from insightv.answers import correct, extract
from insightv.records import Chain, Problem, Step
from insightv.world.claims import Claim, answerable, go_on, is_thin, item_of, read_claims, result_of
from insightv.world.questions import Question, Trace, beside, combine, parse, reason, running_word
from insightv.world.scenes import Scene, from_json

Fault = Literal["", "perception", "selection", "arithmetic", "format", "transcription"]

_SUBJECTS = {"at": 2, "row": 2, "column": 1, "bar": 1, "named": 1, "shows": 1, "holds": 1, "locate": 1}
"""Kinds that state facts -> how many of their first arguments say what the fact is about."""


def check_steps(steps: Sequence[Step], question: Question, scene: Scene) -> list[Fault]:
    """For each step of a chain "" or what is wrong with it: facts must be true of the scene, inferences follow from what earlier steps said,
    and all of it concern what was asked."""
    if not answerable(question, scene):
        return ["format"] * len(steps)
    trace = reason(question, scene)
    known = {claim for step in (*_trace_steps(trace), Step(summary="", reasoning=trace.conclusion)) for claim in read_claims(step)}
    faults: list[Fault] = []
    for place, step in enumerate(steps):
        claims = read_claims(step)
        found = [_fault(claim, claims, steps[:place], question, scene, known) for claim in claims] or ["format"]
        faults.append(next((fault for fault in found if fault), ""))
    return faults


def missing_steps(steps: Sequence[Step], question: Question, scene: Scene) -> int:
    """How many steps of the reasoning that the question asks for the chain has not, whatever is wrong with those it has."""
    needed = Counter(_kind(step) for step in _trace_steps(reason(question, scene))) - Counter(["locate"])
    return (needed - Counter(map(_kind, steps))).total()


def chain_truth(problem: Problem, chain: Chain) -> tuple[float, bool]:
    """(share of the chain's steps that are right, whether the chain is: every step right, none missing and the answer right)."""
    question, scene = _asked(problem)
    faults = check_steps(chain.steps, question, scene)
    share = faults.count("") / max(1, len(faults))
    return share, share == 1 and not missing_steps(chain.steps, question, scene) and _answer_right(problem, chain)


def error_type(problem: Problem, chain: Chain) -> str:
    """The first thing wrong with a chain: perception, selection, arithmetic, format, transcription, or none."""
    question, scene = _asked(problem)
    faults = [fault for fault in check_steps(chain.steps, question, scene) if fault]
    if faults:
        return faults[0]
    if not chain.steps or not extract(chain.answer, problem):
        return "format"
    if missing_steps(chain.steps, question, scene):
        return "selection"
    return "none" if _answer_right(problem, chain) else "transcription"


def _fault(claim: Claim, claims: Sequence[Claim], before: Sequence[Step], question: Question, scene: Scene, known: set[Claim]) -> Fault:
    """What is wrong with a claim among those of its step, after the steps before."""
    if claim.kind == "go":
        if not any(other.kind == "go" and other.args[0] == claim.args[0] for other in known):
            return "selection"
        move, start, end = claim.args
        if end != beside(start, move):
            return "arithmetic"
        return "" if _premise_stands(claim, before, question, scene) else "transcription"
    if claim.kind in ("result", "best"):
        return _result_fault(claim, claims, before, question, known)
    if claim in known:
        return ""
    alike = any(c.kind == claim.kind and _subject(c) == _subject(claim) for c in known)
    return "perception" if alike or claim.kind not in _SUBJECTS else "selection"


def _result_fault(claim: Claim, claims: Sequence[Claim], before: Sequence[Step], question: Question, known: set[Claim]) -> Fault:
    word = running_word(question)
    if claim.args[0] != word:
        return "selection"
    if is_thin(claims):
        return "" if claim in known else "arithmetic"
    item, result = item_of(claims, word), _running_result(before, word)
    if not item or not result:
        return "selection"
    return "" if combine(word, result, item) == " ".join(claim.args[1:]) else "arithmetic"


def _running_result(steps: Sequence[Step], word: str) -> str:
    """The result that the next step takes up: the last one said, else the first item read; empty if there is neither."""
    read = [read_claims(step) for step in steps]
    first = "0" if word == "total" else next((item for claims in read if (item := item_of(claims, word))), "")
    return next((result for claims in reversed(read) if (result := result_of(claims, word))), first)


def _premise_stands(claim: Claim, before: Sequence[Step], question: Question, scene: Scene) -> bool:
    """Whether a move starts where somebody who believes the steps before would start it."""
    return any(other.args[:2] == claim.args[:2] for step in _trace_steps(go_on(question, scene, before)) for other in read_claims(step) if other.kind == "go")


def _subject(claim: Claim) -> tuple[str, ...]:
    return claim.args[: _SUBJECTS.get(claim.kind, len(claim.args))]


def _kind(step: Step) -> str:
    """What a step does: the kind of its last claim, which is the running result where it has one."""
    claims = read_claims(step)
    return claims[-1].kind if claims else ""


def _trace_steps(trace: Trace) -> list[Step]:
    return [Step(summary=title, reasoning=text) for title, text in trace.steps]


def _asked(problem: Problem) -> tuple[Question, Scene]:
    question = parse(problem.question)
    if question is None or "scene" not in problem.meta:
        raise ValueError(f"problem {problem.id} is not one of the tiny world: its chains have no known truth")
    return question, from_json(problem.meta["scene"])


def _answer_right(problem: Problem, chain: Chain) -> bool:
    return correct(extract(chain.answer, problem), problem) is True
