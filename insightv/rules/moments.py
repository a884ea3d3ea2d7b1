"""Dates and times of day: the ways they are written, and when two of them are surely the same or surely not."""

import re
from datetime import date
from typing import NamedTuple

from insightv.rules.wording import plain

Date = tuple[int | None, int, int | None]
"""Year, month, day; None where it is not said."""

_MONTHS = "january february march april may june july august september october november december"
_MONTH = {name[:length]: number for number, name in enumerate(_MONTHS.split(), 1) for length in (3, len(name))} | {"sept": 9}
_NAME = "(" + "|".join(sorted(_MONTH, key=len, reverse=True)) + r")\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(\d{4})"
_MONTH_FIRST = re.compile(rf"{_NAME}\s+{_DAY}(?:,?\s+{_YEAR})?")
_DAY_FIRST = re.compile(rf"(?:the\s+)?{_DAY}\s+(?:of\s+)?{_NAME}(?:,?\s+{_YEAR})?")
_MONTH_YEAR = re.compile(rf"{_NAME},?\s+(?:of\s+)?{_YEAR}")
_YEAR_FIRST = re.compile(r"(\d{4})(?:[-/.](\d{1,2})[-/.](\d{1,2})|\s?年\s?(\d{1,2})\s?月\s?(\d{1,2})\s?[日号])")
_FIGURES = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})")
_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*(?:([ap])\.?\s?m\.?)?(?:\s+o'clock)?")
_NAMED = {"noon": "12 pm", "midday": "12 pm", "midnight": "12 am"}


class _Time(NamedTuple):
    hour: int
    minute: int
    half: str
    """`a` or `p`; empty where it is not said."""
    readings: frozenset[int]
    """Minutes from midnight: two where am or pm is not said and could be either."""


def same_moment(given: str, wanted: str) -> bool | None:
    """Whether two dates, or two times of day, are the same; None where one is neither, or says less, or can be read in two ways."""
    dates, true_dates = _dates(given), _dates(wanted)
    if dates and true_dates:
        return _certain([_same_date(one, other) for one in dates for other in true_dates])
    one, other = _time(given), _time(wanted)
    if one is None or other is None:
        return None
    if one.readings == other.readings:
        return True
    if one.readings & other.readings:
        return None
    # Without am or pm, 2:10 may also be a ratio, and then 4:20 is the same.
    ratio = not (one.half or other.half) and one.hour * other.minute == other.hour * one.minute
    return None if ratio else False


def is_moment(text: str) -> bool:
    """Whether a text is one date or one time of day, and nothing else."""
    return bool(_dates(text)) or _time(text) is not None


def _certain(found: list[bool | None]) -> bool | None:
    """What all readings agree on."""
    return found[0] if len(set(found)) == 1 else None


def _same_date(one: Date, other: Date) -> bool | None:
    if any(a is not None and b is not None and a != b for a, b in zip(one, other, strict=True)):
        return False
    return True if one == other else None


def _dates(text: str) -> list[Date]:
    """The readings of a date; empty where the text is none."""
    text = _bare(text)
    if match := _YEAR_FIRST.fullmatch(text):
        return _valid((int(match[1]), int(match[2] or match[4]), int(match[3] or match[5])))
    if match := _FIGURES.fullmatch(text):
        first, second, year = int(match[1]), int(match[3]), int(match[4])
        return list(dict.fromkeys(_valid((year, first, second)) + _valid((year, second, first))))
    if match := _MONTH_FIRST.fullmatch(text):
        return _valid((int(match[3]) if match[3] else None, _MONTH[match[1]], int(match[2])))
    if match := _DAY_FIRST.fullmatch(text):
        return _valid((int(match[3]) if match[3] else None, _MONTH[match[2]], int(match[1])))
    if match := _MONTH_YEAR.fullmatch(text):
        return [(int(match[2]), _MONTH[match[1]], None)]
    return []


def _valid(found: tuple[int | None, int, int]) -> list[Date]:
    year, month, day = found
    try:
        # A leap year stands in for a year that is not said.
        date(2000 if year is None else year, month, day)
    except ValueError:
        return []
    return [found]


def _time(text: str) -> _Time | None:
    text = _bare(text)
    match = _TIME.fullmatch(_NAMED.get(text, text))
    if not match or not (match[2] or match[3] or "o'clock" in text):
        return None
    hour, minute, half = int(match[1]), int(match[2] or 0), match[3] or ""
    if hour > 23 or minute > 59 or (half and not 1 <= hour <= 12):
        return None
    hours = range(hour % 12, 24, 12) if 1 <= hour <= 12 else (hour,)
    if half:
        hours = (hour % 12 + (12 if half == "p" else 0),)
    return _Time(hour, minute, half, frozenset(h * 60 + minute for h in hours))


def _bare(text: str) -> str:
    return " ".join(plain(text).casefold().replace("**", "").split()).strip(" ,;!?\"'`*_()[]\u3002").removesuffix(".") if len(text) < 60 else ""
