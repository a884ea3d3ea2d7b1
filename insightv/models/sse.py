"""Streamed replies: typed deltas from server-sent events."""

from collections.abc import AsyncIterable, AsyncIterator, Iterator

from insightv.models.chat import Delta
from insightv.models.wire import BrokenReply, content_text, error_text, parse_object, read_usage


async def read_stream(lines: AsyncIterable[bytes]) -> AsyncIterator[Delta]:
    """Deltas from the lines of a server-sent event stream; `BrokenReply` where an event is not JSON or says an error."""
    splitter = ThinkSplitter()
    async for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            break
        event = parse_object(data)
        if event.get("error"):
            raise BrokenReply(f"the stream broke off: {error_text(data)}")
        choices = event.get("choices")
        delta = choices[0].get("delta") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
        if isinstance(delta, dict):
            reasoning = content_text(delta.get("reasoning")) or content_text(delta.get("reasoning_content"))
            if reasoning:
                yield Delta("reasoning", reasoning)
            for piece in splitter.feed(content_text(delta.get("content"))):
                yield piece
        if event.get("usage"):
            yield Delta("usage", usage=read_usage(event["usage"]))
    for piece in splitter.feed("", last=True):
        yield piece


class ThinkSplitter:
    """Splits a leading <think> block off content that comes in pieces."""

    def __init__(self) -> None:
        self._state = "start"
        self._held = ""

    def feed(self, text: str, last: bool = False) -> Iterator[Delta]:
        """Deltas that are certain after this piece; what may still be part of a tag is held back until `last`."""
        self._held += text
        if self._state == "start":
            start = self._held.lstrip()
            if start.startswith("<think>"):
                self._state, self._held = "think", start.removeprefix("<think>")
            elif last or not "<think>".startswith(start[:7]):
                self._state = "content"
        if self._state == "think":
            reasoning, end, rest = self._held.partition("</think>")
            if end:
                self._state, self._held = "after", rest
            else:
                keep = 0 if last else max((size for size in range(1, 8) if reasoning.endswith("</think>"[:size])), default=0)
                reasoning, self._held = reasoning[: len(reasoning) - keep], reasoning[len(reasoning) - keep :]
            if reasoning:
                yield Delta("reasoning", reasoning)
        if self._state == "after":
            self._held = self._held.lstrip()
            self._state = "content" if self._held else "after"
        if self._state == "content" and self._held:
            yield Delta("content", self._held)
            self._held = ""
