"""The simulated teacher behind the OpenAI chat-completions protocol, so that the tiny world is asked like any other model.

It reads the pixels and the text of a request and knows nothing else: what it says is a function of the request and its dials.
"""

import argparse
import asyncio
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from random import Random
from typing import Any

import orjson
from aiohttp import web

from insightv.config import TeacherDials, UserError
from insightv.images import ImageError, decode, digest, from_data_url
from insightv.store import content_hash, derive_seed
from insightv.world.perception import perceive
from insightv.world.roles import Picture, Turn, reply

MODEL = "teacher"
_DIALS = web.AppKey("dials", TeacherDials)
_FAILURES = web.AppKey("failures", dict[str, int])
_LIMITS = {
    "n": (int, 1, 128),
    "max_tokens": (int, 1, 10**6),
    "max_completion_tokens": (int, 1, 10**6),
    "temperature": (int | float, 0, 2),
    "seed": (int, -(2**63), 2**63),
}
_TOKEN = 4
"""Characters that count as one token."""


class BadRequest(ValueError):
    """A body that the protocol does not allow; the message says why."""


def application(dials: TeacherDials) -> web.Application:
    """The web application of a teacher with these dials."""
    app = web.Application(client_max_size=256 * 2**20)
    app[_DIALS] = dials
    app[_FAILURES] = {}
    app.add_routes([web.get("/health", _health), web.get("/v1/models", _models), web.post("/v1/chat/completions", _completions)])
    return app


@contextmanager
def serve(dials: TeacherDials, port: int = 0) -> Iterator[str]:
    """Run a teacher in a process of its own and yield its base URL, which ends in /v1; port 0 takes a free one.

    The process ends with the context, and also when this process is killed.
    """
    command = [sys.executable, "-m", "insightv.world.teacher", "--port", str(port), "--dials", dials.model_dump_json(), "--with-parent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdin and process.stdout
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise UserError(f"the teacher did not start on port {port}; its own message stands above")
            yield url
        finally:
            process.terminate()


def run(dials: TeacherDials, host: str = "127.0.0.1", port: int = 8100, *, with_parent: bool = False) -> None:
    """Serve until interrupted, or `with_parent` until standard input ends; the first line printed is the base URL."""

    async def main() -> None:
        async with listening(dials, host, port) as url:
            print(url, flush=True)
            if with_parent:
                # The system closes the pipe even when the parent is killed.
                await asyncio.to_thread(sys.stdin.read)
            else:
                await asyncio.Event().wait()

    try:
        asyncio.run(main())
    except OSError as error:
        raise UserError(f"the teacher cannot listen on {host}:{port}: {error.strerror}; choose another port") from None


@asynccontextmanager
async def listening(dials: TeacherDials, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """A teacher in this event loop; yields its base URL."""
    runner = web.AppRunner(application(dials), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield f"http://{host}:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _models(_: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "insightv"}]})


async def _completions(request: web.Request) -> web.Response:
    data = await request.read()
    dials = request.app[_DIALS]
    identity = digest(data)
    if dials.latency:
        await asyncio.sleep(-dials.latency * math.log(1 - Random(f"{identity} latency").random()))
    if failure := _failure(request, identity, dials.error_rate):
        return failure
    try:
        body = _read_body(data)
        answer = _complete(body, dials)
    except (BadRequest, ImageError) as error:
        return _error(400, str(error), "invalid_request_error", "bad_image" if isinstance(error, ImageError) else "bad_request")
    return web.Response(body=orjson.dumps(answer), content_type="application/json")


def _failure(request: web.Request, identity: str, rate: float) -> web.Response | None:
    """The failure that stands before a good reply: whether and how often a body fails is decided by its hash, so a retry succeeds."""
    rng = Random(f"{identity} failure")
    failures = request.app[_FAILURES]
    attempt = failures.get(identity, 0)
    if rng.random() >= rate or attempt > rng.randrange(2):
        failures.pop(identity, None)
        return None
    failures[identity] = attempt + 1
    kind = (rng.randrange(3) + attempt) % 3
    if kind == 0 and request.transport:
        request.transport.abort()
    if kind == 1:
        limited = _error(429, "too many requests", "rate_limit_error", "rate_limit_exceeded")
        limited.headers["Retry-After"] = "0.1"
        return limited
    return _error(500, "the teacher stumbled", "server_error", "internal_error")


def _error(status: int, message: str, kind: str, code: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": kind, "param": None, "code": code}}, status=status)


def _read_body(data: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
        raise BadRequest("the body must be an object with a non-empty list `messages`")
    if body.get("stream"):
        raise BadRequest("`stream` is not supported here")
    for name, (kind, low, high) in _LIMITS.items():
        value = body.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high):
            raise BadRequest(f"`{name}` must be a number from {low} to {high}")
    stop = body.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise BadRequest("`stop` must be a text or a list of texts")
    return {**body, "stop": stop}


def _read_turn(message: Any) -> Turn:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
    if role not in ("system", "developer", "user", "assistant"):
        raise BadRequest("each message needs a role: system, user or assistant")
    if isinstance(content, str):
        return Turn(role, content)
    if not isinstance(content, list):
        raise BadRequest("each message needs content: a text or a list of parts")
    texts, pictures = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url" and isinstance(part.get("image_url"), dict) and isinstance(part["image_url"].get("url"), str):
            pictures.append(_see(part["image_url"]["url"]))
        else:
            raise BadRequest("a part must be a text or an image_url with a data URL")
    return Turn(role, "".join(texts), tuple(pictures))


@lru_cache(maxsize=2048)
def _see(url: str) -> Picture:
    """A picture from its data URL; `ImageError` for any other URL: nothing is fetched."""
    data = from_data_url(url)
    return Picture(digest(data), *perceive(decode(data)))


def _complete(body: dict[str, Any], dials: TeacherDials) -> dict[str, Any]:
    turns = [_read_turn(message) for message in body["messages"]]
    if turns[-1].role != "user":
        raise BadRequest("the last message must be the user's")
    said = [[turn.role, turn.text, [picture.digest for picture in turn.pictures]] for turn in turns]
    temperature = 1.0 if body.get("temperature") is None else float(body["temperature"])
    choices, written = [], 0
    for index in range(body.get("n") or 1):
        text = reply(turns, derive_seed(said, temperature, body.get("seed"), index), temperature, dials)
        text, finish = _cut(_as_asked(text, body), body["stop"], body.get("max_tokens") or body.get("max_completion_tokens"))
        written += _tokens(text)
        choices.append({"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": finish})
    read = sum(_tokens(turn.text) + 3 + 16 * len(turn.pictures) for turn in turns)
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    name = f"chatcmpl-{content_hash([said, body.get('seed')])}"
    return {"id": name, "object": "chat.completion", "created": 0, "model": MODEL, "choices": choices, "usage": usage}


def _as_asked(text: str, body: dict[str, Any]) -> str:
    """A direct answer as JSON where the request asks for JSON; the roles write it anyway."""
    form = body.get("response_format")
    plain = not isinstance(form, dict) or form.get("type") == "text" or "{" in text
    return text if plain else orjson.dumps({"answer": text}).decode()


def _cut(text: str, stop: list[str], max_tokens: int | None) -> tuple[str, str]:
    ends = [place for mark in stop if (place := text.find(mark)) >= 0]
    text = text[: min(ends)] if ends else text
    if max_tokens and _tokens(text) > max_tokens:
        return text[: max_tokens * _TOKEN], "length"
    return text, "stop"


def _tokens(text: str) -> int:
    return -(-len(text) // _TOKEN)


def main() -> None:
    """Entry point of `python -m insightv.world.teacher`."""
    parser = argparse.ArgumentParser("python -m insightv.world.teacher", description="Serve the tiny world's simulated teacher over the OpenAI protocol.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8100, help="port to listen on, 0 for any free one (default: %(default)s)")
    parser.add_argument("--dials", default="{}", metavar="JSON", help="how often it errs, as in '{\"misperception\": 0.1}'")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    try:
        run(TeacherDials.model_validate_json(options.dials), options.host, options.port, with_parent=options.with_parent)
    except (UserError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130)


if __name__ == "__main__":
    main()
