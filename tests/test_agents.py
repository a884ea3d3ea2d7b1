"""The pair and the systems beside it, over HTTP: who is shown what, whose answer counts, and what a failure leaves."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web

from insightv.agents import majority, reason, solve, solve_direct, solve_multi_turn, solve_reasoner, solve_single, solve_vote, stream
from insightv.chain_text import parse_chain
from insightv.config import EndpointConfig, PromptsConfig, SamplingConfig, SystemsConfig
from insightv.evaluation.run import score
from insightv.models.chat import Delta, Message, Reply, Sampling
from insightv.models.endpoint import Endpoint
from insightv.prompts import single_completion
from insightv.records import Problem, Solution, Usage
from insightv.store import ImageStore

PROBLEM = Problem(id="p", question="Which colour?", options=("red", "blue"), answers=("B",), answer_type="choice")
CHAIN = "<thoughts>\n### Look\nIt is red.\n### Conclusion\nRed.\nAnswer: A\n</thoughts>"
R = TypeVar("R")
SETTINGS, PROMPTS = SystemsConfig(), PromptsConfig()


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class Model:
    """A server that answers each kind of prompt with a text or an error status, and remembers the bodies."""

    def __init__(self, **replies: str | int) -> None:
        self.replies: dict[str, str | int] = {"reasoner": CHAIN, "summarizer": "B", "direct": "A", "single": single_completion(CHAIN, "B"), "turn": "B"}
        self.replies |= replies
        self.bodies: list[dict[str, Any]] = []

    def kind(self, body: dict[str, Any]) -> str:
        last = text_of(body["messages"][-1])
        marks = {"REASON PROCESS": "summarizer", "Only provide": "reasoner", "then give the answer": "single", "Now give": "turn"}
        return next((kind for mark, kind in marks.items() if mark in last), "direct")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        said = self.replies[self.kind(body)]
        if isinstance(said, int):
            return web.json_response({"error": {"message": "refused"}}, status=said)
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        if not body.get("stream"):
            return web.json_response({"choices": [{"index": 0, "message": {"content": said}, "finish_reason": "stop"}], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for start in range(0, len(said), 7):
            chunk = {"choices": [{"index": 0, "delta": {"content": said[start : start + 7]}, "finish_reason": None}]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())
        return response


def served(model: Model, folder: Path, use: Callable[[Endpoint], Awaitable[R]]) -> R:
    async def go() -> R:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", model.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        config = EndpointConfig(url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1", model="m", revision="1", retries=0)
        chat = Endpoint(config, ImageStore(folder), None)
        try:
            return await use(chat)
        finally:
            await chat.close()
            await runner.cleanup()

    return asyncio.run(go())


def test_the_pair_shows_the_chain_to_the_summary_agent_whose_answer_counts(tmp_path: Path) -> None:
    model = Model()
    solution = score(PROBLEM, served(model, tmp_path, lambda chat: solve(PROBLEM, chat, chat, SETTINGS, PROMPTS, 0)))
    assert [model.kind(body) for body in model.bodies] == ["reasoner", "summarizer"]
    assert CHAIN in text_of(model.bodies[1]["messages"][-1])
    assert (solution.system, solution.answer, solution.correct, solution.text) == ("pair", "B", True, "B")
    assert solution.chain is not None
    assert (solution.chain.answer, solution.usage.prompt) == ("A", 20)


def test_a_chain_that_cannot_be_read_is_passed_on_raw(tmp_path: Path) -> None:
    model = Model(reasoner="mumble {question}")
    solution = score(PROBLEM, served(model, tmp_path, lambda chat: solve(PROBLEM, chat, chat, SETTINGS, PROMPTS, 0)))
    assert "mumble {question}" in text_of(model.bodies[1]["messages"][-1])
    assert (solution.correct, solution.chain and solution.chain.status) == (True, "defect")


SYSTEMS: dict[str, tuple[Callable[[Endpoint], Awaitable[Solution]], str, bool]] = {
    "direct": (lambda chat: solve_direct(PROBLEM, chat, SETTINGS, PROMPTS, 0), "A", False),
    "reasoner": (lambda chat: solve_reasoner(PROBLEM, chat, SETTINGS, PROMPTS, 0), "A", False),
    "single": (lambda chat: solve_single(PROBLEM, chat, SETTINGS, PROMPTS, 0), "B", True),
    "multi-turn": (lambda chat: solve_multi_turn(PROBLEM, chat, SETTINGS, PROMPTS, 0), "B", True),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_takes_its_own_answer(name: str, tmp_path: Path) -> None:
    system, answer, right = SYSTEMS[name]
    solution = score(PROBLEM, served(Model(), tmp_path, system))
    assert (solution.system, solution.answer, solution.correct, solution.status) == (name, answer, right, "ok")
    assert (solution.chain is None) == (name == "direct")


def test_the_second_turn_follows_the_models_own_text(tmp_path: Path) -> None:
    model = Model(reasoner=CHAIN + " ")
    served(model, tmp_path, SYSTEMS["multi-turn"][0])
    assert [(message["role"], text_of(message)) for message in model.bodies[1]["messages"][1:]] == [
        ("assistant", CHAIN + " "),
        ("user", PROMPTS.answer_turn),
    ]


@pytest.mark.parametrize(("name", "refused"), [("direct", "direct"), ("reasoner", "reasoner"), ("single", "single"), ("multi-turn", "turn")])
def test_a_failed_request_is_owed_and_never_wrong(name: str, refused: str, tmp_path: Path) -> None:
    solution = score(PROBLEM, served(Model(**{refused: 400}), tmp_path, SYSTEMS[name][0]))
    assert (solution.status, solution.correct, solution.parsed) == ("failed", None, False)
    assert "400" in solution.reason


@pytest.mark.parametrize("refused", ["reasoner", "summarizer"])
def test_the_pair_fails_where_either_agent_does(refused: str, tmp_path: Path) -> None:
    solution = score(PROBLEM, served(Model(**{refused: 400}), tmp_path, lambda chat: solve(PROBLEM, chat, chat, SETTINGS, PROMPTS, 0)))
    assert (solution.status, solution.correct) == ("failed", None)


def test_an_answer_that_is_none_of_the_options_is_unparsed_and_wrong(tmp_path: Path) -> None:
    solution = score(PROBLEM, served(Model(summarizer="I cannot tell."), tmp_path, lambda chat: solve(PROBLEM, chat, chat, SETTINGS, PROMPTS, 0)))
    assert (solution.answer, solution.parsed, solution.correct, solution.status) == ("", False, False, "ok")


def test_n_chains_have_seeds_of_their_own(tmp_path: Path) -> None:
    model = Model()
    chains = served(model, tmp_path, lambda chat: reason(PROBLEM, chat, SamplingConfig(temperature=1), PROMPTS, 0, n=3))
    assert [chain.index for chain in chains] == [0, 1, 2]
    assert len({body["seed"] for body in model.bodies}) == 3


def test_the_stream_gives_the_chain_then_the_answer_then_the_tokens(tmp_path: Path) -> None:
    async def collect(chat: Endpoint) -> list[Delta]:
        return [delta async for delta in stream(PROBLEM, chat, chat, SETTINGS, PROMPTS, 0)]

    deltas = served(Model(summarizer="Answer: B"), tmp_path, collect)
    kinds = [delta.kind for delta in deltas]
    assert kinds == sorted(kinds, key=["reasoning", "content", "usage"].index)
    reasoning = "".join(delta.text for delta in deltas if delta.kind == "reasoning")
    assert parse_chain(reasoning) == parse_chain(CHAIN)
    assert "".join(delta.text for delta in deltas if delta.kind == "content") == "Answer: B"
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.prompt == 20


@pytest.mark.parametrize(
    ("answers", "place"),
    [(["B", "A", "A"], 1), (["A", "B", "C"], 0), (["", "B", "A", "b", "a"], 1), (["", "", "x"], 2), (["", ""], 0), (["The dog.", "cat", "dog"], 0)],
)
def test_the_majority_is_by_normal_form_and_ties_go_to_the_first(answers: list[str], place: int) -> None:
    assert majority(answers) == place


def voted(tmp_path: Path, replies: list[Reply], asked: list[Sampling], **settings: Any) -> Solution:
    class Model:
        identity = "m"

        async def complete(self, messages: Sequence[Message], sampling: Sampling) -> list[Reply]:
            asked.append(sampling)
            return replies

    model: Any = Model()
    return score(PROBLEM, asyncio.run(solve_vote(PROBLEM, model, SystemsConfig(reasoner=SamplingConfig(max_tokens=77), **settings), PROMPTS, 0)))


def test_a_vote_is_one_request_of_n_and_its_tokens_are_those_of_all(tmp_path: Path) -> None:
    replies = [Reply(single_completion(CHAIN, answer), usage=Usage(completion=tokens)) for answer, tokens in (("A", 1), ("B", 10), ("blue", 100))]
    asked: list[Sampling] = []
    solution = voted(tmp_path, replies, asked, votes=3, vote_temperature=0.4)
    assert (solution.answer, solution.correct, solution.text, solution.usage.completion) == ("B", True, replies[1].text, 111)
    assert solution.chain is not None and solution.chain.index == 1
    assert [(sampling.n, sampling.temperature, sampling.max_tokens) for sampling in asked] == [(3, 0.4, 77)]


def test_replies_that_failed_have_no_vote_and_a_vote_without_any_is_owed(tmp_path: Path) -> None:
    gone = Reply("", finish="failed", error="HTTP 400")
    solution = voted(tmp_path, [gone, gone, Reply(single_completion(CHAIN, "B"))], [])
    assert (solution.answer, solution.status) == ("B", "ok")
    solution = voted(tmp_path, [gone, gone, gone], [])
    assert (solution.status, solution.correct, solution.reason) == ("failed", None, "HTTP 400")
