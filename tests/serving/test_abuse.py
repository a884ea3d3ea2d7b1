"""What strangers broke once: floods, loops, odd headers, marks cut in two, a failing choice among many."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from benchmarks.agents_stub import Agents, Json, part_of, text_of
from insightv.serving.tags import TagFilter
from tests.serving.test_api import ask, image, text

ZEROS = "[" + ",".join(["0"] * 300_000) + "]"


@pytest.mark.parametrize("body", [f'{{"model":"insight-v","messages":{ZEROS}}}', f'{{"model":"insight-v","messages":[{{"role":"user","content":{ZEROS}}}]}}'])
def test_a_body_that_is_wrong_everywhere_is_refused_at_its_first_fault(served: Callable[..., Any], body: str) -> None:
    server = served()
    begun = time.monotonic()
    reply = httpx2.post(f"{server.url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400 and "messages.0" in reply.json()["error"]["message"]
    assert time.monotonic() - begun < 2  # all faults together took six seconds and 600 MB


def test_a_model_that_repeats_a_bracket_costs_no_more_than_its_length() -> None:
    one, begun = TagFilter(), time.process_time()
    told = "".join(one.feed("<<<<") for _ in range(16384)) + one.end()
    assert told == "<" * 65536 and time.process_time() - begun < 2  # it was ten minutes


@pytest.mark.parametrize(
    "headers", [{"Host": "[::1"}, {"Host": "[foo]"}, {"Origin": "http://["}, {"Authorization": "Basic \xe9"}, {"Authorization": "Basic !"}], ids=str
)
@pytest.mark.parametrize("key", ["", "clé"])
def test_headers_that_cannot_be_read_are_refused_in_our_form(served: Callable[..., Any], headers: dict[str, str], key: str) -> None:
    given = {name: value.encode("latin-1") for name, value in headers.items()}
    reply = httpx2.get(f"{served(key=key).url}/v1/models", headers=given)
    assert reply.status_code in (400, 401, 403) or (not key and "Authorization" in headers)
    assert reply.headers["x-request-id"] and (reply.is_success or reply.json()["error"]["message"])


def test_a_key_may_have_any_letters(served: Callable[..., Any]) -> None:
    server = served(key="clé")
    for given, status in (("clé".encode(), 200), (b"cle", 401)):
        assert httpx2.get(f"{server.url}/v1/models", headers={"Authorization": b"Bearer " + given}).status_code == status


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:"}]}]}, "messages.0.content.0.image_url"),
        ({"stop": [1]}, "stop.0"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"extra_body": {"reasoning": {"x" * 10_000: 1}}}, None),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
    ],
)
def test_an_error_names_the_field_and_nothing_of_the_inside(served: Callable[..., Any], wrong: Json, place: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(served(), **wrong)
    said: str = caught.value.body["message"]  # type: ignore[index,call-overload]
    assert place is None or caught.value.param == place
    assert len(said) <= 400 and not any(word in said for word in ("function", "0x", "[type="))


@pytest.mark.parametrize(
    ("content", "wanted"),
    [(["IMAGE", "left <ima", "ge> right"], "IMAGEleft < image> right"), (["a <ima", "ge> b ", "IMAGE"], "a < image> b IMAGE")],
)
def test_a_mark_cut_in_two_moves_no_image(served: Callable[..., Any], png: bytes, content: list[str], wanted: str) -> None:
    server = served()
    ask(server, messages=[{"role": "user", "content": [image(png) if part == "IMAGE" else text(part) for part in content]}])
    parts = server.agents.bodies[0]["messages"][-1]["content"]
    assert "".join("IMAGE" if part["type"] == "image_url" else part["text"] for part in parts).startswith(wanted)


def test_without_a_seed_asking_again_is_sampled_anew(served: Callable[..., Any]) -> None:
    server = served()
    for seed in (None, None, 7, 7):
        ask(server, temperature=1, **({} if seed is None else {"seed": seed}))
    first, second, third, fourth = [body["seed"] for body in server.agents.bodies if part_of(body) == "reasoner"]
    assert first != second and third == fourth


@pytest.mark.parametrize("wish", [{"n": 4}, {"model": "insight-v/best-of-4"}])
def test_a_choice_that_fails_ends_the_others(served: Callable[..., Any], wish: Json) -> None:
    """All four write for ten seconds, but one is refused at once: nobody would see the others."""
    asked: list[Json] = []

    def first_fails(body: Json) -> Any:
        asked.append(body)
        return 500 if len(asked) == 1 else "words " * 20

    server, begun = served(Agents({"reasoner": first_fails}, rate=3)), time.monotonic()
    with pytest.raises(openai.InternalServerError):
        ask(server, **wish)
    assert time.monotonic() - begun < 5
    assert not any(part_of(body) == "summarizer" for body in server.agents.bodies)


def test_no_more_requests_than_the_limit_are_let_in_at_once(served: Callable[..., Any]) -> None:
    server = served(Agents(rate=50), max_requests=2)

    def status(_: int) -> int:
        try:
            ask(server)
        except openai.RateLimitError:
            return 429
        return 200

    with ThreadPoolExecutor(10) as pool:
        statuses = sorted(pool.map(status, range(10)))
    assert statuses.count(200) == 2
    told = httpx2.get(f"{server.url}/metrics").text
    assert 'insightv_requests_total{model="insight-v",status="429"} 8.0' in told


def test_a_judge_reads_the_conversation_and_must_rate(served: Callable[..., Any]) -> None:
    agents = Agents({"rating": '{"scores": [{"path": 1, "score": 5, "reason": "r"}, {"path": 2, "score": 90, "reason": "r"}]}', "reasoner": "plain words"})
    server = served(agents, judged=True)
    turns = [{"role": "user", "content": "Mind the SHADOW."}, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Which?"}]
    ask(server, model="insight-v/best-of-2", messages=turns, extra_body={"select": "judged"})
    [rating] = [body for body in agents.bodies if part_of(body) == "rating"]
    shown = "\n".join(text_of(message) for message in rating["messages"])
    assert "SHADOW" in shown and shown.count("plain words") == 2
    agents.replies["rating"] = "I like both."
    with pytest.raises(openai.InternalServerError):
        ask(server, model="insight-v/best-of-2", extra_body={"select": "judged"})


def test_a_chain_that_a_server_takes_for_thinking_reaches_the_summary_agent(served: Callable[..., Any]) -> None:
    server = served(Agents({"reasoner": "<think>It is red."}))
    assert ask(server).choices[0].message.reasoning == "It is red."
    assert "It is red." in text_of(server.agents.bodies[-1]["messages"][-1])
