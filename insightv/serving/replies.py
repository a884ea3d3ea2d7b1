"""Replies as OpenAI's API has them: whole, and as server-sent events."""

import time
from collections.abc import Sequence
from typing import Any, Literal

import orjson
from pydantic import BaseModel

from insightv.models.chat import Delta
from insightv.records import Usage

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a client is told instead of a reply, in words that tell nothing of the server's inside."""

    def __init__(self, status: int, message: str, field: str | None = None, code: str | None = None) -> None:
        """`field` is the request's field that is to be mended, where it is one; the body's `type` follows from the HTTP status."""
        super().__init__(message)
        self.status, self.field, self.code = status, field, code

    def body(self, request_id: str) -> bytes:
        """The reply's body."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return orjson.dumps({"error": {"message": str(self), "type": kind, "param": self.field, "code": self.code, "request_id": request_id}})


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None
    request_id: str


class ErrorReply(BaseModel):
    """Every error's body."""

    error: ErrorBody


class ReplyMessage(BaseModel):
    """The answer, and the chain beside it."""

    role: Literal["assistant"] = "assistant"
    content: str
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: None = None


class Choice(BaseModel):
    """One answer."""

    index: int
    message: ReplyMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class PromptTokens(BaseModel):
    """Of the prompts of both agents."""

    cached_tokens: int


class CompletionTokens(BaseModel):
    """Of what both agents wrote."""

    reasoning_tokens: int


class UsageReply(BaseModel):
    """Tokens of a request, all agents and choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens
    completion_tokens_details: CompletionTokens


class Completion(BaseModel):
    """A whole reply."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: UsageReply


class Model(BaseModel):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["insightv"] = "insightv"


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


def usage_reply(usage: Usage) -> Json:
    """Tokens as the protocol has them."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def completion(request_id: str, model: str, texts: Sequence[dict[str, str]], finishes: Sequence[str], usage: Usage, fields: Sequence[str]) -> bytes:
    """A whole reply; `texts` are each choice's reasoning and content, `fields` the names under which the reasoning stands."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text["content"], "refusal": None} | dict.fromkeys(fields, text["reasoning"]),
            "finish_reason": finish,
            "logprobs": None,
        }
        for index, (text, finish) in enumerate(zip(texts, finishes, strict=True))
    ]
    whole = {"id": request_id, "object": "chat.completion", "created": int(time.time()), "model": model, "choices": choices, "usage": usage_reply(usage)}
    return orjson.dumps(whole)


class Events:
    """The events of one streamed reply."""

    def __init__(self, request_id: str, model: str, fields: Sequence[str]) -> None:
        head = {"id": request_id, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
        self._head = b"data: " + orjson.dumps(head)[:-1] + b","
        self._fields = {"reasoning": fields, "content": ("content",)}

    def begin(self, choices: int) -> bytes:
        """The first event of each choice, which names the role."""
        return b"".join(self._event(index, {"role": "assistant", "content": ""}) for index in range(choices))

    def piece(self, index: int, delta: Delta) -> bytes:
        """The event of new text; nothing where the reasoning is left out."""
        fields = self._fields.get(delta.kind, ())
        return self._event(index, dict.fromkeys(fields, delta.text)) if fields else b""

    def end(self, index: int, finish: str) -> bytes:
        """A choice's last event."""
        return self._event(index, {}, finish)

    def usage(self, usage: Usage) -> bytes:
        """The event behind all choices, for those who asked for it."""
        return self._head + b'"choices":[],"usage":' + orjson.dumps(usage_reply(usage)) + b"}\n\n"

    def _event(self, index: int, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._head + b'"choices":[' + orjson.dumps(choice) + b"]}\n\n"
