"""The simulated teacher, over real HTTP: the protocol, its three roles, each dial at nothing and at everything, determinism, its own process."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from insightv.config import AssessConfig, EndpointConfig, GenerateConfig, SamplingConfig, TeacherDials
from insightv.generation.assess import scores
from insightv.generation.sample import progressive
from insightv.images import to_data_url
from insightv.models.chat import Image, Message, Text
from insightv.models.endpoint import Endpoint
from insightv.prompts import JUDGE_INSTRUCTION, generator_messages, judge_messages, parse_scores, parse_step, parse_verdict, rating_messages, scorer_messages
from insightv.records import Chain, Problem, Step
from insightv.store import ImageStore
from insightv.world.problems import make_split
from insightv.world.questions import parse, reason, search_row
from insightv.world.scenes import from_json
from insightv.world.teacher import listening, serve
from insightv.world.truth import chain_truth

FLAWLESS = TeacherDials(**dict.fromkeys(TeacherDials.model_fields, 0.0))
COMPLETIONS = "/chat/completions"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def problems(images: ImageStore) -> list[Problem]:
    return list(make_split(images, "train", 54, seed=2, difficulty=0.3))


def dials(**changes: float) -> TeacherDials:
    return FLAWLESS.model_copy(update=changes)


def gold(problem: Problem, answer: str | None = None) -> Chain:
    question = parse(problem.question)
    assert question
    trace = reason(question, from_json(problem.meta["scene"]))
    steps = tuple(Step(summary=title, reasoning=text) for title, text in trace.steps)
    chosen = problem.answers[0] if answer is None else answer
    return Chain(id=f"gold {chosen}", problem_id=problem.id, model="m", mode="single", index=0, steps=steps, conclusion=trace.conclusion, answer=chosen)


def asking(settings: TeacherDials, images: ImageStore, work: Callable[[Endpoint], Awaitable[Any]]) -> Any:
    """Do some work with the project's own client against a teacher."""

    async def main() -> Any:
        async with listening(settings) as url:
            endpoint = Endpoint(EndpointConfig(url=url, retries=4), images, None)
            try:
                return await work(endpoint)
            finally:
                await endpoint.close()

    return asyncio.run(main())


def chains(settings: TeacherDials, images: ImageStore, problems: list[Problem], temperature: float = 0.7, seed: int = 0) -> list[Chain]:
    config = GenerateConfig(sampling=SamplingConfig(temperature=temperature, max_tokens=256))

    async def work(endpoint: Endpoint) -> list[Chain]:
        return list(await asyncio.gather(*(progressive(problem, endpoint, config, seed=seed, index=0) for problem in problems)))

    return list(asking(settings, images, work))


def post(settings: TeacherDials, *bodies: Any) -> list[tuple[int, Any]]:
    """Post bodies as they are, one after another, with a plain client; a reset connection has status 0."""

    async def main() -> list[tuple[int, Any]]:
        replies: list[tuple[int, Any]] = []
        async with listening(settings) as url, aiohttp.ClientSession() as session:
            for body in bodies:
                try:
                    async with session.post(url + COMPLETIONS, data=body if isinstance(body, bytes) else json.dumps(body).encode()) as response:
                        replies.append((response.status, await response.json()))
                except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
                    replies.append((0, None))
        return replies

    return asyncio.run(main())


def user(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}], "seed": 1, "temperature": 0}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def shown(images: ImageStore, name: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": to_data_url(images.get(name))}}


def body(images: ImageStore, messages: list[Message], **fields: Any) -> dict[str, Any]:
    def part(part: Text | Image) -> dict[str, Any]:
        return text(part.text) if isinstance(part, Text) else shown(images, part.digest)

    content = [[part(p) for p in message.parts] for message in messages]
    return {"messages": [{"role": m.role, "content": c} for m, c in zip(messages, content, strict=True)], "seed": 3, "temperature": 0.7, **fields}


def said(reply: tuple[int, Any], choice: int = 0) -> str:
    assert reply[0] == 200, reply
    return str(reply[1]["choices"][choice]["message"]["content"])


def test_a_flawless_teacher_writes_chains_without_a_fault(images: ImageStore, problems: list[Problem]) -> None:
    written = chains(FLAWLESS, images, problems)
    assert [chain.status for chain in written] == ["ok"] * len(problems)
    assert all(chain_truth(problem, chain) == (1.0, True) for problem, chain in zip(problems, written, strict=True))


def test_replies_are_a_function_of_request_and_dials_alone(images: ImageStore, problems: list[Problem]) -> None:
    settings = TeacherDials(misperception=0.3, arithmetic=0.3)
    first = chains(settings, images, problems)
    again = chains(settings, images, problems[::-1])[::-1]
    assert first == again
    assert [chain.steps for chain in chains(settings, images, problems, seed=1)] != [chain.steps for chain in first]


def test_at_temperature_0_only_the_picture_decides(images: ImageStore, problems: list[Problem]) -> None:
    settings = dials(misperception=0.4, arithmetic=1, skipped_step=1, thin_detail=1, malformed=1, repetition=1)
    first, second = (chains(settings, images, problems, temperature=0, seed=seed) for seed in (0, 1))
    assert [chain.steps for chain in first] == [chain.steps for chain in second]
    assert not {"fenced", "extra_text", "missing_key"} & {name for chain in first for name in chain.defects}
    assert 0 < sum(chain_truth(p, c)[1] for p, c in zip(problems, first, strict=True)) < len(problems)


def test_everything_is_misread_when_the_dial_says_so(images: ImageStore, problems: list[Problem]) -> None:
    written = chains(dials(misperception=1), images, problems)
    assert sum(chain_truth(problem, chain)[1] for problem, chain in zip(problems, written, strict=True)) <= len(problems) // 10


def test_every_calculation_slips_when_the_dial_says_so(images: ImageStore, problems: list[Problem]) -> None:
    some = [problem for problem in problems if problem.meta["family"] in ("arithmetic", "count")]
    written = chains(dials(arithmetic=1), images, some)
    assert not any(chain_truth(problem, chain)[1] for problem, chain in zip(some, written, strict=True))


def test_a_chain_leaves_one_step_out_when_the_dial_says_so(images: ImageStore, problems: list[Problem]) -> None:
    some = [problem for problem in problems if len(gold(problem).steps) > 2]
    for problem, chain in zip(some, chains(dials(skipped_step=1), images, some), strict=True):
        whole, written = ([(step.summary, step.reasoning) for step in c.steps] for c in (gold(problem), chain))
        assert len(written) == len(whole) - 1
        assert set(written) < set(whole)


def test_detail_is_gone_but_the_result_stays_when_the_dial_says_so(images: ImageStore, problems: list[Problem]) -> None:
    some = [problem for problem in problems if problem.meta["family"] in ("count", "arithmetic", "extreme-entry")]
    for problem, chain in zip(some, chains(dials(thin_detail=1), images, some), strict=True):
        assert sum(len(s.reasoning) for s in chain.steps) < sum(len(s.reasoning) for s in gold(problem).steps)
        assert chain_truth(problem, chain) == (1.0, True)


def test_json_breaks_in_several_ways_and_is_mended_when_the_error_is_said(images: ImageStore, problems: list[Problem]) -> None:
    requests = [body(images, generator_messages(problem, [])) for problem in problems]
    broken = post(dials(malformed=1), *requests)
    defects = {name for reply in broken for name in parse_step(said(reply))[1]}
    assert {"fenced", "extra_text", "truncated", "missing_key", "wrong_type"} <= defects
    assert all(parse_step(said(reply))[1] for reply in broken)
    complained = post(dials(malformed=1), *[body(images, generator_messages(problem, [], "a required key is missing")) for problem in problems])
    assert not any(parse_step(said(reply))[1] for reply in complained)


def test_a_step_is_said_again_when_the_dial_says_so(images: ImageStore, problems: list[Problem]) -> None:
    steps = gold(problems[0]).steps[:1]
    earlier = [step.model_dump_json() for step in steps]
    again, complained = post(dials(repetition=1), *[body(images, generator_messages(problems[0], earlier, error)) for error in (None, "a step says again")])
    assert parse_step(said(again))[0] == steps[0]
    assert parse_step(said(complained))[0] != steps[0]


def test_the_steps_so_far_are_taken_over_as_they_are(images: ImageStore, problems: list[Problem]) -> None:
    problem = next(p for p in problems if p.meta["family"] == "count" and not p.options)
    group = problem.question.removeprefix("How many ").removesuffix(" are there?")
    first = Step(summary="Search row 1", reasoning=f"Row 1 {group}: a1 b1 c1, total 3.")
    second = Step(summary="Search row 2", reasoning=f"Row 2 {group}: a2 b2 c2, total 7.")
    [third] = post(FLAWLESS, body(images, generator_messages(problem, [first.model_dump_json(), second.model_dump_json()])))
    step, _ = parse_step(said(third))
    seen, count = search_row(from_json(problem.meta["scene"]), 3, group)
    assert step == Step(summary="Search row 3", reasoning=f"{seen}, total {7 + count}.", action="summary")


@pytest.mark.parametrize(("rate", "agrees"), [(0.0, True), (1.0, False)])
def test_the_judge_compares_and_errs_as_its_dial_says(rate: float, agrees: bool, images: ImageStore, problems: list[Problem]) -> None:
    numbers = [p for p in problems if p.answer_type in ("number", "choice")][:10]
    requests = [body(images, judge_messages(p, answer)) for p in numbers for answer in (p.answers[0], "none of these")]
    verdicts = [parse_verdict(said(reply)) for reply in post(dials(wrong_verdict=rate), *requests)]
    assert [right for right, _, _ in verdicts] == [agrees, not agrees] * len(numbers)
    assert not any(defects for _, _, defects in verdicts)


def test_scores_follow_the_quality_of_the_paths(images: ImageStore, problems: list[Problem]) -> None:
    problem = next(p for p in problems if p.meta["family"] == "extreme-bar")
    right = gold(problem)
    wrong_fact = right.model_copy(update={"id": "b", "steps": (right.steps[0].model_copy(update={"reasoning": "a red 1."}), *right.steps[1:])})
    wrong_answer = gold(problem, answer="pink")
    skipped = right.model_copy(update={"id": "d", "steps": right.steps[1:]})

    async def work(endpoint: Endpoint) -> list[Any]:
        return await scores(problem, [right, wrong_fact, wrong_answer, skipped], endpoint, AssessConfig(), 0)

    best, fact, answer, thin = [score.value for score in asking(FLAWLESS, images, work)]
    assert best == 95
    assert answer < 50 < min(fact, thin) and max(fact, thin) < best


def test_without_the_ground_truth_a_scorer_goes_by_what_it_reads_itself(images: ImageStore, problems: list[Problem]) -> None:
    def rated(settings: TeacherDials, chosen: list[Problem]) -> list[list[int | None]]:
        requests = [body(images, rating_messages(problem, [gold(problem), gold(problem, answer="none of these")])) for problem in chosen]
        return [[score for score, _ in parse_scores(said(reply), 2)[0]] for reply in post(settings, *requests)]

    sure = rated(FLAWLESS, problems)
    assert [right for right, _ in sure] == [95] * len(problems) and all(wrong is not None and wrong < 50 for _, wrong in sure)
    # One that misreads the picture takes right steps for wrong ones, and sometimes a right answer.
    misled = rated(dials(misperception=1), problems)
    assert sum(right is not None and right < 95 for right, _ in misled) > 0.9 * len(problems)


def test_a_score_is_left_out_and_noise_is_added_as_the_dials_say(images: ImageStore, problems: list[Problem]) -> None:
    request = body(images, scorer_messages(problems[0], [gold(problems[0])] * 3))
    [left_out] = post(dials(missing_score=1), request)
    given, defects = parse_scores(said(left_out), 3)
    assert "missing_score" in defects and sum(score is None for score, _ in given) == 1
    [noisy] = post(dials(score_noise=15), request)
    assert len({score for score, _ in parse_scores(said(noisy), 3)[0]}) > 1


def test_a_direct_question_is_answered_by_reading_the_picture(images: ImageStore, problems: list[Problem]) -> None:
    questions = [p.question + "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", p.options, strict=False)) for p in problems]
    replies = post(FLAWLESS, *[user(shown(images, p.images[0]), text(f"{q}\nAnswer directly.")) for p, q in zip(problems, questions, strict=True)])
    assert [said(reply) for reply in replies] == [p.answers[0] for p in problems]
    [unknown] = post(FLAWLESS, user(shown(images, problems[0].images[0]), text("Who painted this?")))
    assert said(unknown) == "I cannot tell."


def test_n_replies_come_in_order_and_stop_and_length_are_kept(images: ImageStore, problems: list[Problem]) -> None:
    messages = generator_messages(problems[0], [])
    [three, one] = post(dials(thin_detail=0.5, misperception=0.5), body(images, messages, n=3), body(images, messages))
    assert [choice["index"] for choice in three[1]["choices"]] == [0, 1, 2]
    assert said(three) == said(one)
    [stopped, cut] = post(FLAWLESS, body(images, messages, stop=['"reasoning"']), body(images, messages, max_tokens=3))
    assert '"reasoning"' not in said(stopped) and stopped[1]["choices"][0]["finish_reason"] == "stop"
    assert len(said(cut)) == 12 and cut[1]["choices"][0]["finish_reason"] == "length"
    usage = cut[1]["usage"]
    assert usage["completion_tokens"] == 3 and usage["total_tokens"] == usage["prompt_tokens"] + 3


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        (b"{", "not JSON"),
        ([], "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "last message"),
        (user({"type": "audio"}), "part"),
        (user(text("x")) | {"n": 0}, "`n`"),
        (user(text("x")) | {"temperature": "hot"}, "`temperature`"),
        (user(text("x")) | {"stop": [3]}, "`stop`"),
        (user(text("x")) | {"stream": True}, "`stream`"),
        (user({"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}), "data:image"),
        (user({"type": "image_url", "image_url": {"url": "file:///etc/hostname"}}), "data:image"),
        (user({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}), "image"),
    ],
)
def test_a_bad_body_is_refused_with_the_protocols_error(request_body: Any, message: str) -> None:
    [(status, reply)] = post(FLAWLESS, request_body)
    assert status == 400
    assert message in reply["error"]["message"]
    assert reply["error"]["type"] == "invalid_request_error" and reply["error"]["code"]


def test_failures_of_each_kind_come_and_a_retry_succeeds(images: ImageStore, problems: list[Problem]) -> None:
    request = [body(images, generator_messages(problem, [])) for problem in problems[:12]]
    replies = post(dials(error_rate=1), *[r for r in request for _ in range(4)])
    seen = {status for status, _ in replies}
    assert {0, 200, 429, 500} == seen
    for place in range(0, len(replies), 4):
        assert replies[place][0] != 200 and 200 in [status for status, _ in replies[place : place + 4]]
    assert all(status == 200 for status, _ in post(FLAWLESS, *request))


def test_the_projects_client_gets_through_failures_to_the_same_chains(images: ImageStore, problems: list[Problem]) -> None:
    assert chains(dials(error_rate=0.2, latency=0.005), images, problems[:6]) == chains(FLAWLESS, images, problems[:6])


def test_a_judge_that_cannot_read_its_case_says_incorrect() -> None:
    request = {"messages": [{"role": "system", "content": JUDGE_INSTRUCTION}, {"role": "user", "content": "no case"}], "seed": 0}
    [reply] = post(FLAWLESS, request)
    assert parse_verdict(said(reply))[0] is False


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def within(seconds: float) -> Iterator[Callable[[], bool]]:
    end = time.monotonic() + seconds
    yield lambda: time.monotonic() < end and not time.sleep(0.05)


async def get(url: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


def test_it_runs_in_a_process_of_its_own_that_says_what_it_is() -> None:
    with serve(FLAWLESS) as url:
        assert asyncio.run(get(url.removesuffix("/v1") + "/health")) == (200, {"status": "ok"})
        status, models = asyncio.run(get(f"{url}/models"))
        assert status == 200 and [model["id"] for model in models["data"]] == ["teacher"]
    with pytest.raises(aiohttp.ClientConnectionError):
        asyncio.run(get(f"{url}/models"))


def test_it_ends_when_its_parent_is_killed() -> None:
    code = (
        "from insightv.config import TeacherDials; from insightv.world.teacher import serve; import time, subprocess\n"
        "with serve(TeacherDials()) as url:\n print(url, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    url = parent.stdout.readline().strip()
    [child] = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert asyncio.run(get(f"{url}/models"))[0] == 200
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    with within(10) as waiting:
        while alive(int(child)) and waiting():
            pass
    assert not alive(int(child))


def test_its_command_explains_itself_and_refuses_wrong_dials() -> None:
    command = [sys.executable, "-m", "insightv.world.teacher"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "--dials" in helped.stdout
    refused = subprocess.run([*command, "--dials", '{"misperception": 2}'], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "misperception" in refused.stderr and "Traceback" not in refused.stderr
