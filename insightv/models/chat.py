"""The Chat seam: teacher, judge, scorer, reasoner, summarizer and any evaluated model stand behind it."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from insightv.records import Usage
from insightv.store import content_hash

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text in a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a message, by the digest of its encoded bytes in the image store."""

    digest: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: parts in their order."""

    role: Role
    parts: tuple[Text | Image, ...]


def text_message(role: Role, text: str) -> Message:
    """A turn of text alone."""
    return Message(role, (Text(text),))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode. Everything here is part of a request's identity."""

    n: int = 1
    """Replies wanted; sample i has the seed hash(seed, i), so n = 3 once equals n = 1 thrice at `first` 0, 1, 2."""
    first: int = 0
    """Index of the first sample: which of the journal's rows this request fills."""
    seed: int = 0
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    """JSON schema of the reply; a server that cannot enforce it is asked without. Replies are validated always."""
    prefill: str = ""
    """Beginning of the assistant's turn, to be continued. Not repeated in the reply's text."""
    logprobs: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Other request fields for an endpoint, passed through as they are."""

    def only(self, index: int) -> "Sampling":
        """The same request for the one sample `index`."""
        return replace(self, n=1, first=index)


@dataclass(frozen=True, slots=True)
class Reply:
    """One sampled reply."""

    text: str
    """The content; reasoning that a server split off is in `reasoning`."""
    finish: Literal["stop", "length", "failed"] = "stop"
    reasoning: str = ""
    usage: Usage = Usage()
    logprobs: tuple[float, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    """What it took: of a request at an endpoint the time from sending to the last byte, of a sample in this process that of its whole batch. Not what it
    waited before; a reply from the journal has the time it took then. Equal replies may have taken different times."""
    error: str = ""
    """For finish `failed`: why. Such a reply is journalled, never scored, and asked again only on wish."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed reply; the last is of the kind `usage`."""

    kind: Literal["reasoning", "content", "usage"]
    text: str = ""
    usage: Usage | None = None
    finish: Literal["stop", "length"] | None = None
    """How the reply ended: stands in the last piece."""


class Chat(Protocol):
    """Anything that answers messages."""

    @property
    def identity(self) -> str:
        """Endpoint name and revision, or the hash of local weights and adapter. Part of every request's key."""

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> list[Reply]:
        """Answer with `sampling.n` replies, in index order.

        Cancelling the task cancels the work. A request that failed for good gives replies with finish `failed`;
        raises `EndpointDown` when the model stayed away longer than the outage that the settings allow, and `Halted` when nothing new may begin.
        """

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """Yield one reply as typed deltas; one that breaks off raises, and never looks like a whole one; `TooLong` where there is no room."""

    async def close(self) -> None:
        """Release connections and memory."""


class Halted(RuntimeError):
    """The run was asked to stop, or its budget is spent: nothing new is begun, what was in flight is journalled; the message says why."""

    def __init__(self, reason: str, code: int = 2) -> None:
        """`code` is the exit code that says so to a shell: 128 and the number of the signal, or 2."""
        super().__init__(reason)
        self.code = code


class TooLong(RuntimeError):
    """A conversation that does not fit the model's context together with the reply asked for."""


class EndpointDown(RuntimeError):
    """A model stayed out of reach for longer than `max_outage`; the run ends and can be resumed."""


def request_key(identity: str, messages: Sequence[Message], sampling: Sampling, index: int, attempt: int = 0) -> str:
    """The journal's key of one sample: model, parameters, schema, messages by image digest, index, attempt."""
    return content_hash(
        {
            "model": identity,
            "messages": [[m.role, [["text", p.text] if isinstance(p, Text) else ["image", p.digest] for p in m.parts]] for m in messages],
            "parameters": [sampling.seed, sampling.temperature, sampling.top_p, sampling.max_tokens, list(sampling.stop), sampling.prefill, sampling.logprobs],
            "schema": sampling.schema,
            "extra": dict(sampling.extra),
            "index": index,
            "attempt": attempt,
        }
    )
