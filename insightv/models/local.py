"""A Chat over a model in this process: concurrent requests are sorted, cut into batches, decoded in a thread and journalled whole."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from insightv.config import LocalConfig, UserError
from insightv.models.chat import Delta, Message, Reply, Sampling, TooLong, request_key
from insightv.models.decoding import Sample, context, decode, reply_text
from insightv.models.vlm import VLM, Encoded, encode_text, image_digests, render, tokenize
from insightv.models.wire import says_too_long
from insightv.records import Usage
from insightv.store import Images, Journal, derive_seed

_QUIET = 0.01
"""Seconds without a new request after which those that wait are decoded."""

Row = dict[str, Any]


@dataclass(eq=False)
class _Ticket:
    """A sample that somebody waits for."""

    order: tuple[int, str, int]
    """Tokens of the prompt's text, hash of the prompt, index: neighbours have prompts of one length, or the same prompt."""
    key: str
    text: str
    """The rendered prompt. It is tokenized again when its turn comes: thousands may wait, and pixels are large."""
    digests: list[str]
    sampling: Sampling
    answer: "asyncio.Future[Row]"
    watch: Callable[[str], None] | None
    """Called with the whole text so far, in the decoding thread."""
    sample: Sample | None = None


class LocalChat:
    """Answers from local weights, in batches of `config.batch_size` samples.

    All requests that wait are sorted by prompt length and key and cut into batches, and a batch is journalled whole before anybody gets a
    reply. So whoever submits all of a stage's requests at once gets the same batches, and the same bytes, when a killed stage is run again:
    what is left then is cut at the same places.
    """

    def __init__(
        self,
        vlm: VLM,
        images: Images,
        journal: Journal | None,
        config: LocalConfig,
        *,
        thread: ThreadPoolExecutor | None = None,
        turn: Callable[[], object] | None = None,
    ) -> None:
        """`thread` is one that several decode in, by turns; `turn` is called in it before each batch, to make the shared model this one."""
        self._vlm = vlm
        self._images = images
        self._journal = journal
        self._batch_size = config.batch_size
        self._waiting: list[_Ticket] = []
        self._server: asyncio.Task[None] | None = None
        self._thread = thread or decoding_thread(config)
        self._turn = turn

    @property
    def identity(self) -> str:
        """Hash of weights, adapter and processor."""
        return self._vlm.identity

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> list[Reply]:
        """Answer with `sampling.n` replies, decoding those that the journal lacks; a conversation that does not fit the model fails for good.

        A schema is not enforced: replies are validated by whoever asked.
        """
        return await self._complete(messages, sampling)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """Yield one reply's text as it is decoded, then its usage; a failed reply is a `UserError`, or `TooLong`."""
        loop, texts = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        def watch(text: str) -> None:
            loop.call_soon_threadsafe(texts.put_nowait, text)

        answer = asyncio.ensure_future(self._complete(messages, sampling.only(sampling.first), watch))
        answer.add_done_callback(lambda _: texts.put_nowait(None))
        shown = ""
        try:
            while (text := await texts.get()) is not None:
                if len(text) > len(shown):
                    yield Delta("content", text[len(shown) :])
                    shown = text
            [reply] = await answer
        finally:
            answer.cancel()
        if reply.finish == "failed":
            raise TooLong(reply.error) if says_too_long(reply.error) else UserError(reply.error)
        if len(reply.text) > len(shown):
            yield Delta("content", reply.text[len(shown) :])
        yield Delta("usage", usage=reply.usage, finish=reply.finish)

    async def close(self) -> None:
        """End the decoding thread; whoever still waits is cancelled."""
        if self._server and not self._server.done():
            self._server.cancel()
            await asyncio.gather(self._server, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def _complete(self, messages: Sequence[Message], sampling: Sampling, watch: Callable[[str], None] | None = None) -> list[Reply]:
        indices = range(sampling.first, sampling.first + sampling.n)
        keys = {request_key(self.identity, messages, sampling, index): index for index in indices}
        rows = self._journal.get_many(keys) if self._journal else {}
        text = render(self._vlm, messages, generation_prompt=True, prefill=sampling.prefill)
        length, group = len(tokenize(self._vlm, text)), request_key(self.identity, messages, sampling, 0)
        loop = asyncio.get_running_loop()
        tickets = [
            _Ticket((length, group, index), key, text, image_digests(messages), sampling, loop.create_future(), watch)
            for key, index in keys.items()
            if key not in rows
        ]
        self._waiting += tickets
        if tickets and (self._server is None or self._server.done()):
            self._server = loop.create_task(self._serve())
        try:
            await asyncio.gather(*(ticket.answer for ticket in tickets))
        finally:
            _abandon(tickets)
        rows |= {ticket.key: ticket.answer.result() for ticket in tickets}
        return [_reply(rows[key]) for key in keys]

    async def _serve(self) -> None:
        """Decode what waits, wave by wave, until nothing does."""
        wave: list[_Ticket] = []
        try:
            while self._waiting:
                await self._quiet()
                wave, self._waiting = sorted(self._waiting, key=lambda ticket: ticket.order), []
                for start in range(0, len(wave), self._batch_size):
                    await self._answer([ticket for ticket in wave[start : start + self._batch_size] if not ticket.answer.done()])
        finally:
            # Somebody is left only when this task was cancelled.
            _abandon([*wave, *self._waiting])
            self._waiting = []

    async def _quiet(self) -> None:
        known = -1
        while known != len(self._waiting):
            known = len(self._waiting)
            await asyncio.sleep(_QUIET)

    async def _answer(self, batch: list[_Ticket]) -> None:
        """Decode one batch in the thread and hand out what came of it."""
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._thread, self._decode, batch)
        except Exception as error:
            for ticket in batch:
                if not ticket.answer.done():
                    ticket.answer.set_exception(error)
            return
        for ticket in batch:
            if ticket.key in rows and not ticket.answer.done():
                ticket.answer.set_result(rows[ticket.key])

    def _decode(self, batch: list[_Ticket]) -> dict[str, Row]:
        """Rows by key of all samples that were not cancelled, after their commit."""
        prompts: dict[str, Encoded | Row] = {}
        rows: dict[str, Row] = {}
        for ticket in batch:
            group = ticket.order[1]
            if group not in prompts:
                prompts[group] = self._encode(ticket)
            prompt = prompts[group]
            if isinstance(prompt, Encoded):
                ticket.sample = Sample(prompt, ticket.sampling, derive_seed(ticket.sampling.seed, ticket.order[2]), self._watcher(ticket))
                ticket.sample.cancelled = ticket.answer.cancelled()
            else:
                rows[ticket.key] = prompt
        if self._turn:
            self._turn()
        begun = time.monotonic()
        decode(self._vlm, [ticket.sample for ticket in batch if ticket.sample])
        seconds = round(time.monotonic() - begun, 3)
        rows |= {ticket.key: self._row(ticket.sample) | {"seconds": seconds} for ticket in batch if ticket.sample and ticket.sample.finish}
        return self._journal.put_many(rows) if self._journal else rows

    def _encode(self, ticket: _Ticket) -> Encoded | Row:
        """The prompt as the model is given it, or the row of a request that failed for good."""
        try:
            prompt = encode_text(self._vlm, ticket.text, [self._images.get(digest) for digest in ticket.digests])
        except ValueError as error:
            return {"error": str(error)}
        if len(prompt.input_ids) >= context(self._vlm):
            return {"error": f"the prompt has {len(prompt.input_ids)} tokens; with the reply the model's context length is {context(self._vlm)}"}
        return prompt

    def _watcher(self, ticket: _Ticket) -> Callable[[Sample], None] | None:
        watch = ticket.watch
        return (lambda sample: watch(_settled(reply_text(self._vlm, sample), sample))) if watch else None

    def _row(self, sample: Sample) -> Row:
        usage = {"prompt": len(sample.prompt.input_ids), "completion": len(sample.ids)}
        return {"text": reply_text(self._vlm, sample), "finish": sample.finish, "usage": usage, "logprobs": sample.logprobs}


def decoding_thread(config: LocalConfig) -> ThreadPoolExecutor:
    """A thread to decode in, with as many of torch's own as the config says."""
    threads = config.threads
    return ThreadPoolExecutor(1, "decoding", initializer=lambda: torch.set_num_threads(threads) if threads else None)


def _abandon(tickets: Iterable[_Ticket]) -> None:
    """Let go of what has no answer yet; a sample that is being decoded ends at its next token."""
    for ticket in tickets:
        ticket.answer.cancel()
        if ticket.sample and ticket.answer.cancelled():
            ticket.sample.cancelled = True


def _settled(text: str, sample: Sample) -> str:
    """The part of a growing text that later tokens cannot change: no torn character, no beginning of a stop string."""
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    held = max((len(stop) - 1 for stop in sample.sampling.stop), default=0)
    return text[: len(text) - held] if held else text


def _reply(row: Row) -> Reply:
    if error := row.get("error"):
        return Reply("", finish="failed", error=error)
    return Reply(row["text"], finish=row["finish"], usage=Usage(**row["usage"]), logprobs=tuple(row["logprobs"]), seconds=row.get("seconds", 0.0))
