"""Completions: from a request to the agents' work, and from its pieces to a reply or a stream."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from insightv.generation.ask import total_usage
from insightv.models.chat import Delta, TooLong
from insightv.records import Usage
from insightv.serving.intake import HeldImages, Intake
from insightv.serving.metrics import Metrics, Watch
from insightv.serving.replies import DONE, ApiError, Events, completion
from insightv.serving.request import Asked, ChatRequest, image_urls, read_request
from insightv.serving.systems import Pair, answer
from insightv.serving.work import Piece, Put, Work, at_once, while_there
from insightv.store import derive_seed

log = logging.getLogger(__name__)


class Service:
    """Completions of one pair, whose agents read images from `images`."""

    def __init__(self, pair: Pair, images: HeldImages, intake: Intake) -> None:
        self.metrics = Metrics()
        self._pair, self._images, self._intake = pair, images, intake
        self._in_work = 0

    async def answer(self, asked: ChatRequest, request_id: str, receive: Receive) -> Response:
        """A whole reply, or a stream that begins with its first text: what fails before that is an error like any other.

        Raises `ApiError`, and `ClientGone`, with all work ended, when nobody waits any more.
        """
        chains = (asked.n or 1) * self._pair.read_name(asked.model)[1]
        try:
            self._refuse_too_much(asked, chains)
        except ApiError as error:
            self.metrics.refused(asked.model, error.status, chains <= self._pair.serve.max_n)
            raise
        self._in_work += 1
        work = Work(partial(self._work, asked, request_id), self._one_less)
        streams = False
        try:
            pieces = await while_there(receive, work.next())
            if asked.stream:
                streams = True
                return EventStream(work, pieces, asked, request_id, self._fields(asked))
            pieces += await while_there(receive, work.rest())
            return Response(whole(pieces, asked, request_id, self._fields(asked)), media_type="application/json")
        finally:
            if not streams:
                await work.stop()

    async def _work(self, asked: ChatRequest, request_id: str, put: Put) -> None:
        """All choices of a request; its images are held meanwhile."""
        watch, status = Watch(self.metrics, asked.model), "gone"
        try:
            async with asyncio.timeout(self._pair.serve.timeout):
                data = await self._intake.read(image_urls(asked))
                with self._images.holding(data) as digests:
                    question = read_request(asked, digests, self._pair.systems, self._pair.serve)
                    await at_once(self._choice(asked, question, index, put, watch) for index in range(asked.n or 1))
            status = "200"
        except Exception as error:
            known = error if isinstance(error, ApiError) else _failed(error)
            status = str(known.status)
            if known is not error:
                log.warning("%s: %s: %s", request_id, type(error).__name__, error)
            raise known from error
        finally:
            watch.end(status)

    async def _choice(self, asked: ChatRequest, question: Asked, index: int, put: Put, watch: Watch) -> None:
        seed = derive_seed(question.seed, index)
        async with aclosing(answer(self._pair, asked.model, question, asked.select or "majority", seed)) as deltas:
            async for delta in deltas:
                watch.see(delta)
                put((index, delta))

    def _one_less(self) -> None:
        self._in_work -= 1

    def _refuse_too_much(self, asked: ChatRequest, chains: int) -> None:
        limits = self._pair.serve
        if chains > limits.max_n:
            raise ApiError(400, f"that takes {chains} chains; this server writes {limits.max_n} at most for a request", "n")
        if len(asked.messages) > limits.max_messages:
            raise ApiError(400, f"the conversation has {len(asked.messages)} messages; this server reads {limits.max_messages} at most", "messages")
        if asked.select == "judged" and self._pair.judge is None:
            raise ApiError(400, "this server has no judge; set serve.judge, or ask for select: majority", "select")
        if self._in_work >= limits.max_requests:
            raise ApiError(429, f"{limits.max_requests} requests are in work; try again in a moment", code="rate_limit_exceeded")

    def _fields(self, asked: ChatRequest) -> Sequence[str]:
        """The names under which the reply carries the reasoning."""
        if asked.reasoning and asked.reasoning.exclude:
            return ()
        field = self._pair.serve.reasoning_field
        return ("reasoning", "reasoning_content") if field == "both" else (field,)


def whole(pieces: Iterable[Piece], asked: ChatRequest, request_id: str, fields: Sequence[str]) -> bytes:
    """The reply that all pieces make."""
    texts = [{"reasoning": "", "content": ""} for _ in range(asked.n or 1)]
    finishes, usage = ["stop"] * len(texts), Usage()
    for index, delta in pieces:
        if delta.kind == "usage":
            finishes[index], usage = delta.finish or "stop", total_usage(usage, delta.usage or Usage())
        else:
            texts[index][delta.kind] += delta.text
    return completion(request_id, asked.model, texts, finishes, usage, fields)


class EventStream(Response):
    """Server-sent events of the pieces of a request's work; the work ends with the client's connection."""

    media_type = "text/event-stream"

    def __init__(self, work: Work, first: list[Piece], asked: ChatRequest, request_id: str, fields: Sequence[str]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._work, self._first, self._id = work, first, request_id
        self._events, self._choices = Events(request_id, asked.model, fields), asked.n or 1
        self._tells_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        self._usage = Usage()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await while_there(receive, self._pump(send))
        finally:
            await self._work.stop()

    async def _pump(self, send: Send) -> None:
        body = self._events.begin(self._choices)
        pieces = self._first
        try:
            while pieces:
                await send({"type": "http.response.body", "body": body + b"".join(self._told(pieces)), "more_body": True})
                body, pieces = b"", await self._work.next()
            body = (self._events.usage(self._usage) if self._tells_usage else b"") + DONE
        except ApiError as error:
            # No end is told: a client must not take what came so far for the whole.
            body = b"data: " + error.body(self._id) + b"\n\n"
        await send({"type": "http.response.body", "body": body})

    def _told(self, pieces: Iterable[Piece]) -> Iterator[bytes]:
        for index, delta in joined(pieces):
            if delta.kind == "usage":
                self._usage = total_usage(self._usage, delta.usage or Usage())
                yield self._events.end(index, delta.finish or "stop")
            else:
                yield self._events.piece(index, delta)


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same with neighbours of one kind in one: who is slow to read gets fewer and larger events."""
    found: list[Piece] = []
    for index, delta in pieces:
        if found and found[-1][0] == index and found[-1][1].kind == delta.kind != "usage":
            found[-1] = index, Delta(delta.kind, found[-1][1].text + delta.text)
        else:
            found.append((index, delta))
    return found


def _failed(error: Exception) -> ApiError:
    if isinstance(error, TimeoutError):
        return ApiError(504, "the agents took too long; ask for fewer tokens, or raise serve.timeout", code="timeout")
    if isinstance(error, TooLong):
        advice = "send fewer turns or smaller images, or ask for fewer tokens"
        return ApiError(400, f"the conversation does not fit an agent's context; {advice}", "messages", "context_length_exceeded")
    return ApiError(502, "an agent failed; the server's log has the reason under this request's id", code="agent_failed")
