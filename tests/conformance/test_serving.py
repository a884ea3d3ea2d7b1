"""The pair in front of a real model server that holds both agents as adapters on one base: see test_server.py for the command."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import openai
import PIL.Image
import pytest
import yaml

from benchmarks.served import command
from insightv import agents
from insightv.config import LocalConfig, PromptsConfig, SamplingConfig, SystemsConfig
from insightv.images import encode_png, to_data_url
from insightv.models.pair import open_agents
from insightv.models.serve import served
from insightv.records import Problem
from insightv.serving.tags import Cleaner
from insightv.store import ImageStore, derive_seed

SERVER = os.environ.get("CONFORMANCE_SERVER", "")
BUDGETS = {"max_tokens": 8, "extra_body": {"reasoning": {"max_tokens": 24}}}
COLOURS = ("red", "blue", "white")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SERVER, reason="CONFORMANCE_SERVER holds no command")]


@contextmanager
def front(folder: Path, url: str) -> Iterator[openai.OpenAI]:
    """`insightv serve CONFIG` before the server, and the official client of it."""
    config = folder / "pair.yaml"
    config.write_text(yaml.safe_dump({"serve": {name: {"endpoint": {"url": url, "model": name}} for name in ("reasoner", "summarizer")}}))
    with command("serve", config) as (found, _):
        yield openai.OpenAI(base_url=f"{found}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def client(trained: Path, adapted: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    modules = " ".join(f"{name}={folder}" for name, folder in adapted.items())
    scratch = tmp_path_factory.mktemp("server")
    with (
        served(f"{SERVER} --enable-lora --max-lora-rank 8 --lora-modules {modules}", trained, None, 300, scratch) as endpoint,
        front(scratch, endpoint.url) as found,
    ):
        yield found


def picture(colour: str) -> bytes:
    return encode_png(PIL.Image.new("RGB", (56, 56), colour))


def question(*colours: str) -> Any:
    parts = [{"type": "image_url", "image_url": {"url": to_data_url(picture(colour))}} for colour in colours]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "what colour is the square?"}]}]


def bare(text: str) -> str:
    """Without the first bytes of a letter that a limit cut: some keep them back, some show that they are no letter."""
    return text.rstrip("\ufffd")


def test_the_pair_says_what_both_agents_say_in_one_process(client: openai.OpenAI, trained: Path, adapted: dict[str, Path], tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    settings = SystemsConfig(reasoner=SamplingConfig(max_tokens=24), answer=SamplingConfig(max_tokens=8))

    async def here(colour: str) -> dict[str, str]:
        problem = Problem(id="p", question="what colour is the square?", images=(store.add(picture(colour)),), answers=("?",))
        pair = open_agents([(trained, adapted["reasoner"]), (trained, adapted["summarizer"])], store, LocalConfig())
        texts, cleaner = {"reasoning": "", "content": ""}, Cleaner()
        async with aclosing(agents.stream(problem, pair[0], pair[1], settings, PromptsConfig(), derive_seed(0, 0))) as deltas:
            async for delta in deltas:
                for clean in cleaner.clean(delta):
                    if clean.kind != "usage":
                        texts[clean.kind] += clean.text
        await pair[0].close()
        return texts

    for colour in COLOURS:
        message: Any = client.chat.completions.create(model="insight-v", messages=question(colour), **BUDGETS).choices[0].message
        expected = asyncio.run(here(colour))
        assert bare(message.reasoning) == bare(expected["reasoning"])
        # A chain that was cut within a letter reads otherwise to the summary agent.
        if message.reasoning == expected["reasoning"]:
            assert bare(message.content) == bare(expected["content"])


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    whole: Any = client.chat.completions.create(model="insight-v", messages=question("red", "blue"), **BUDGETS)
    reasoning = content = ""
    for chunk in client.chat.completions.create(model="insight-v", messages=question("red", "blue"), stream=True, **BUDGETS):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += (choice.delta.model_extra or {}).get("reasoning") or ""
            assert not (content and (choice.delta.model_extra or {}).get("reasoning"))
    assert (reasoning, content) == (whole.choices[0].message.reasoning, whole.choices[0].message.content)
    assert whole.usage.completion_tokens_details.reasoning_tokens == 24


def test_samples_of_one_question_share_their_prompt_in_the_servers_cache(client: openai.OpenAI) -> None:
    client.chat.completions.create(model="insight-v", messages=question("green"), **BUDGETS)
    reply = client.chat.completions.create(model="insight-v", messages=question("green"), n=4, temperature=1.0, seed=1, **BUDGETS)
    assert reply.usage and reply.usage.prompt_tokens_details
    cached = reply.usage.prompt_tokens_details.cached_tokens or 0
    print(f"\n{cached} of {reply.usage.prompt_tokens} prompt tokens of 4 chains and 4 answers came from the cache")
    assert cached > 0
    assert len({getattr(choice.message, "reasoning", "") for choice in reply.choices}) > 1
    again = client.chat.completions.create(model="insight-v", messages=question("green"), n=4, temperature=1.0, seed=1, **BUDGETS)
    assert [choice.message for choice in again.choices] == [choice.message for choice in reply.choices]
