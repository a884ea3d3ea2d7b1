"""A model behind an OpenAI-compatible URL, every reply journalled before it is used."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import PIL.Image

from insightv.config import EndpointConfig
from insightv.images import encode_png
from insightv.models.chat import Delta, EndpointDown, Image, Message, Reply, Sampling, Text, request_key, text_message
from insightv.models.sse import read_stream
from insightv.models.transport import Refused, Stumbled, Transport
from insightv.models.wire import BrokenReply, ImageParts, image_part, read_completion, read_row, read_usage, request_body
from insightv.records import Usage
from insightv.store import ImageStore, Journal, content_hash

LONGEST_BACKOFF = 60.0


class RequestFailed(RuntimeError):
    """A streamed request that the endpoint refused or broke off."""


@dataclass
class Stats:
    """What an endpoint was asked since it was made."""

    requests: int = 0
    """Requests sent, further attempts included."""
    retries: int = 0
    """Those among them that asked once more, after a failure or a refused schema."""
    journalled: int = 0
    """Replies that the journal gave for nothing."""
    failed: int = 0
    """Requests that failed for good."""
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    """Prompt tokens that the server had in its prefix cache."""
    spend: float = 0.0
    """In the currency of the config's prices."""


class Endpoint:
    """A `Chat` over HTTP.

    400, 404, 413 and 422 are final; other failures are retried `config.retries` times with jittered backoff outside the
    slot; either way the row is then journalled as failed and given again, unless `retry_failed` asks once more.
    """

    def __init__(self, config: EndpointConfig, images: ImageStore, journal: Journal | None, *, retry_failed: bool = False) -> None:
        self.stats = Stats()
        self._config = config
        self._journal = journal
        self._retry_failed = retry_failed
        self._asked_again: set[str] = set()
        self._transport = Transport(config)
        self._part = ImageParts(images)
        # By schema: whether a request that carried it was ever answered; none while nobody knows.
        self._schemas: dict[str, bool] = {}

    @property
    def identity(self) -> str:
        """`model@revision`."""
        return f"{self._config.model}@{self._config.revision}"

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> list[Reply]:
        """One request per index that the journal lacks; see `Chat.complete`."""
        sampling = self._with_extra(sampling)
        tasks = [asyncio.create_task(self._reply(messages, sampling, index)) for index in range(sampling.first, sampling.first + sampling.n)]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Yield one reply as it comes; not journalled and not retried: `RequestFailed` or `EndpointDown`."""
        sampling = self._with_extra(sampling)
        body = request_body(self._config.model, messages, sampling, sampling.first, self._part, stream=True)
        self.stats.requests += 1
        try:
            async with self._transport.lines(body) as lines:
                async for delta in read_stream(lines):
                    if delta.usage:
                        self._count(delta.usage)
                    yield delta
        except (Refused, Stumbled, BrokenReply) as error:
            raise RequestFailed(f"{self._config.url}: {error}") from error

    async def probe(self) -> dict[str, Any]:
        """Facts for `insightv check`, from at most three small requests that are not journalled.

        Keys: `reachable`; `listed` (None without a list of models); `answers`; `seconds` of a request; `json_schema` and
        `image`, whether accepted; `error`, what the failures said.
        """
        facts: dict[str, Any] = {"reachable": False, "listed": None, "answers": False, "seconds": None, "json_schema": False, "image": False, "error": ""}
        try:
            listed = await self._transport.models()
        except EndpointDown as error:
            return facts | {"error": str(error)}
        names = [model.get("id") for model in listed.get("data") or () if isinstance(model, dict)] if isinstance(listed, dict) else None
        facts |= {"reachable": True, "listed": None if names is None else self._config.model in names}
        requests = _probes(self._config.model, self._with_extra(Sampling(max_tokens=64)))
        failures: list[str] = []
        for name, body in requests.items():
            begun = time.monotonic()
            try:
                read_completion(await self._transport.post(body))
                facts[name] = True
            except (Refused, Stumbled, BrokenReply) as error:
                failures.append(f"{name}: {error}")
            except EndpointDown as error:
                return facts | {"reachable": False, "error": str(error)}
            if name == "answers":
                facts["seconds"] = time.monotonic() - begun
        return facts | {"error": "; ".join(failures)}

    async def close(self) -> None:
        """End the connections."""
        await self._transport.close()

    async def _reply(self, messages: Sequence[Message], sampling: Sampling, index: int) -> Reply:
        key, row = self._journalled(messages, sampling, index)
        if row is not None:
            self.stats.journalled += 1
            return read_row(row)
        row = await self._ask(messages, sampling, index)
        reply = read_row(await self._journal.put(key, row) if self._journal else row)
        self.stats.failed += reply.finish == "failed"
        return reply

    def _journalled(self, messages: Sequence[Message], sampling: Sampling, index: int) -> tuple[str, dict[str, Any] | None]:
        """The row that stands for a request, or None and the key to ask under: each wish to retry has a key of its own."""
        attempt = 0
        key = first = request_key(self.identity, messages, sampling, index)
        row = self._journal.get(key) if self._journal else None
        while row is not None and read_row(row).finish == "failed" and self._journal:
            attempt += 1
            following = request_key(self.identity, messages, sampling, index, attempt)
            later = self._journal.get(following)
            if later is None and self._retry_failed and first not in self._asked_again:
                self._asked_again.add(first)
                return following, None
            if later is None:
                break
            key, row = following, later
        return key, row

    async def _ask(self, messages: Sequence[Message], sampling: Sampling, index: int) -> dict[str, Any]:
        """The raw reply, or a row with an `error`; `attempts` holds what went wrong before."""
        attempts: list[str] = []
        shape = content_hash(sampling.schema) if sampling.schema is not None else ""
        schema = bool(shape) and self._schemas.get(shape, True)
        while True:
            self.stats.requests += 1
            try:
                row = read_completion(await self._transport.post(request_body(self._config.model, messages, sampling, index, self._part, schema=schema)))
            except Refused as error:
                attempts.append(str(error))
                # What others learnt while this request was under way does not settle it, unless the schema worked for one of them.
                if not schema or error.status not in (400, 422) or self._schemas.get(shape):
                    return {"error": str(error), "attempts": attempts}
                # The one fallback: a server that cannot enforce a schema says so with 400; replies are validated anyway.
                schema = False
                self.stats.retries += 1
            except (Stumbled, BrokenReply) as error:
                attempts.append(str(error))
                if len(attempts) > self._config.retries:
                    return {"error": f"gave up after {len(attempts)} attempts: {error}", "attempts": attempts}
                self.stats.retries += 1
                await asyncio.sleep(_backoff(len(attempts), error.wait if isinstance(error, Stumbled) else 0.0))
            else:
                if shape:
                    self._schemas[shape] = schema or self._schemas.get(shape, False)
                self._count(read_usage(row["usage"]))
                return row | {"attempts": attempts}

    def _with_extra(self, sampling: Sampling) -> Sampling:
        # Into the sampling, so that the config's fields are part of the request's key too.
        return replace(sampling, extra={**self._config.extra, **sampling.extra})

    def _count(self, usage: Usage) -> None:
        self.stats.prompt += usage.prompt
        self.stats.completion += usage.completion
        self.stats.cached += usage.cached
        self.stats.spend += (usage.prompt * self._config.price_in + usage.completion * self._config.price_out) / 1e6


def _backoff(attempt: int, wait: float) -> float:
    """Seconds before the next attempt: doubled each time, jittered, and never shorter than the server asked for."""
    # Jitter spreads load; it decides nothing that is written down.
    return max(wait, min(LONGEST_BACKOFF, 0.5 * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.5))


def _probes(model: str, sampling: Sampling) -> dict[str, bytes]:
    """Small requests by the capability that they try."""
    grey = orjson.Fragment(image_part(encode_png(PIL.Image.new("RGB", (64, 64), "grey"))))
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"], "additionalProperties": False}
    plain = [text_message("user", "Answer with the one word: ready")]
    asked = {
        "answers": (plain, sampling),
        "json_schema": ([text_message("user", 'Answer with JSON: {"answer": "ready"}')], replace(sampling, schema=schema)),
        "image": ([Message("user", (Image(""), Text("Name the colour of the image in one word.")))], sampling),
    }
    return {name: request_body(model, messages, settings, 0, lambda _: grey) for name, (messages, settings) in asked.items()}
