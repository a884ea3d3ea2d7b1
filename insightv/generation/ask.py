"""Ask a model for a reply in a strict format, and again with the error said to it when the reply cannot be used."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from insightv.config import SamplingConfig
from insightv.models.chat import Chat, Message, Sampling
from insightv.records import Usage
from insightv.replies import DEFECTS, MENDED, unique
from insightv.store import derive_seed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    """What came of asking: the last reply as it was read, and what is wrong with it."""

    value: T | None
    """None where no reply came."""
    defects: tuple[str, ...]
    usage: Usage
    failure: str = ""
    """Why a request failed for good."""
    said: str = ""
    """The last reply."""

    @property
    def usable(self) -> bool:
        """Whether the reply is free of defects, or they could be mended."""
        return not self.failure and MENDED.issuperset(self.defects)


async def ask(
    chat: Chat, messages: Callable[[str | None], list[Message]], read: Callable[[str], tuple[T, tuple[str, ...]]], samplings: Iterable[Sampling]
) -> Asked[T]:
    """Ask with each sampling in turn until a reply is usable; `messages` gets what was wrong with the reply before."""
    error, usage, said = None, Usage(), ""
    value, defects = None, tuple[str, ...]()
    for attempt, sampling in enumerate(samplings):
        [reply] = await chat.complete(messages(error), sampling)
        usage = total_usage(usage, reply.usage)
        if reply.finish == "failed":
            return Asked(None, ("request_failed",), usage, reply.error or "the request failed")
        said = reply.text
        value, found = read(said)
        defects = unique((*found, *(["truncated"] if reply.finish == "length" else []), *(["retried"] if attempt else [])))
        if MENDED.issuperset(defects):
            break
        error = "; ".join(DEFECTS[name] for name in defects if name not in MENDED)
    return Asked(value, defects, usage, said=said)


def decoding(settings: SamplingConfig, seed: int, *, n: int = 1, schema: Mapping[str, Any] | None = None) -> Sampling:
    """A request's sampling from its settings."""
    return Sampling(n=n, seed=seed, temperature=settings.temperature, top_p=settings.top_p, max_tokens=settings.max_tokens, schema=schema)


def attempts(settings: SamplingConfig, tries: int, schema: Mapping[str, Any], *draw: Any) -> Iterator[Sampling]:
    """The samplings of up to `tries` attempts at one draw, each with a seed of its own."""
    return (decoding(settings, derive_seed(*draw, attempt), schema=schema) for attempt in range(tries))


def total_usage(*usages: Usage) -> Usage:
    """The sum of several requests' tokens."""
    # Sums of what was validated need not be validated.
    return Usage.model_construct(**{name: sum(getattr(usage, name) for usage in usages) for name in Usage.model_fields})
