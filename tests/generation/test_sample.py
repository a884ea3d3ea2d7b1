"""Chains from a scripted teacher over HTTP: retries with the error said, limits, repetition, failures, and single completions."""

import asyncio
import json
from typing import Any

import pytest

from insightv.config import GenerateConfig, PromptsConfig, SamplingConfig
from insightv.generation.sample import paths, progressive, single
from insightv.models.chat import EndpointDown, Halted, Message, Reply, Sampling
from insightv.prompts import CONCLUDE, NEXT_STEP, UNUSABLE, parse_chain, render_chain
from insightv.records import Chain, Problem
from insightv.store import derive_seed

PROBLEM = Problem(id="p", question="How many?", answers=("2",), answer_type="number")


def step(reasoning: str, action: str = "continue") -> str:
    return json.dumps({"summary": "S", "reasoning": reasoning, "action": action})


CONCLUSION = json.dumps({"summary": "so", "answer": "2"})


def last_turn(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class Teacher:
    """Says these replies in turn and remembers what it was asked."""

    def __init__(self, *replies: str | int) -> None:
        self.replies, self.turns, self.seeds = list(replies), [], []
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, body: dict[str, Any]) -> str | int:
        self.bodies.append(body)
        self.turns.append(last_turn(body))
        self.seeds.append(body["seed"])
        return self.replies.pop(0)


def path(scripted: Any, teacher: Teacher, settings: GenerateConfig | None = None, index: int = 0) -> Chain:
    async def go() -> Chain:
        async with scripted(teacher) as chat:
            return await progressive(PROBLEM, chat, settings or GenerateConfig(), seed=1, index=index)

    return asyncio.run(go())


def test_steps_follow_until_the_action_is_summary(scripted: Any) -> None:
    teacher = Teacher(step("a"), step("b", "summary"), CONCLUSION)
    chain = path(scripted, teacher)
    assert (chain.status, chain.defects, chain.answer, chain.conclusion) == ("ok", (), "2", "so")
    assert [(s.reasoning, s.action) for s in chain.steps] == [("a", "continue"), ("b", "summary")]
    assert [turn.endswith(NEXT_STEP) for turn in teacher.turns[:2]] == [True, True]
    assert teacher.turns[2] == CONCLUDE
    assert chain.usage.prompt == 30
    assert parse_chain(render_chain(chain))[:3] == (chain.steps, "so", "2")


def test_identity_and_seeds_depend_on_the_index_alone(scripted: Any) -> None:
    def replies() -> Teacher:
        return Teacher(step("a"), step("b", "summary"), CONCLUSION)

    first, again, other = replies(), replies(), replies()
    ids = [path(scripted, first).id, path(scripted, again, GenerateConfig(n=7)).id, path(scripted, other, index=1).id]
    assert ids[0] == ids[1] != ids[2]
    assert first.seeds == again.seeds
    assert not set(first.seeds) & set(other.seeds)


def test_a_malformed_step_is_asked_for_again_with_its_error(scripted: Any) -> None:
    teacher = Teacher("I think", step("a"), step("b", "summary"), "2", CONCLUSION)
    chain = path(scripted, teacher)
    assert (chain.status, chain.defects) == ("ok", ("retried",))
    assert UNUSABLE in teacher.turns[1]
    assert "no JSON object in the reply" in teacher.turns[1]
    assert UNUSABLE not in teacher.turns[2]
    assert UNUSABLE in teacher.turns[4]
    assert len(set(teacher.seeds)) == 5


def test_a_step_that_stays_malformed_ends_the_chain_as_defect(scripted: Any) -> None:
    chain = path(scripted, Teacher(step("a"), "no", "{", '{"summary": 1}'), GenerateConfig(step_tries=3))
    assert chain.status == "defect"
    assert chain.defects == ("wrong_type", "missing_key", "retried")
    assert len(chain.steps) == 1


def test_a_cut_step_is_truncated(scripted: Any) -> None:
    chain = path(scripted, Teacher(step("a") + "<cut>"), GenerateConfig(step_tries=1))
    assert (chain.status, chain.steps) == ("defect", ())
    assert "truncated" in chain.defects


def test_a_repeated_step_is_asked_for_again_then_given_up(scripted: Any) -> None:
    mended = path(scripted, Teacher(step("I see two."), step("I  SEE two"), step("b", "summary"), CONCLUSION))
    assert (mended.status, mended.defects, len(mended.steps)) == ("ok", ("retried",), 2)
    stuck = path(scripted, Teacher(step("a"), step("a"), step("a")), GenerateConfig(step_tries=2))
    assert (stuck.status, stuck.defects) == ("defect", ("repeated_step", "retried"))


def test_the_step_limits_hold(scripted: Any) -> None:
    early = path(scripted, Teacher(step("a", "summary"), step("b", "summary"), CONCLUSION))
    assert (early.status, early.defects, [s.action for s in early.steps]) == ("ok", ("early_summary",), ["continue", "summary"])
    late = path(scripted, Teacher(step("a"), step("b"), step("c"), CONCLUSION), GenerateConfig(max_steps=3))
    assert (late.status, late.defects, [s.action for s in late.steps]) == ("ok", ("step_limit",), ["continue", "continue", "summary"])


def test_no_conclusion_leaves_a_defect_without_answer(scripted: Any) -> None:
    chain = path(scripted, Teacher(step("a"), step("b", "summary"), '{"summary": "s"}', "x"), GenerateConfig(step_tries=2))
    assert (chain.status, chain.answer) == ("defect", "")
    assert "no_answer" in chain.defects


def test_a_request_that_failed_for_good_fails_the_chain(scripted: Any) -> None:
    chain = path(scripted, Teacher(step("a"), 400))
    assert (chain.status, chain.defects) == ("failed", ("request_failed",))
    assert "400" in chain.reason
    assert len(chain.steps) == 1


def completions(scripted: Any, *replies: str | int) -> list[Chain]:
    async def go() -> list[Chain]:
        by_seed: dict[int, str | int] = {}
        waiting = list(replies)
        async with scripted(lambda body: by_seed.setdefault(body["seed"], waiting.pop(0))) as chat:
            return await single(PROBLEM, chat, SamplingConfig(temperature=1.0), PromptsConfig(), seed=1, n=len(replies))

    return asyncio.run(go())


GOOD = "<thoughts>\n### S\na\n### T\nb\n### Conclusion\nso\nAnswer: 2\n</thoughts>"


def test_single_completions_keep_their_raw_text(scripted: Any) -> None:
    chains = completions(scripted, GOOD, GOOD, GOOD)
    assert [chain.index for chain in chains] == [0, 1, 2]
    assert len({chain.id for chain in chains}) == 3
    assert {(chain.status, chain.text, chain.answer, chain.mode) for chain in chains} == {("ok", GOOD, "2", "single")}


def test_single_completions_name_what_is_wrong(scripted: Any) -> None:
    loop = GOOD.replace("b\n", "one two three four five six seven eight " * 5 + "\n")
    expected = {
        GOOD.removesuffix("</thoughts>") + "<cut>": ("defect", ("truncated",)),
        GOOD.replace("### T\nb\n", "### s\nA.\n"): ("defect", ("repeated_step",)),
        loop: ("defect", ("repetition",)),
        GOOD + " bye": ("ok", ("trailing_text",)),
        400: ("failed", ("request_failed",)),
    }
    for reply, wanted in expected.items():
        [chain] = completions(scripted, reply)
        assert (chain.status, chain.defects) == wanted


def test_a_single_completion_keeps_how_it_ended(scripted: Any) -> None:
    # One that lacks its end tag was not cut for that: the model may have ended its turn there.
    for reply, finish in {GOOD: "stop", GOOD.removesuffix("</thoughts>"): "stop", GOOD.removesuffix("</thoughts>") + "<cut>": "length"}.items():
        [chain] = completions(scripted, reply)
        assert chain.finish == finish


class Recorder:
    """A chat that takes a moment for every reply, remembers when each path asked for which step, and may fail the first path."""

    identity = "recorder@1"

    def __init__(self, failure: Exception | None = None, broken: bool = False) -> None:
        self.events: list[tuple[str, int, int]] = []
        self.failure, self.broken = failure, broken

    async def complete(self, messages: list[Message], sampling: Sampling) -> list[Reply]:
        index = next(index for index in range(4) for draw in (0, 1, "conclusion") if derive_seed(1, PROBLEM.id, index, draw, 0) == sampling.seed)
        at = sum(message.role == "assistant" for message in messages)
        self.events.append(("asked", index, at))
        await asyncio.sleep(0.01)
        self.events.append(("answered", index, at))
        if index == 0 and self.failure:
            raise self.failure
        if index == 0 and self.broken:
            return [Reply("", finish="failed", error="HTTP 400")]
        return [Reply((step("a"), step("b", "summary"), CONCLUSION)[at])]


def opening(recorder: Recorder) -> list[tuple[str, int]]:
    """What happened at the first steps, in order."""
    return [(event, index) for event, index, at in recorder.events if at == 0]


@pytest.mark.parametrize("n", [1, 4])
def test_with_a_lead_the_others_begin_when_the_first_path_has_its_first_step(n: int) -> None:
    recorder = Recorder()
    chains = asyncio.run(paths(PROBLEM, recorder, GenerateConfig(n=n), seed=1))
    assert [(chain.index, chain.status, len(chain.steps)) for chain in chains] == [(index, "ok", 2) for index in range(n)]
    assert opening(recorder)[:2] == [("asked", 0), ("answered", 0)]
    assert sorted(opening(recorder)[2 : n + 1]) == [("asked", index) for index in range(1, n)]
    # They do not wait for each other, nor for the first path's second step.
    assert n == 1 or recorder.events.index(("asked", n - 1, 0)) < recorder.events.index(("answered", 0, 1))


def test_without_a_lead_all_begin_at_once_and_give_the_same_chains() -> None:
    alone, led = Recorder(), Recorder()
    chains = asyncio.run(paths(PROBLEM, alone, GenerateConfig(n=4, lead=False), seed=1))
    assert opening(alone)[:4] == [("asked", index) for index in range(4)]
    assert chains == asyncio.run(paths(PROBLEM, led, GenerateConfig(n=4), seed=1))


@pytest.mark.parametrize("failure", [Halted("stopped"), EndpointDown("gone"), KeyError("bug")])
def test_an_error_of_the_lead_keeps_nobody_waiting_and_is_raised_when_all_have_ended(failure: Exception) -> None:
    recorder = Recorder(failure)

    async def go() -> None:
        with pytest.raises(type(failure)):
            await asyncio.wait_for(paths(PROBLEM, recorder, GenerateConfig(n=3), seed=1), 5)

    asyncio.run(go())
    assert [event for event in recorder.events if event[:2] == ("answered", 2)] == [("answered", 2, step) for step in range(3)]


def test_a_lead_whose_request_failed_for_good_keeps_nobody_waiting() -> None:
    chains = asyncio.run(paths(PROBLEM, Recorder(broken=True), GenerateConfig(n=3), seed=1))
    assert [chain.status for chain in chains] == ["failed", "ok", "ok"]
