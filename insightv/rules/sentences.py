"""The one number that a sentence gives as its answer."""

import re

from insightv.rules.numerals import HEDGES, NUMBER_WORDS
from insightv.rules.quantities import MONEY_SIGNS, bared
from insightv.rules.units import AMBIGUOUS, SCALES, find_unit

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?:[eE][+-]?\d+)?(?:/\d+(?:\.\d+)?)?")
_FOLLOWS = re.compile(r"\s?(%|\u00b0[CF]?|['\"](?=\W|$)|[^\W\d_]+)")
_LABELS = (
    r"room|page|figure|option|question|chapter|section|version|bus|route|gate|player|team|group|lane|track|seat|floor|level|channel|line|platform|flight|"
    r"highway|street|item|door|exit|day|week|month|year|grade|class|part|phase|type|model|size|episode|season|windows|iphone|top|nr\.|no\."
)
_GLUED_BEFORE = re.compile(rf"(?:\b(?i:{_LABELS})\s*|[^\W\d_][a-z]|-\s?\(|[^\s({MONEY_SIGNS}=:\"'*,;.a-z\u3040-\uffff])$")
_GLUED_AFTER = re.compile(r"[+^~\u00b1/#]|-[^\W\d_]|[a-z]{3}|:\S|\s?[月点時时号倍分代]|(?:st|nd|rd|th|[dgx])\b", re.IGNORECASE)
# What says that a value comes next. Nobody can list what else may stand there: `Apollo 8`, `it lacks 8`.
_INTRODUCED = re.compile(
    r"(?:^|[:=\uff1a]|[\u3040-\u30ff\u4e00-\u9fff]|\b(?:is|are|was|were|be|equals?|makes?|made|gives?|gave|gets?|got|yields?|shows?|reads?|says?|see|"
    r"counted|counts?|finds?|found|ha[sd]|have|contains?|costs?|measures?|holds?|answer|totals?|exactly|(?:total|sum|count|value|result)\s+of|there're|it's|that's))\W{0,3}$",
    re.IGNORECASE,
)
# The same in other languages, and any script whose words are not known here.
_ELSEWHERE = re.compile(
    r"[<>!=][<>=/]|[<>\u2260\u2248\u2264\u2265\u221a~]|!\s?\d|'s$|n't|none\s+of|square\s+of|[近未不非没第超大小少多至约或到除半负]|以[上下外]|左右|ない|より|"
    r"\b(?:nicht|keine?|pas|moins|environ|etwa|circa|ca|oder|ou|und|entre|zwischen|bis|mehr|weniger|als|unter|\u00fcber|fast|casi|presque|quase|m\u00e1s|menos)\b|[\u0250-\u1dff]",
    re.IGNORECASE,
)


def find_quantity(text: str) -> str:
    """The only number in a sentence, with the common unit that follows it; empty where there are several, or words that may change what it says."""
    text = bared(text)
    words = re.findall(r"[^\W\d_]+", text.casefold())
    if not HEDGES.isdisjoint(words) or _ELSEWHERE.search(text):
        return ""
    spelt = [word for word in words if word in NUMBER_WORDS]
    found = [match for match in _NUMBER.finditer(text) if any(c.isdigit() for c in match[0])]
    if len(found) + len(spelt) != 1:
        return ""
    # A word of letters may be none of the text: `item_five`.
    match = found[0] if found else re.search(rf"\b{spelt[0]}\b", text, re.IGNORECASE)
    if not match or not _INTRODUCED.search(text[: match.start()]):
        return ""
    if spelt:
        # "The one on the left" counts nothing; nor does five-star.
        return "" if spelt[0] == "one" or re.search(rf"-{spelt[0]}|{spelt[0]}-", text.casefold()) else spelt[0]
    before, after = text[: match.start()], text[match.end() :]
    unit = _common_unit(after)
    if _GLUED_BEFORE.search(before) or (_GLUED_AFTER.match(after) and not unit):
        return ""
    return (before[-1:] if before[-1:] in MONEY_SIGNS else "") + match[0] + unit


def _common_unit(text: str) -> str:
    """The common unit or scale that a text begins with, with the space before it; `in` only where nothing follows."""
    match = _FOLLOWS.match(text)
    if not match or (match[1] == "in" and text[match.end() :].strip()):
        return ""
    return match[0] if find_unit(match[1]) or match[1].casefold() in {*SCALES, *AMBIGUOUS} else ""
