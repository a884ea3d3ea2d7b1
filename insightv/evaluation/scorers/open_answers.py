"""MMMU's open questions: the ends of a reply's sentences, and the numbers in them, against the accepted answers (MMMU's eval_utils.py)."""

import re
from collections.abc import Iterable, Sequence

_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset(":,.!?;'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def mmmu_open(reply: str, accepted: Sequence[str]) -> bool:
    """Whether an accepted text stands in one of the ends, or an accepted number is one of the numbers, to two decimals.

    An accepted text of one letter must have a space beside it.
    """
    ends = _ends(reply)
    said = _normalised([*ends, *(number for end in ends for pattern in _NUMBERS for number in pattern.findall(end))])
    wanted = _normalised(accepted)
    return any(one in wanted if isinstance(one, float) else any(isinstance(text, str) and text in one for text in wanted) for one in said)


def _ends(reply: str) -> list[str]:
    """Of each line, what stands behind the last word that announces an answer, the shortest such; the whole where there is none."""
    text = reply.strip().strip(".").lower()
    lines = text.split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        # The last line may be an equation.
        indicators = (*_INDICATORS, "=") if number == len(lines) else _INDICATORS
        end = ""
        for tail in (line.rsplit(indicator, 1)[-1].strip() for indicator in indicators if indicator in line):
            # As there: an empty end gives way to the next, but no end is shorter than one that is not empty.
            end = tail if not end or len(tail) < len(end) else end
        if end and end not in _TRIVIAL:
            found.append(end)
    return found or [text]


def _normalised(texts: Iterable[str]) -> list[str | float]:
    found: list[str | float] = []
    for text in (text.strip() for text in texts):
        try:
            found.append(round(float(text.replace(",", "")), 2))
        except ValueError:
            word = text.lower()
            found += [f" {word}", f"{word} "] if len(word) == 1 else [word]
    return found
