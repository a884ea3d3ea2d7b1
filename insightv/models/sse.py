"""Streamed replies: typed deltas from server-sent events."""

from collections.abc import AsyncIterable, AsyncIterator, Iterator

from insightv.models.chat import Delta
from insightv.models.wire import BrokenReply, content_text, error_text, parse_object, read_usage
from insightv.records import Usage


async def read_stream(lines: AsyncIterable[bytes]) -> AsyncIterator[Delta]:
    """Deltas from the lines of a server-sent event stream; `BrokenReply` where an event is not JSON, says an error, or none says the end."""
    splitter = ThinkSplitter()
    usage, finish, done, begun = Usage(), None, False, False
    async for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            done = True
            break
        event = parse_object(data)
        if event.get("error"):
            raise BrokenReply(f"the stream broke off: {error_text(data)}")
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        finish = choice.get("finish_reason") or finish
        delta = choice.get("delta")
        begun = begun or bool(choice)
        if isinstance(delta, dict):
            reasoning = content_text(delta.get("reasoning")) or content_text(delta.get("reasoning_content"))
            if reasoning:
                yield Delta("reasoning", reasoning)
            for piece in splitter.feed(content_text(delta.get("content"))):
                yield piece
        if event.get("usage"):
            usage = read_usage(event["usage"])
    if not (finish or done) or not begun:
        raise BrokenReply("the stream ended in the middle of the reply")
    if finish == "content_filter":
        raise BrokenReply("the server's content filter stopped the reply")
    for piece in splitter.feed("", last=True):
        yield piece
    yield Delta("usage", usage=usage, finish="length" if finish == "length" else "stop")


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
