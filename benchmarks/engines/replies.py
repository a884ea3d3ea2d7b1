"""What the stub says: steps, conclusions, refusals and broken bodies, ready-made but for the row's digits. The standard library alone."""

import json

from benchmarks.engines.weather import SHAPES

_WORDS = "The pixels of this column are compared with those of the column to its left, first by their mean and then by their median. "
_USAGE = {"prompt_tokens": 812, "completion_tokens": 196, "total_tokens": 1008, "prompt_tokens_details": {"cached_tokens": 512}}


class Replies:
    """Complete HTTP responses by what is asked; `steps` of a chain come before its conclusion."""

    def __init__(self, steps: int) -> None:
        texts = [
            {"summary": f"Column {step} of item %R", "reasoning": f"Item %R, column {step}. {_WORDS * 8}", "action": "summary" if step >= steps else "continue"}
            for step in range(1, steps + 1)
        ]
        closing = {"summary": f"For item %R all columns were compared. {_WORDS * 2}", "answer": "7"}
        self._templates = [_template(json.dumps(text)) for text in (*texts, closing)]

    def completion(self, step: int, digits: bytes) -> bytes:
        """The answer to a row's step; digits are always as many, so that a response has its length before it has its row."""
        head, body, times = self._templates[min(step, len(self._templates)) - 1]
        return head + body % ((digits,) * times)

    def malformed(self, step: int, digits: bytes, lot: int) -> bytes:
        """A 200 whose body is no completion, in a shape drawn by lot."""
        shape = SHAPES[lot % len(SHAPES)]
        if shape == "garbage":
            return response(200, b"<html><body>upstream connect error</body></html>")
        if shape == "no choices":
            return response(
                200, json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "teacher", "choices": [], "usage": _USAGE}).encode()
            )
        whole = self.completion(step, digits).partition(b"\r\n\r\n")[2]
        return response(200, whole[: len(whole) // 2])


def refusal(status: int, retry_after: int | None = None) -> bytes:
    """An error as OpenAI words it."""
    words = {400: "the request cannot be served", 404: "no such route", 429: "too many requests", 500: "internal error"}[status]
    body = json.dumps({"error": {"message": words, "type": "error", "code": status}}).encode()
    return response(status, body, b"" if retry_after is None else b"Retry-After: %d\r\n" % retry_after)


def response(status: int, body: bytes, headers: bytes = b"") -> bytes:
    """Status line, headers and body."""
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body)


def _template(content: str) -> tuple[bytes, bytes, int]:
    """(head, body with a %b for each place of the digits, number of such places)."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop", "logprobs": None}
    fields = {"id": "chatcmpl-%R", "object": "chat.completion", "created": 1767225600, "model": "teacher", "choices": [choice], "usage": _USAGE}
    text = json.dumps(fields).encode()
    assert text.count(b"%") == text.count(b"%R")
    length = len(text.replace(b"%R", b"0" * 9))
    return response(200, b"x" * length)[:-length], text.replace(b"%R", b"%b"), text.count(b"%R")
