"""Read JSON out of a model's reply, and name what is wrong with it: the vocabulary of defects that all parsers share."""

import json
import re
from typing import Any

DEFECTS: dict[str, str] = {
    "empty": "the reply or chain has no text",
    "no_json": "no JSON object in the reply",
    "bad_json": "a JSON object begins but cannot be read",
    "truncated": "the text ends before it is complete: an unclosed object, no end tag, or the token limit",
    "missing_key": "a required key is missing",
    "wrong_type": "a value has the wrong JSON type",
    "bad_value": "a value is none of the allowed ones",
    "empty_field": "a required text is empty",
    "fenced": "the object stands in a code fence",
    "extra_text": "text stands before or after the object",
    "several_objects": "more than one object in the reply",
    "unknown_key": "the object has further keys",
    "bad_escape": "a backslash or a line break in a string is not escaped as JSON demands",
    "bad_unicode": "the text has characters that are not valid Unicode; each became a question mark",
    "missing_score": "a path was given no score",
    "unknown_path": "a score for a path that was not shown",
    "duplicate_path": "two different scores for one path",
    "out_of_range": "a score outside 1..100",
    "no_tags": "a chain without its start and end tags",
    "no_start_tag": "a chain without its start tag",
    "leading_text": "text stands before the chain",
    "trailing_text": "text stands after the chain",
    "stray_tag": "a tag stands inside a chain's text",
    "untitled_text": "reasoning stands before the first step's title",
    "no_steps": "a chain without steps",
    "no_conclusion": "a chain without its conclusion",
    "no_answer": "no answer was given",
    "repeated_step": "a step says again what an earlier one said",
    "repetition": "the text runs in a loop",
    "request_failed": "a request failed for good",
    "retried": "a malformed reply was asked for again",
    "early_summary": "the chain was to be closed before the fewest steps; it went on",
    "step_limit": "the chain was closed at the most steps",
}
"""Every name that `Chain.defects` and the parsers use, with its meaning."""

MENDED = frozenset(
    {"fenced", "extra_text", "several_objects", "unknown_key", "bad_escape", "bad_unicode", "leading_text", "trailing_text", "no_start_tag"}
    | {"retried", "early_summary", "step_limit"}
)
"""Defects that leave a chain usable; any other makes its status `defect`."""

_START = re.compile(r'\{\s*["}]')
_ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})?')
_FENCE = re.compile(r"^```[A-Za-z0-9_-]*\s*$", re.MULTILINE)
_ATTEMPTS = 16


def read_object(text: str) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The first JSON object of a reply and the names of what is wrong around it; None if there is no readable one."""
    text, defects = valid_unicode(text)
    if not text.strip():
        return None, (*defects, "empty")
    starts = [match.start() for match in _START.finditer(text)][:_ATTEMPTS]
    if not starts:
        if "{" not in text:
            return None, (*defects, "no_json")
        return None, (*defects, "truncated" if text.rstrip().endswith("{") else "bad_json")
    for start in starts:
        found = _decode(text, start)
        if found is not None:
            value, rest, mended = found
            return value, (*defects, *mended, *_surroundings(text[:start], rest))
    return None, (*defects, "truncated" if _unclosed(text[starts[0] :]) else "bad_json")


def read_text(value: dict[str, Any], key: str) -> tuple[str, tuple[str, ...]]:
    """A non-empty text under a key, and its defects: `missing_key`, `wrong_type`, `empty_field` (the text is then empty)."""
    if key not in value:
        return "", ("missing_key",)
    if not isinstance(value[key], str):
        return "", ("wrong_type",)
    text, defects = valid_unicode(value[key])
    return (text, defects) if text.strip() else ("", (*defects, "empty_field"))


def unique(defects: tuple[str, ...]) -> tuple[str, ...]:
    """Each name once, in the order of its first appearance."""
    return tuple(dict.fromkeys(defects))


def valid_unicode(text: str) -> tuple[str, tuple[str, ...]]:
    """The text with lone surrogates replaced by question marks, and the defect `bad_unicode` if there were any."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8"), ("bad_unicode",)
    return text, ()


def _decode(text: str, start: int) -> tuple[dict[str, Any], str, tuple[str, ...]] | None:
    """(object, what follows it, defects); from strict to lenient, for models write raw line breaks and LaTeX into strings."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
        return value, text[end:], ()
    except (ValueError, RecursionError):
        pass
    mended = _ESCAPE.sub(lambda match: match[0] if match[1] else "\\\\", text[start:])
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(mended)
    except (ValueError, RecursionError):
        return None
    return value, mended[end:], ("bad_escape",)


def _surroundings(before: str, after: str) -> tuple[str, ...]:
    names = []
    if _FENCE.search(before):
        names.append("fenced")
    if _START.search(after):
        names.append("several_objects")
    if _FENCE.sub("", before).strip() or _FENCE.sub("", after).strip():
        names.append("extra_text")
    return tuple(names)


def _unclosed(text: str) -> bool:
    depth, quoted, escaped = 0, False, False
    for character in text:
        if escaped:
            escaped = False
        elif quoted:
            escaped, quoted = character == "\\", character != '"'
        elif character == '"':
            quoted = True
        else:
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(character, 0)
    return quoted or depth > 0
