"""Keep a chain's tags out of what a client reads."""

from insightv.models.chat import Delta

_WHOLE = ("<thoughts>", "</thoughts>", "<output>", "</output>", "<think>", "</think>")
_BEGINNINGS = {tag[:end] for tag in _WHOLE for end in range(2, len(tag))}


class TagFilter:
    """Takes tags out of text that comes in pieces, also those that come about when another is taken out, and the white space before the first word."""

    def __init__(self) -> None:
        # Beginnings of tags, each behind the one that it interrupts: in time that grows with the text alone, whatever a model repeats.
        self._begun: list[str] = []
        self._told_any = False

    def feed(self, text: str) -> str:
        """The text that is certain after this piece; what may still become a tag is held back."""
        certain: list[str] = []
        for letter in text:
            grown = self._begun[-1] + letter if self._begun else letter
            if letter == "<":
                self._begun.append(letter)
            elif grown in _WHOLE:
                self._begun.pop()
            elif grown in _BEGINNINGS:
                self._begun[-1] = grown
            else:
                certain += [*self._begun, letter]
                self._begun.clear()
        return self._tell("".join(certain))

    def end(self) -> str:
        """What was held back; the filter then begins anew."""
        held = self._tell("".join(self._begun))
        self._begun, self._told_any = [], False
        return held

    def _tell(self, text: str) -> str:
        text = text if self._told_any else text.lstrip()
        self._told_any = self._told_any or bool(text)
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
