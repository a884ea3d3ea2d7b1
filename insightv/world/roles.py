"""What the simulated teacher says as generator, judge and scorer, and when asked directly: it errs as often as its dials say."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from insightv.answers import correct, extract
from insightv.chain_text import parse_chain
from insightv.config import TeacherDials
from insightv.prompts import CONCLUDE, GENERATOR, JUDGE, SCORER, UNUSABLE
from insightv.records import AnswerType, Problem, Step
from insightv.store import derive_seed
from insightv.world.claims import answerable, believe, go_on, is_thin, read_claims
from insightv.world.questions import Question, Trace, answer_space, parse
from insightv.world.scenes import Scene
from insightv.world.slips import misread, slip, spoil, thin
from insightv.world.truth import check_steps, missing_steps

UNKNOWN = "I cannot tell."
_OPTION = re.compile(r"^([A-Z])\. (.+)$", re.MULTILINE)
_PATH = re.compile(r"^PATH \d+\n(<thoughts>\n.*?\n</thoughts>)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as the teacher sees it."""

    digest: str
    scene: Scene
    contrast: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a request: who speaks, the text, and the pictures in it."""

    role: str
    text: str
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as a request shows it."""

    question: Question | None
    """None if it is no question of this world, or not about such a picture."""
    options: dict[str, str]
    picture: Picture | None


def reply(turns: Sequence[Turn], seed: int, temperature: float, dials: TeacherDials) -> str:
    """The teacher's reply to a conversation, a pure function of its arguments."""
    rng = Random(seed)
    instruction = turns[0].text.lstrip()
    if instruction.startswith(JUDGE):
        value = _judge(turns[-1].text, rng, dials)
    elif instruction.startswith(SCORER):
        value = _score(turns, rng, dials)
    elif instruction.startswith(GENERATOR):
        value = _generate(turns, rng, temperature, dials)
    else:
        return _direct(_asked(turns), rng)
    text = json.dumps(value, ensure_ascii=False)
    spoilt = temperature > 0 and UNUSABLE not in turns[-1].text and rng.random() < dials.malformed
    return spoil(text, value, rng) if spoilt else text


def _asked(turns: Sequence[Turn]) -> Asked:
    """The question of the first user turn, whose first paragraph holds it with its options."""
    first = next((turn for turn in turns if turn.role == "user"), turns[-1])
    shown = first.text.strip().split("\n\n")[0]
    picture = next((picture for turn in turns for picture in turn.pictures), None)
    question = parse(shown)
    fits = question is not None and picture is not None and answerable(question, picture.scene)
    return Asked(question if fits else None, dict(_OPTION.findall(shown)), picture)


def _answer(trace: Trace, asked: Asked, rng: Random) -> str:
    """The trace's answer, the text of an option where there are options; a guess where it has none or no option has it."""
    options = sorted(asked.options.values())
    if options and trace.answer not in options:
        return rng.choice(options)
    return trace.answer or (rng.choice(answer_space(asked.question)) if asked.question else UNKNOWN)


def _direct(asked: Asked, rng: Random) -> str:
    return _answer(go_on(asked.question, asked.picture.scene, ()), asked, rng) if asked.question and asked.picture else UNKNOWN


def _generate(turns: Sequence[Turn], rng: Random, temperature: float, dials: TeacherDials) -> dict[str, Any]:
    asked = _asked(turns)
    said = [step for turn in turns if turn.role == "assistant" if (step := _read_step(turn.text))]
    concluding = turns[-1].text.split("\n\n" + UNUSABLE)[0].endswith(CONCLUDE)
    if not asked.question or not asked.picture:
        return {"summary": UNKNOWN, "answer": _answer(Trace(), asked, rng)} if concluding else _step("Look at the picture", UNKNOWN, True)
    if concluding:
        trace = go_on(asked.question, asked.picture.scene, said)
        answer = _answer(trace, asked, rng)
        wordy = temperature > 0 and not asked.options and rng.random() < dials.wordy_answer
        return {"summary": trace.conclusion or UNKNOWN, "answer": f"I see {answer} here" if wordy else answer}
    if temperature == 0:
        # A greedy teacher misreads a picture the same way however often it is asked, and does not slip otherwise.
        rng = Random(derive_seed(asked.picture.digest, asked.question.text, len(said)))
        dials = TeacherDials(misperception=dials.misperception, arithmetic=0, skipped_step=0, thin_detail=0, malformed=0, repetition=0)
    if said and UNUSABLE not in turns[-1].text and rng.random() < dials.repetition:
        return _step(said[-1].summary, said[-1].reasoning, False)
    return _next_step(asked.question, asked.picture, said, rng, dials)


def _next_step(question: Question, picture: Picture, said: Sequence[Step], rng: Random, dials: TeacherDials) -> dict[str, Any]:
    """The step after those said, which stand as they are: what is new in it is read from the picture and may be misread."""
    scene = believe(picture.scene, said)
    trace = go_on(question, scene, said)
    place, skipped = _progress(trace, said)
    if place >= len(trace.steps):
        return _step("Check the result", trace.conclusion or UNKNOWN, True)
    # Spread so that a chain leaves out one step with the dial's probability, and every step with the same; never the last.
    optional = len(trace.steps) - 1
    if place < optional and not skipped and rng.random() < dials.skipped_step / (optional - dials.skipped_step * place):
        place += 1
    risk = _risk(picture, dials)
    for claim in read_claims(Step(summary=trace.steps[place][0], reasoning=trace.steps[place][1])):
        scene = misread(scene, claim, risk, rng)
    misled = go_on(question, scene, said)
    # A misreading that contradicts what was said, such as a second thing of the kind looked for, can leave nothing to say.
    trace = misled if place < len(misled.steps) else trace
    title, text = trace.steps[place]
    text = slip(text, rng) if rng.random() < dials.arithmetic else text
    text = thin(text) if rng.random() < dials.thin_detail else text
    return _step(title, text, place == len(trace.steps) - 1)


def _progress(trace: Trace, said: Sequence[Step]) -> tuple[int, bool]:
    """(place of the next step in the trace, whether one before it was left out)."""
    place, matched = 0, 0
    titles = [title.casefold() for title, _ in trace.steps]
    for step in said:
        if step.summary.casefold() in titles[place:]:
            place = titles.index(step.summary.casefold(), place) + 1
            matched += 1
    return place, matched < place


def _judge(text: str, rng: Random, dials: TeacherDials) -> dict[str, Any]:
    case = _read_json(text.split("\n\n" + UNUSABLE)[0])
    options, truths, answer = case.get("options") or [], case.get("ground_truth") or [], str(case.get("answer", ""))
    right = _agrees(answer, tuple(map(str, truths)), tuple(map(str, options)))
    if rng.random() < dials.wrong_verdict:
        right = not right
    return {"reason": f"The answer {'agrees' if right else 'does not agree'} with the ground truth.", "verdict": "correct" if right else "incorrect"}


def _score(turns: Sequence[Turn], rng: Random, dials: TeacherDials) -> dict[str, Any]:
    asked = _asked(turns)
    text = turns[-1].text
    truth = re.search(r"^GROUND TRUTH: (.*)$", text, re.MULTILINE)
    accepted = truth[1].split(". ")[0] if truth and asked.options else truth[1] if truth else ""
    if not truth:
        asked, accepted = _look(asked, rng, dials)
    entries = []
    for number, path in enumerate(_PATH.findall(text), start=1):
        quality, why = _quality(path, asked, accepted)
        score = min(100, max(1, round(quality + rng.gauss(0, dials.score_noise))))
        entries.append({"path": number, "reason": why, "score": score})
    if entries and UNUSABLE not in text and rng.random() < dials.missing_score:
        entries.pop(rng.randrange(len(entries)))
    return {"scores": entries}


def _look(asked: Asked, rng: Random, dials: TeacherDials) -> tuple[Asked, str]:
    """What a scorer that is told no truth goes by: the picture as it reads it itself, misread as often as when it reasons, and its own answer."""
    if not asked.question or not asked.picture:
        return asked, ""
    scene, risk = asked.picture.scene, _risk(asked.picture, dials)
    for title, text in go_on(asked.question, scene, ()).steps:
        for claim in read_claims(Step(summary=title, reasoning=text)):
            scene = misread(scene, claim, risk, rng)
    seen = replace(asked, picture=replace(asked.picture, scene=scene))
    return seen, _answer(go_on(asked.question, scene, ()), seen, rng)


def _risk(picture: Picture, dials: TeacherDials) -> float:
    """Probability that a fact of the picture is misread."""
    return min(1.0, dials.misperception * (1 + 3 * (1 - picture.contrast)))


def _quality(path: str, asked: Asked, accepted: str) -> tuple[float, str]:
    """A path's score before noise, and why: by the share of steps that agree with the picture, detail and the answer."""
    steps, _, answer, _ = parse_chain(path)
    right = _agrees(answer, (accepted,), tuple(asked.options.values()))
    if not steps or not asked.question or not asked.picture:
        return 30.0 if right else 10.0, "The path cannot be followed."
    faults = check_steps(steps, asked.question, asked.picture.scene)
    missing = missing_steps(steps, asked.question, asked.picture.scene)
    short = sum(is_thin(read_claims(step)) for step in steps)
    value = (30 + 65 * faults.count("") / len(steps) - 12 * missing - 8 * short) * (1 if right else 0.5)
    wrong = [f"step {place} is wrong" for place, fault in enumerate(faults, start=1) if fault]
    remarks = [*wrong, *["steps are missing"] * (missing > 0), *["detail is missing"] * (short > 0), *["the answer is wrong"] * (not right)]
    return value, ("; ".join(remarks) or "every step agrees with the picture").capitalize() + "."


def _agrees(answer: str, truths: tuple[str, ...], options: tuple[str, ...]) -> bool:
    kind: AnswerType = "choice" if options else "number" if all(truth.isdigit() for truth in truths) else "text"
    problem = Problem(id="", question="", options=options, answers=truths, answer_type=kind)
    named = not options and not set(truths).isdisjoint(re.findall(r"\w+", answer))
    return named or correct(extract(answer, problem) or answer, problem) is True


def _step(title: str, text: str, last: bool) -> dict[str, Any]:
    return {"summary": title, "reasoning": text, "action": "summary" if last else "continue"}


def _read_step(text: str) -> Step | None:
    value = _read_json(text)
    return Step(summary=str(value["summary"]), reasoning=str(value["reasoning"])) if "summary" in value and "reasoning" in value else None


def _read_json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
