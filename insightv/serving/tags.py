"""Keep a chain's tags out of what a client reads."""

import re

from insightv.models.chat import Delta

_WHOLE = ("<thoughts>", "</thoughts>", "<output>", "</output>", "<think>", "</think>")
_TAG = re.compile("|".join(_WHOLE))


class TagFilter:
    """Takes tags out of text that comes in pieces, also those that come about when another is taken out, and the white space before the first word."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False

    def feed(self, text: str) -> str:
        """The text that is certain after this piece; what may still become a tag is held back."""
        held = _without_tags(self._held + text)
        place = _certain(held)
        self._held = held[place:]
        return self._told(held[:place])

    def end(self) -> str:
        """What was held back; the filter then begins anew."""
        held = self._told(self._held)
        self._held, self._begun = "", False
        return held

    def _told(self, text: str) -> str:
        text = text if self._begun else text.lstrip()
        self._begun = self._begun or bool(text)
        return text


class Cleaner:
    """A reply's deltas without tags: first its reasoning, then its content."""

    def __init__(self) -> None:
        self._filter, self._kind = TagFilter(), "reasoning"

    def clean(self, delta: Delta) -> list[Delta]:
        """What is left of a delta, behind what was held back of another kind."""
        if delta.kind == self._kind:
            return _delta(delta.kind, self._filter.feed(delta.text))
        before = _delta(self._kind, self._filter.end())
        self._kind = delta.kind
        return [*before, *([delta] if delta.kind == "usage" else self.clean(delta))]


def _delta(kind: str, text: str) -> list[Delta]:
    return [Delta("reasoning" if kind == "reasoning" else "content", text)] if text else []


def _without_tags(text: str) -> str:
    while (less := _TAG.sub("", text)) != text:
        text = less
    return text


def _certain(text: str) -> int:
    """How many characters cannot become part of a tag, whatever follows and is taken out."""
    end = len(text)
    while (start := text.rfind("<", 0, end)) >= 0 and any(tag.startswith(text[start:end]) for tag in _WHOLE):
        end = start
    return end
