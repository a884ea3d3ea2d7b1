"""A model behind an OpenAI-compatible URL, every reply journalled before it is used."""

import random
import time
from collections.abc import AsyncGenerator, Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import PIL.Image

from insightv.config import EndpointConfig
from insightv.images import encode_png
from insightv.journal import Bill
from insightv.models.chat import Delta, EndpointDown, Image, Message, Reply, Sampling, Text, TooLong, request_key, text_message
from insightv.models.meter import Meter, Stats
from insightv.models.sse import read_stream
from insightv.models.together import together
from insightv.models.transport import Refused, Stumbled, Transport
from insightv.models.wire import BrokenReply, ImageParts, Json, image_part, read_completion, read_row, request_body, says_too_long
from insightv.records import Usage
from insightv.store import Images, ImageStore, Journal, content_hash

LONGEST_BACKOFF = 60.0
_IMAGE_CACHE = 256
"""Megabytes."""


class RequestFailed(RuntimeError):
    """A streamed request that the endpoint refused or broke off."""


class Endpoint:
    """A `Chat` over HTTP.

    400, 404, 413 and 422 are final; other failures are retried `config.retries` times with jittered backoff outside the
    place; either way the row is then journalled as failed and given again, unless `retry_failed` asks once more.
    """

    def __init__(self, config: EndpointConfig, images: Images, journal: Journal | None, *, retry_failed: bool = False, meter: Meter | None = None) -> None:
        self.stats = Stats()
        self._config = config
        self._journal = journal
        self._retry_failed = retry_failed
        self._asked_again: set[str] = set()
        self._billed = 0
        meter = meter or Meter()
        meter.join(self.stats)
        self._transport = Transport(config, meter, self.stats)
        # A run asks of an image many times, a server's request of its own but once.
        self._part = ImageParts(images, config.images, cache=_IMAGE_CACHE if isinstance(images, ImageStore) else 0)
        # By schema: whether a request that carried it was ever answered; none while nobody knows.
        self._schemas: dict[str, bool] = {}
        self._shapes: dict[int, tuple[Any, str]] = {}

    @property
    def identity(self) -> str:
        """`model@revision`."""
        return f"{self._config.model}@{self._config.revision}"

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> list[Reply]:
        """Ask for the indices that the journal lacks; see `Chat.complete`."""
        sampling = self._with_extra(sampling)
        found: dict[int, Reply] = {}
        lacking: list[tuple[int, str]] = []
        for index in range(sampling.first, sampling.first + sampling.n):
            key, row = self._journalled(messages, sampling, index)
            if row is None:
                lacking.append((index, key))
            else:
                self.stats.journalled += 1
                found[index] = read_row(row)
        groups = _groups(lacking, self._config.n_per_request)
        if len(groups) == 1:
            found |= await self._replies(messages, sampling, groups[0])
        elif groups:
            for replies in await together(self._replies(messages, sampling, group) for group in groups):
                found |= replies
        return [found[index] for index in sorted(found)]

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """Yield one reply as it comes; not journalled and not retried: `RequestFailed`, `TooLong` or `EndpointDown`."""
        sampling = self._with_extra(sampling)
        body = request_body(self._config.model, messages, sampling, sampling.first, self._part, stream=True)
        try:
            async with self._transport.lines(body) as lines:
                async for delta in read_stream(lines):
                    if delta.usage:
                        self._count(delta.usage)
                    yield delta
        except (Refused, Stumbled, BrokenReply) as error:
            failure = TooLong if isinstance(error, Refused) and says_too_long(str(error)) else RequestFailed
            raise failure(f"{self._config.url}: {error}") from error

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
            try:
                data, seconds = await self._transport.post(partial(_ready, body))
                read_completion(data)
                facts[name] = True
            except (Refused, Stumbled, BrokenReply) as error:
                failures.append(f"{name}: {error}")
            except EndpointDown as error:
                return facts | {"reachable": False, "error": str(error)}
            if name == "answers":
                facts["seconds"] = seconds
        return facts | {"error": "; ".join(failures)}

    async def close(self) -> None:
        """End the connections."""
        await self._transport.close()
        if self._journal and (rest := self.stats.requests - self._billed) > 0:
            # Sent, but no row came of it: the attempts at what was halted then, and what was sent once more within an attempt.
            self._journal.put_many({}, {self.identity: Bill(requests=rest)})
            self._billed += rest

    async def _replies(self, messages: Sequence[Message], sampling: Sampling, lacking: list[tuple[int, str]]) -> dict[int, Reply]:
        """Replies by index, asked for in one request as far as the server gives as many, and journalled."""
        found: dict[int, Reply] = {}
        while lacking:
            rows = await self._ask(messages, sampling, lacking[0][0], len(lacking))
            stored = [self._stored(key, row, first=not place) for place, ((_, key), row) in enumerate(zip(lacking, rows, strict=False))]
            for (index, _), reply in zip(lacking, await together(stored) if len(stored) > 1 else [await stored[0]], strict=False):
                found[index] = reply
                self.stats.failed += reply.finish == "failed"
            lacking = lacking[len(rows) :]
        return found

    async def _stored(self, key: str, row: Json, first: bool) -> Reply:
        """What the row means that stands after the commit; price and bill of a request stand with its first row."""
        reply = read_row(row)
        if first and "error" not in row and (cost := self._count(reply.usage)):
            row["cost"] = cost
        if self._journal is None:
            return reply
        requests = len(row["attempts"]) + ("error" not in row) if first else 0
        self._billed += requests
        usage = reply.usage
        bill = Bill(requests, int("error" in row), usage.prompt, usage.completion, usage.cached, row.get("cost", 0.0))
        standing = await self._journal.put(key, row, bill)
        return reply if standing is row else read_row(standing)

    def _journalled(self, messages: Sequence[Message], sampling: Sampling, index: int) -> tuple[str, Json | None]:
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

    async def _ask(self, messages: Sequence[Message], sampling: Sampling, index: int, n: int) -> list[Json]:
        """Up to `n` raw replies, or `n` rows with an `error`; `attempts` holds what went wrong before."""
        attempts: list[str] = []
        begun = time.monotonic()
        shape = self._shape(sampling.schema)
        schema = bool(shape) and self._schemas.get(shape, True)
        images = [part.digest for message in messages for part in message.parts if isinstance(part, Image)]
        prefix = hash(tuple(messages[:2])) if self._config.replicas else 0
        while True:

            def body(known: Container[str], schema: bool = schema) -> list[bytes]:
                return request_body(self._config.model, messages, sampling, index, lambda digest: self._part(digest, known), n=n, schema=schema)

            try:
                data, seconds = await self._transport.post(body, images, prefix)
                rows = read_completion(data)[:n]
            except Refused as error:
                attempts.append(str(error))
                # What others learnt while this request was under way does not settle it, unless the schema worked for one of them.
                if not schema or error.status not in (400, 422) or self._schemas.get(shape):
                    return self._failed(str(error), attempts, n)
                # The one fallback: a server that cannot enforce a schema says so with 400; replies are validated anyway.
                schema = False
                self.stats.retries += 1
            except (Stumbled, BrokenReply) as error:
                attempts.append(str(error))
                wait = _backoff(len(attempts), error.wait if isinstance(error, Stumbled) else 0.0)
                if self._gives_up(error, len(attempts), time.monotonic() - begun, wait):
                    return self._failed(f"gave up after {len(attempts)} attempts: {error}", attempts, n)
                self.stats.retries += 1
                await self._transport.rest(wait)
            else:
                if shape:
                    self._schemas[shape] = schema or self._schemas.get(shape, False)
                told = {"model": self.identity, "attempts": attempts, "seconds": round(seconds, 3)}
                return [row | told for row in rows]

    def _shape(self, schema: Mapping[str, Any] | None) -> str:
        """A schema's hash; that of one object is taken once."""
        if schema is None:
            return ""
        if id(schema) not in self._shapes:
            # With the object itself, so that no other takes its id.
            self._shapes[id(schema)] = schema, content_hash(schema)
        return self._shapes[id(schema)][1]

    def _failed(self, error: str, attempts: list[str], n: int) -> list[Json]:
        return [{"error": error, "model": self.identity, "attempts": attempts}] * n

    def _gives_up(self, error: Exception, attempts: int, elapsed: float, wait: float) -> bool:
        if self._config.deadline is not None and elapsed + wait > self._config.deadline:
            return True
        # A server that is asked too much refuses whom it will: that is no fault of the request, which would fail by bad luck alone.
        throttled = isinstance(error, Stumbled) and error.status == 429
        return attempts > self._config.retries and not (throttled and elapsed + wait < self._config.max_outage)

    def _with_extra(self, sampling: Sampling) -> Sampling:
        # Into the sampling, so that the config's fields are part of the request's key too.
        return replace(sampling, extra={**self._config.extra, **sampling.extra}) if self._config.extra else sampling

    def _count(self, usage: Usage) -> float:
        cost = self._config.cost(usage.prompt, usage.completion, usage.cached)
        self.stats.use(usage, cost)
        self._transport.used(usage.prompt + usage.completion)
        return cost


def _groups(lacking: list[tuple[int, str]], most: int) -> list[list[tuple[int, str]]]:
    """Indices that follow each other, with their keys, in groups for one request each."""
    groups: list[list[tuple[int, str]]] = []
    for item in lacking:
        if groups and len(groups[-1]) < most and item[0] == groups[-1][-1][0] + 1:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _backoff(attempt: int, wait: float) -> float:
    """Seconds before the next attempt: doubled each time, jittered, and never shorter than the server asked for."""
    # Jitter spreads load; it decides nothing that is written down.
    return max(wait, min(LONGEST_BACKOFF, 0.5 * 2.0 ** min(attempt - 1, 10)) * random.uniform(0.5, 1.5))


def _ready(body: list[bytes], known: Container[str]) -> list[bytes]:
    return body


def _probes(model: str, sampling: Sampling) -> dict[str, list[bytes]]:
    """Small requests by the capability that they try."""
    grey = image_part(encode_png(PIL.Image.new("RGB", (64, 64), "grey")))
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"], "additionalProperties": False}
    plain = [text_message("user", "Answer with the one word: ready")]
    asked = {
        "answers": (plain, sampling),
        "json_schema": ([text_message("user", 'Answer with JSON: {"answer": "ready"}')], replace(sampling, schema=schema)),
        "image": ([Message("user", (Image(""), Text("Name the colour of the image in one word.")))], sampling),
    }
    return {name: request_body(model, messages, settings, 0, lambda _: grey) for name, (messages, settings) in asked.items()}
