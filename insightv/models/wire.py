"""The chat-completions protocol: request bodies from messages, replies from what a server sends."""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import orjson

from insightv.cache import ByteCache
from insightv.config import UserError
from insightv.images import to_data_url
from insightv.models.chat import Image, Message, Reply, Sampling, Text
from insightv.records import Usage
from insightv.store import Images, ImageStore, derive_seed

Json = dict[str, Any]

_NOTHING = Usage()
_MOST_TOKENS = 2**40
"""Of a request: a count that no number of theirs together outgrows what JSON and SQLite hold."""
_TOO_LONG = re.compile(r"context[ _](length|size|window)|maximum model length|prompt is too long|max_new_tokens` must be", re.IGNORECASE)


class BrokenReply(ValueError):
    """A server's 200 that holds no reply; worth another attempt."""


_PLACE = orjson.Fragment(b"\0")
"""Where an image goes: a byte that JSON never holds."""


class ImageParts:
    """Images as ready pieces of JSON by digest, so that the base64 of one is made once however often it is sent."""

    def __init__(self, images: Images, form: Literal["data", "uuid", "file"] = "data", cache: int = 256) -> None:
        """`form` is `EndpointConfig.images`; `cache` is in megabytes."""
        self._images = images
        self._form = form
        self._cache = ByteCache(cache * 2**20)

    def __call__(self, digest: str, known: Container[str] = ()) -> bytes:
        """The part of a stored image; without the image where the server knows its uuid."""
        if digest in known:
            return orjson.dumps({"type": "image_url", "image_url": None, "uuid": digest})
        return self._cache.get(digest, lambda: self._make(digest))

    def _make(self, digest: str) -> bytes:
        if self._form == "file":
            if not isinstance(self._images, ImageStore):
                raise UserError("images: file sends the files of a run; these images are in memory alone, so send them as data")
            return _part(self._images.path(digest).resolve().as_uri())
        return _part(to_data_url(self._images.get(digest)), **({"uuid": digest} if self._form == "uuid" else {}))


def image_part(data: bytes) -> bytes:
    """JSON of an image part that holds the image itself, as a data URL."""
    return _part(to_data_url(data))


def _part(url: str, **beside: str) -> bytes:
    return orjson.dumps({"type": "image_url", "image_url": {"url": url}, **beside})


def request_body(
    model: str,
    messages: Sequence[Message],
    sampling: Sampling,
    index: int,
    image: Callable[[str], bytes],
    *,
    n: int = 1,
    schema: bool = True,
    stream: bool = False,
) -> list[bytes]:
    """The pieces of the body of the request for the `n` samples from `index` on; `image` gives the part of a digest.

    A field that `sampling.extra` sets to None is left out, so {"max_tokens": None} suits servers that refuse it.
    """
    images: list[bytes] = []
    body: Json = {
        "model": model,
        "messages": [{"role": message.role, "content": _content(message, image, images)} for message in messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": derive_seed(sampling.seed, index),
    }
    if n > 1:
        body["n"] = n
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.schema is not None and schema:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": sampling.schema}}
    if sampling.logprobs:
        body["logprobs"] = True
    if sampling.prefill:
        body["messages"].append({"role": "assistant", "content": sampling.prefill})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    body |= sampling.extra
    texts = orjson.dumps({name: value for name, value in body.items() if value is not None}).split(b"\0")
    return [*chain.from_iterable(zip(texts, images, strict=False)), texts[-1]]


def _content(message: Message, image: Callable[[str], bytes], images: list[bytes]) -> str | list[Any]:
    """The content with places for its images, whose parts are appended to `images`."""
    texts = [part.text for part in message.parts if isinstance(part, Text)]
    if len(texts) == len(message.parts):
        return "".join(texts)
    images += [image(part.digest) for part in message.parts if isinstance(part, Image)]
    return [_PLACE if isinstance(part, Image) else {"type": "text", "text": part.text} for part in message.parts]


def read_completion(data: bytes) -> list[Json]:
    """The raw replies to be journalled, in the choices' order: each one's `message`, `finish_reason` and `logprobs`; else `BrokenReply`.

    The first has the `usage` of the whole request, the others none.
    """
    body = parse_object(data)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BrokenReply("the reply has no choice with a message")
    rows: list[Json] = []
    for choice in sorted(choices, key=_place):
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise BrokenReply("the reply has no choice with a message")
        row = {"message": choice["message"], "finish_reason": choice.get("finish_reason"), "usage": None if rows else body.get("usage")}
        rows.append(row | ({"logprobs": choice["logprobs"]} if choice.get("logprobs") else {}))
    return rows


def _place(choice: Any) -> int:
    place = choice.get("index") if isinstance(choice, dict) else None
    return place if isinstance(place, int) else 0


def read_row(row: Mapping[str, Any]) -> Reply:
    """The reply that a journalled row means; a row with an `error` is a failed one."""
    usage = read_usage(row.get("usage"))
    if row.get("error"):
        return Reply("", finish="failed", usage=usage, error=str(row["error"]))
    message = row["message"]
    content = content_text(message.get("content"))
    reasoning = content_text(message.get("reasoning")) or content_text(message.get("reasoning_content"))
    if not reasoning:
        reasoning, content = split_think(content)
    if row.get("finish_reason") == "content_filter":
        return Reply(content, finish="failed", reasoning=reasoning, usage=usage, error="the server's content filter stopped the reply")
    finish: Literal["stop", "length"] = "length" if row.get("finish_reason") == "length" else "stop"
    seconds = row.get("seconds", 0.0)
    return Reply(content, finish=finish, reasoning=reasoning, usage=usage, logprobs=_logprobs(row.get("logprobs")), seconds=seconds)


def read_usage(usage: Any) -> Usage:
    """Token counts; what a server leaves out or garbles counts as 0."""
    if not isinstance(usage, dict):
        return _NOTHING
    # Every field is set and checked here, so the record's own validation would only cost time.
    return Usage.model_construct(
        prompt=_count(usage, "prompt_tokens"),
        completion=_count(usage, "completion_tokens"),
        cached=_count(usage.get("prompt_tokens_details"), "cached_tokens"),
        reasoning=_count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    )


def split_think(content: str) -> tuple[str, str]:
    """(reasoning, rest): a leading <think> block split off; one that never ends is all reasoning."""
    start = content.lstrip()
    if not start.startswith("<think>"):
        return "", content
    reasoning, _, rest = start.removeprefix("<think>").partition("</think>")
    return reasoning.strip(), rest.lstrip()


def error_text(data: bytes) -> str:
    """What a server says of a refused request, on one line of at most 300 characters."""
    text = data.decode(errors="replace")
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        body = None
    if isinstance(body, dict):
        error = body.get("error", body.get("detail", body.get("message")))
        text = str(error.get("message", error) if isinstance(error, dict) else error) if error else text
    return " ".join(text.split())[:300]


def says_too_long(reason: str) -> bool:
    """Whether a refusal is for the length of the conversation, as OpenAI, vLLM, SGLang, TGI, llama.cpp and our own local models say it."""
    return bool(_TOO_LONG.search(reason))


def parse_object(data: bytes) -> Json:
    """A JSON object, else `BrokenReply`."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BrokenReply("the reply is not JSON") from None
    if not isinstance(body, dict):
        raise BrokenReply("the reply is not a JSON object")
    return body


def content_text(value: Any) -> str:
    """A text, or the joined texts of a list of parts; anything else is empty."""
    if isinstance(value, list):
        return "".join(content_text(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def _count(values: Any, name: str) -> int:
    value = values.get(name) if isinstance(values, dict) else None
    return min(value, _MOST_TOKENS) if isinstance(value, int) and value > 0 else 0


def _logprobs(value: Any) -> tuple[float, ...]:
    tokens = value.get("content") if isinstance(value, dict) else None
    found = [token.get("logprob") for token in tokens or () if isinstance(token, dict)]
    return tuple(float(logprob) for logprob in found if isinstance(logprob, int | float))
