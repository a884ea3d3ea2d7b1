"""Hold reasoning against the scene: is every step right, does it follow, does it concern what was asked, is anything missing?"""

from collections.abc import Sequence
from typing import Literal

from insightv.answers import correct, extract
from insightv.records import Chain, Problem, Step
from insightv.world.claims import Claim, answerable, go_on, group_of, read_claims
from insightv.world.questions import MOVES, Question, Trace, parse, reason
from insightv.world.scenes import CELLS, COLUMN_NAMES, Scene, from_json

Fault = Literal["", "perception", "selection", "arithmetic", "format", "transcription"]

_INFERENCES = ("go", "makes", "best", "sum")
"""Kinds that conclude from what was said."""
_SHORT = {"found in all": "row", "makes in all": "makes", "sum in all": "sum", "best in all": "best"}
"""Kinds that give a result without its detail -> the kind that gives both."""
_SUBJECTS = {"at": 2, "row": 1, "column": 1, "reaches": 1, "bar": 1, "named": 1, "colour reaches": 1, "shows": 1, "holds": 1, "locate": 1}
"""Kinds that state facts -> how many of their first arguments say what the fact is about."""


def check_step(step: Step, question: Question, scene: Scene) -> bool:
    """Whether a step is right by itself: facts true of the scene, inferences right in themselves, and all of it about what is asked."""
    return not step_fault(step, question, scene)


def check_steps(steps: Sequence[Step], question: Question, scene: Scene) -> list[Fault]:
    """For each step of a chain "" or what is wrong with it; beyond `step_fault`, an inference must start from what earlier steps said."""
    faults: list[Fault] = []
    for place, step in enumerate(steps):
        fault = step_fault(step, question, scene)
        if not fault:
            expected = [(group_of(s), _premise(c)) for s in _trace_steps(go_on(question, scene, steps[:place])) for c in read_claims(s)]
            said = [_premise(c) for c in read_claims(step) if c.kind in _INFERENCES]
            fault = "" if all(any(p == other and group_of(step) in ("", group) for group, other in expected) for p in said) else "transcription"
        faults.append(fault)
    return faults


def missing_steps(steps: Sequence[Step], question: Question, scene: Scene) -> int:
    """How many steps of the reasoning that the question asks for the chain has not, whatever is wrong with those it has."""
    needed = [_key(step) for step in _trace_steps(reason(question, scene)) if _key(step)[0] != "locate"]
    for step in steps:
        kind, group = _key(step)
        fitting = [key for key in needed if key[0] == kind and group in ("", key[1])]
        if fitting:
            needed.remove(fitting[0])
    return len(needed)


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


def step_fault(step: Step, question: Question, scene: Scene) -> Fault:
    """What is wrong with a step by itself, "" if nothing: `format` where it claims nothing that can be held against the scene."""
    claims = read_claims(step)
    if not claims or not answerable(question, scene):
        return "format"
    groups = _groups(step, question)
    if not groups:
        return "selection"
    trace = reason(question, scene)
    return min((_fault(claims, _truths(trace, group)) for group in groups), key=len)


def _fault(claims: tuple[Claim, ...], truths: list[tuple[Claim, ...]]) -> Fault:
    known = {claim for step in truths for claim in step}
    for claim in claims:
        if claim.kind in _INFERENCES:
            if not any(_asks_alike(claim, other) for other in known):
                return "selection"
            if not _right_in_itself(claim):
                return "arithmetic"
        elif claim.kind in _SHORT:
            if int(claim.args[-1]) not in _values(_SHORT[claim.kind], truths):
                return "perception" if claim.kind == "found in all" else "arithmetic"
        elif claim not in known:
            alike = [c for c in known if c.kind == claim.kind and _subject(c) == _subject(claim)]
            return "perception" if alike or claim.kind not in _SUBJECTS else "selection"
    whole = [{_subject(c) for c in step} for step in truths if {c.kind for c in step} & {c.kind for c in claims} & set(_SUBJECTS)]
    return "selection" if whole and {_subject(c) for c in claims} not in whole else ""


def _right_in_itself(claim: Claim) -> bool:
    args = claim.args
    if claim.kind == "go":
        dx, dy = MOVES[args[0]]
        column, row = COLUMN_NAMES.index(args[1][0]) + dx, int(args[1][1]) + dy
        return column in range(len(COLUMN_NAMES)) and args[2] == f"{COLUMN_NAMES[column]}{row}" and args[2] in CELLS
    if claim.kind == "makes":
        return int(args[1]) == len(_listed(args[0]))
    if claim.kind == "best":
        values = [int(v) for v in args[1].split(", ")]
        return int(args[2]) == (max(values) if args[0] in ("highest", "largest") else min(values))
    return int(args[3]) == (int(args[0]) + int(args[2]) if args[1] == "plus" else int(args[0]) - int(args[2]))


def _asks_alike(claim: Claim, other: Claim) -> bool:
    """Whether two inferences do the same kind of thing: move the same way, look for the same extreme, add or subtract."""
    word = {"go": 0, "best": 0, "sum": 1}.get(claim.kind)
    return claim.kind == other.kind and (word is None or claim.args[word] == other.args[word])


def _values(kind: str, truths: list[tuple[Claim, ...]]) -> list[int]:
    if kind == "row":
        return [sum(len(_listed(c.args[1])) for c in step) for step in truths if step and step[0].kind == "row"]
    return [int(claim.args[-1]) for step in truths for claim in step if claim.kind == kind]


def _listed(cells: str) -> list[str]:
    return [] if cells == "none" else cells.split(", ")


def _subject(claim: Claim) -> tuple[str, ...]:
    return (claim.kind, *claim.args[: _SUBJECTS.get(claim.kind, len(claim.args))])


def _premise(claim: Claim) -> tuple[str, ...]:
    """What an inference starts from: the claim without its result."""
    return (claim.kind, *claim.args[:-1])


def _groups(step: Step, question: Question) -> list[str]:
    """Sets that a step may be about: its title's if that was asked about, all that were if the title names none."""
    if question.family != "count":
        return [""]
    named = group_of(step)
    return [named] * (named in question.args) if named else list(question.args)


def _truths(trace: Trace, group: str) -> list[tuple[Claim, ...]]:
    """The claims of each step of a true reasoning and of its conclusion; of searches and counts only those about the set."""
    steps = [step for step in _trace_steps(trace) if not group or group_of(step) in ("", group)]
    return [read_claims(step) for step in (*steps, Step(summary="", reasoning=trace.conclusion))]


def _key(step: Step) -> tuple[str, str]:
    """What a step does: the kind of its first claim and the set that its title names."""
    claims = read_claims(step)
    return (_SHORT.get(claims[0].kind, claims[0].kind) if claims else "", group_of(step))


def _trace_steps(trace: Trace) -> list[Step]:
    return [Step(summary=title, reasoning=text) for title, text in trace.steps]


def _asked(problem: Problem) -> tuple[Question, Scene]:
    question = parse(problem.question)
    if question is None or "scene" not in problem.meta:
        raise ValueError(f"problem {problem.id} is not one of the tiny world: its chains have no known truth")
    return question, from_json(problem.meta["scene"])


def _answer_right(problem: Problem, chain: Chain) -> bool:
    return correct(extract(chain.answer, problem), problem) is True
