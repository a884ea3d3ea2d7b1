"""The official client drives the server: plain, streaming, several images, several turns, n, errors."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from benchmarks.agents_stub import CHAIN, Agents, Json, part_of, text_of
from insightv.images import from_data_url, to_data_url

QUESTION = [{"role": "user", "content": "Which colour has the left disc?"}]
INSIDE = CHAIN.removeprefix("<thoughts>\n").removesuffix("</thoughts>")


def image(data: bytes) -> Json:
    return {"type": "image_url", "image_url": {"url": to_data_url(data)}}


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def ask(served: Any, **request: Any) -> Any:
    return served.client.chat.completions.create(**({"model": "insight-v", "messages": QUESTION} | request))


def test_the_chain_is_the_reasoning_and_the_answer_the_content(served: Callable[..., Any], png: bytes) -> None:
    server = served()
    reply = ask(server, messages=[{"role": "user", "content": [image(png), text("Which colour?")]}])
    message = reply.choices[0].message
    assert (message.content, message.reasoning, message.reasoning_content) == ("red", INSIDE, INSIDE)
    assert (reply.choices[0].finish_reason, reply.model, reply.object) == ("stop", "insight-v", "chat.completion")
    usage, tokens = reply.usage, -(-len(CHAIN) // 4)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (200, tokens + 1, 200 + tokens + 1)
    assert (usage.completion_tokens_details.reasoning_tokens, usage.prompt_tokens_details.cached_tokens) == (tokens, 128)
    reasoner, summarizer = server.agents.bodies
    assert part_of(reasoner) == "reasoner" and CHAIN in text_of(summarizer["messages"][-1])
    for body in (reasoner, summarizer):
        [url] = [part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
        assert from_data_url(url) == png


@pytest.mark.parametrize("field", ["both", "reasoning", "reasoning_content"])
def test_a_stream_tells_the_chain_first_then_the_answer(served: Callable[..., Any], field: str) -> None:
    chunks = list(ask(served(reasoning_field=field), stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    told: list[tuple[str, str]] = []
    for chunk in chunks:
        for choice in chunk.choices:
            extra = choice.delta.model_extra or {}
            names = {"reasoning", "reasoning_content"} & set(extra)
            assert not names or names == ({"reasoning", "reasoning_content"} if field == "both" else {field})
            told += [("reasoning", extra[name]) for name in sorted(names)[:1]] + ([("content", choice.delta.content)] if choice.delta.content else [])
    kinds = [kind for kind, _ in told]
    assert kinds == sorted(kinds, reverse=True)
    assert "".join(piece for kind, piece in told if kind == "reasoning") == INSIDE
    assert "".join(piece for kind, piece in told if kind == "content") == "red"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens_details.reasoning_tokens > 0


def test_the_stream_helper_of_the_client(served: Callable[..., Any]) -> None:
    with served().client.chat.completions.stream(model="insight-v", messages=QUESTION) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == "red"


def test_several_images_stand_in_their_places_in_several_turns(served: Callable[..., Any], png: bytes) -> None:
    server, other = served(), png + b"trailing bytes make another digest"
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [text("First "), image(png), text(" and <image> second "), image(other)]},
        {"role": "assistant", "content": "Both are red."},
        {"role": "user", "content": [text("Now "), image(other), text(" against "), image(png), text(" <image>?")]},
    ]
    assert ask(server, messages=messages).choices[0].message.content == "red"
    for body in server.agents.bodies:
        assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
        first, last = body["messages"][1]["content"], body["messages"][3]["content"]
        pictures = [from_data_url(part["image_url"]["url"]) for part in (*first, *last) if part["type"] == "image_url"]
        assert pictures == [png, other, other, png]
        kinds = [part["type"] for part in last]
        assert kinds[-4:] == ["image_url", "text", "image_url", "text"]
    assert server.images._data == {}


def test_n_choices_have_seeds_of_their_own(served: Callable[..., Any]) -> None:
    server = served()
    reply = ask(server, n=3, seed=5, temperature=0.7)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert {choice.message.content for choice in reply.choices} == {"red"}
    seeds = {part: [body["seed"] for body in server.agents.bodies if part_of(body) == part] for part in ("reasoner", "summarizer")}
    assert all(len(set(found)) == 3 for found in seeds.values())
    assert reply.usage.prompt_tokens == 600
    ask(server, n=3, seed=5, temperature=0.7)
    assert sorted(body["seed"] for body in server.agents.bodies[6:]) == sorted(body["seed"] for body in server.agents.bodies[:6])


def test_n_choices_stream_side_by_side(served: Callable[..., Any]) -> None:
    chunks = list(ask(served(Agents(rate=400)), n=2, stream=True))
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["red", "red"]
    order = [choice.index for chunk in chunks for choice in chunk.choices]
    assert order != sorted(order)


def test_budgets_and_temperatures_are_each_agents_own(served: Callable[..., Any]) -> None:
    server = served()
    options = {"reasoning": {"max_tokens": 300, "temperature": 0.9, "top_p": 0.8}}
    ask(server, max_tokens=16, temperature=0.1, stop=["\n"], extra_body=options)
    reasoner, summarizer = server.agents.bodies
    assert [(body["max_tokens"], body["temperature"], body["top_p"]) for body in (reasoner, summarizer)] == [(300, 0.9, 0.8), (16, 0.1, 1.0)]
    assert "stop" not in reasoner and summarizer["stop"] == ["\n"]
    ask(server)
    assert [body["max_tokens"] for body in server.agents.bodies[2:]] == [4096, 512]


def test_a_truncated_chain_leaves_no_tag_in_the_answer(served: Callable[..., Any]) -> None:
    for model in ("insight-v", "insight-v/reasoner"):
        reply = ask(served(Agents({"summarizer": "<output>re<thoughts>d</output>"})), model=model, extra_body={"reasoning": {"max_tokens": 5}})
        assert "<" not in (reply.choices[0].message.content + reply.choices[0].message.reasoning)
    # The reasoner alone has no answer then, and none is made up.
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("", "length")


def test_each_agent_alone(served: Callable[..., Any]) -> None:
    server = served()
    reply = ask(server, model="insight-v/reasoner")
    assert (reply.choices[0].message.content, reply.choices[0].message.reasoning) == ("red", INSIDE)
    reply = ask(server, model="insight-v/summarizer")
    assert (reply.choices[0].message.content, reply.choices[0].message.reasoning) == ("blue", "")
    assert [part_of(body) for body in server.agents.bodies] == ["reasoner", "direct"]


def by_seed(*texts: str) -> Callable[[Json], str]:
    """Each further request's text, by its seed: the same seed the same text."""
    known: dict[int, str] = {}
    return lambda body: known.setdefault(body["seed"], texts[len(known) % len(texts)])


def test_the_best_of_n_is_the_most_frequent_answer(served: Callable[..., Any]) -> None:
    server = served(Agents({"summarizer": by_seed("blue", "Red.", "red")}))
    reply = ask(server, model="insight-v/best-of-3")
    assert reply.choices[0].message.content.lower().startswith("red")
    assert len(server.agents.bodies) == 6 and reply.usage.prompt_tokens == 600


def test_a_judge_may_choose_instead(served: Callable[..., Any]) -> None:
    rating = '{"scores": [{"path": 1, "reason": "", "score": 20}, {"path": 2, "reason": "", "score": 30}, {"path": 3, "reason": "", "score": 10}]}'
    chains = by_seed(*(CHAIN.replace("Compare", f"Compare {name}") for name in "abc"))
    server = served(
        Agents({"rating": rating, "reasoner": chains, "summarizer": lambda body: text_of(body["messages"][-1]).split("Compare ")[1][0]}), judged=True
    )
    reply = ask(server, model="insight-v/best-of-3", extra_body={"select": "judged"})
    asked = text_of(next(body for body in server.agents.bodies if part_of(body) == "rating")["messages"][-1])
    second = asked.split("PATH 2")[1].split("Compare ")[1][0]
    assert reply.choices[0].message.content == second and f"Compare {second}" in reply.choices[0].message.reasoning
    assert "GROUND TRUTH" not in asked


@pytest.mark.parametrize("part", ["reasoner", "summarizer"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_that_fails_is_an_error_and_no_answer(served: Callable[..., Any], part: str, stream: bool) -> None:
    server = served(Agents({part: 500}))
    with pytest.raises(openai.APIError) as caught:
        reply = ask(server, stream=stream)
        list(reply) if stream else None
    told = str(caught.value)
    assert "agent failed" in told and "SECRET" not in told and "127.0.0.1" not in told
    if part == "reasoner" or not stream:
        assert isinstance(caught.value, openai.InternalServerError) and caught.value.status_code == 502
        assert caught.value.request_id and caught.value.request_id.startswith("req-")


def test_a_stream_that_breaks_off_has_no_end(served: Callable[..., Any]) -> None:
    with pytest.raises(openai.APIError, match="agent failed"):
        list(ask(served(Agents(breaks_after=3, rate=200)), stream=True))


def test_a_request_that_takes_too_long_is_a_time_out(served: Callable[..., Any]) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ask(served(Agents(rate=5), timeout=0.3))
    assert caught.value.status_code == 504


TOO_LONG = [
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    "The decoder prompt (length 3000) is longer than the maximum model length of 2048.",
    "The input (5000 tokens) is longer than the model's context length (2048 tokens).",
    "the request exceeds the available context size, try increasing it",
    "`inputs` tokens + `max_new_tokens` must be <= 4096.",
]


@pytest.mark.parametrize("words", TOO_LONG)
@pytest.mark.parametrize("part", ["reasoner", "summarizer"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_that_does_not_fit_is_the_clients_to_shorten(served: Callable[..., Any], part: str, words: str, stream: bool) -> None:
    with pytest.raises(openai.APIError, match="does not fit an agent's context") as caught:
        list(ask(served(Agents({part: (400, words)})), stream=stream))
    assert caught.value.code == "context_length_exceeded"
    assert isinstance(caught.value, openai.BadRequestError) or (stream and part == "summarizer")


def test_models_are_listed_and_found(served: Callable[..., Any]) -> None:
    client = served().client
    names = [model.id for model in client.models.list()]
    assert names == ["insight-v", "insight-v/reasoner", "insight-v/summarizer", "insight-v/best-of-16"]
    assert client.models.retrieve("insight-v/best-of-4").id == "insight-v/best-of-4"
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.models.retrieve("gpt")


BAD = [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "assistant", "content": "hi"}]}, "last message"),
    ({"messages": [{"role": "user", "content": " "}]}, "empty"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "role"),
    ({"temperature": 3}, "temperature"),
    ({"n": 0}, "n:"),
    ({"n": 17}, "16 at most"),
    ({"model": "insight-v/best-of-17"}, "16 at most"),
    ({"max_tokens": 20000}, "16384"),
    ({"extra_body": {"reasoning": {"max_tokens": 20000}}}, "16384"),
    ({"extra_body": {"reasoning": {"effort": "high"}}}, "effort"),
    ({"extra_body": {"select": "judged"}}, "no judge"),
    ({"logprobs": True}, "logprobs"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"stop": [""]}, "stop"),
    ({"seed": 2**70}, "seed"),
]


@pytest.mark.parametrize(("request_", "said"), BAD, ids=[said for _, said in BAD])
def test_a_bad_request_says_what_is_wrong(served: Callable[..., Any], request_: Json, said: str) -> None:
    server = served()
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server, **request_)
    assert said in str(caught.value) and server.agents.bodies == []


def test_an_unknown_model_is_not_found(served: Callable[..., Any]) -> None:
    with pytest.raises(openai.NotFoundError, match="insight-v/reasoner"):
        ask(served(), model="gpt-4o")
