"""What a request to /v1/chat/completions may say, and what it asks of the agents."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import dropwhile, groupby
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from insightv.config import ServeConfig, SystemsConfig
from insightv.models.chat import Image, Message, Role, Text
from insightv.records import Problem
from insightv.serving.replies import ApiError
from insightv.store import content_hash


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no character") from None
    return text


_MOST_MESSAGES = 4096
"""Read at all; how many a server takes is `serve.max_messages`."""

Words = Annotated[str, AfterValidator(_utf8)]
"""JSON can spell halves of characters, which no tokenizer and no server takes."""


Stop = Annotated[Words, Field(min_length=1)]


def _form(value: Any) -> str:
    """Which of a union's forms is meant, so that an error speaks of that one alone."""
    return "list" if isinstance(value, list) else "text"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class TextPart(_Part):
    """A piece of text."""

    type: Literal["text"]
    text: Words


class ImageUrl(_Part):
    """Where an image is."""

    url: str
    """data:image/png;base64,.. (or jpeg, webp); http(s) only from hosts that the server allows."""


class ImagePart(_Part):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


# The first fault is enough: to collect those of a million parts takes minutes, in which nobody else is served.
Parts = Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(fail_fast=True)]


class RequestMessage(_Part):
    """A turn of the conversation; the last is the question, and a user's."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Annotated[Words, Tag("text")] | Annotated[Parts, Tag("list")], Discriminator(_form)] | None = None


class ReasoningOptions(_Part):
    """How the chain is written, where it shall not be as the server has it."""

    model_config = ConfigDict(extra="forbid")

    max_tokens: int | None = Field(None, ge=1)
    """Budget of the chain."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Without it the request's own temperature, without that the server's for chains."""
    top_p: float | None = Field(None, gt=0, le=1)
    exclude: bool = False
    """Leave the chain out of the reply; it is written, and counted, all the same."""


class StreamOptions(_Part):
    """What a stream tells besides."""

    include_usage: bool = False


class ResponseFormat(_Part):
    """Only plain text: an answer is what the summary agent says."""

    type: Literal["text"]


class ChatRequest(BaseModel):
    """A request as OpenAI's API has it. Fields that are not known are passed over, those that would change the answer and cannot are refused."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    model: str
    messages: list[RequestMessage] = Field(min_length=1, max_length=_MOST_MESSAGES, fail_fast=True)
    max_tokens: int | None = Field(None, ge=1)
    """Tokens of the answer; the chain has a budget of its own, `reasoning.max_tokens`."""
    max_completion_tokens: int | None = Field(None, ge=1)
    """Newer name of `max_tokens`, which it overrides."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Of both agents, unless `reasoning` has its own."""
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1)
    """Choices, each with a chain of its own."""
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    """Without one, two requests alike are sampled apart."""
    stop: Annotated[Annotated[Stop, Tag("text")] | Annotated[list[Stop], Field(max_length=16), Tag("list")], Discriminator(_form)] | None = None
    """Ends the answer; a chain is never cut."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning: ReasoningOptions | None = None
    select: Literal["majority", "judged"] | None = None
    """How best-of-N chooses: the answer that most chains lead to, or the chain that the server's judge rates best."""
    response_format: ResponseFormat | None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the agents are asked: an image question after earlier turns, and how to decode."""

    problem: Problem
    history: tuple[Message, ...]
    settings: SystemsConfig
    seed: int
    stop: tuple[str, ...]


def read_request(request: ChatRequest, digests: Sequence[str], settings: SystemsConfig, limits: ServeConfig) -> Asked:
    """The question and its settings; `digests` name the conversation's images in their order. What goes beyond a limit is an `ApiError`."""
    if request.messages[-1].role != "user":
        raise ApiError(400, "the last message must be the user's question", "messages")
    waiting = iter(digests)
    *history, last = [Message(_role(message), _read_parts(message.content, waiting)) for message in request.messages]
    # As in training data, images before all words have no mark: they begin each agent's prompt.
    placed = dropwhile(lambda part: isinstance(part, Image), last.parts)
    question = "".join(_marked(kind, parts) for kind, parts in groupby(placed, type))
    images = tuple(part.digest for part in last.parts if isinstance(part, Image))
    if not question.replace("<image>", "").strip():
        raise ApiError(400, "the last message is empty; ask a question", "messages")
    name = content_hash([question, images, [[turn.role, [str(part) for part in turn.parts]] for turn in history]])
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    problem = Problem(id=name, question=question, images=images, answers=("",))
    seed = secrets.randbits(63) if request.seed is None else request.seed
    return Asked(problem, tuple(history), _decoding(request, settings, limits), seed, stop)


def image_urls(request: ChatRequest) -> list[str]:
    """The URLs of a conversation's images in their order."""
    return [part.image_url.url for message in request.messages if isinstance(message.content, list) for part in message.content if isinstance(part, ImagePart)]


def _decoding(request: ChatRequest, settings: SystemsConfig, limits: ServeConfig) -> SystemsConfig:
    """The server's decoding with the request's wishes in it."""
    own = request.reasoning or ReasoningOptions()
    both = {"temperature": request.temperature, "top_p": request.top_p}
    answer = both | {"max_tokens": request.max_completion_tokens or request.max_tokens}
    chain = both | {name: value for name, value in own.model_dump(exclude={"exclude"}).items() if value is not None}
    for field, asked in (("max_tokens", answer["max_tokens"]), ("reasoning.max_tokens", chain.get("max_tokens"))):
        if asked and asked > limits.max_tokens:
            raise ApiError(400, f"{field} is {asked}; this server writes at most {limits.max_tokens} tokens", field)

    def changed(sampling: Any, wishes: dict[str, Any]) -> Any:
        return sampling.model_copy(update={name: value for name, value in wishes.items() if value is not None})

    return settings.model_copy(update={"reasoner": changed(settings.reasoner, chain), "answer": changed(settings.answer, answer)})


def _marked(kind: type[Text | Image], parts: Iterable[Text | Image]) -> str:
    """Neighbouring images as marks, or words, in which a mark is no place for an image, be it cut into several parts."""
    if kind is Image:
        return "<image>" * len(list(parts))
    return "".join(part.text for part in parts if isinstance(part, Text)).replace("<image>", "< image>")


def _role(message: RequestMessage) -> Role:
    return "system" if message.role == "developer" else message.role


def _read_parts(content: str | Parts | None, digests: Any) -> tuple[Text | Image, ...]:
    if content is None or isinstance(content, str):
        return (Text(content or ""),)
    return tuple(Text(part.text) if isinstance(part, TextPart) else Image(next(digests)) for part in content)
