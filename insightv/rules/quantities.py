"""Numbers with their units: how they are written, and when two of them are surely equal or surely not. All sums are exact."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from insightv.rules.numerals import HEDGES, NUMBER_WORDS, read_chinese, read_words
from insightv.rules.units import AMBIGUOUS, CONVERTIBLE, CURRENCIES, MEASURE_WORDS, SCALES, Unit, find_unit, named
from insightv.rules.wording import plain, unwrapped

_LONGEST = 80
"""Characters of a text that may be one quantity."""

MONEY_SIGNS = "$\u20ac\u00a3\u00a5\u20b9\u20a9"
_PREFIX = re.compile(rf"(?:(minus|negative)\s+(?=\w)|([+-])(?=[\d.{MONEY_SIGNS}\\]))?(US\$|[{MONEY_SIGNS}])?\s?([+-](?=[\d.]))?", re.IGNORECASE)
_END = r"(?![\d/^]|[.,:'\s]\d)"
_POWER = r"(?:\s?(?:[x*\u00d7\u00b7]|\\times|\\cdot)\s?10\^\{?(?P<power>[+-]?\d{1,2})\}?|e(?P<e>[+-]?\d{1,2}))?"
_FRACTION = re.compile(rf"\\[dt]?frac\{{(\d+)\}}\{{(\d+)\}}|(\d+(?:\.\d+)?)\s?/\s?(\d+(?:\.\d+)?){_END}")
_MIXED = re.compile(rf"(\d+)\s(\d+)\s?/\s?(\d+){_END}")
_COMMA_FOR_POINT = re.compile(rf"(?P<digits>\d{{1,3}}(?:\.\d{{3}})+,\d+|\d{{1,3}}(?:\.\d{{3}}){{2,}}|\d+,\d{{1,2}}|0,\d+){_END}")
_SPACED = re.compile(rf"(?P<digits>\d{{1,3}}(?:[ ']\d{{3}})+(?:\.\d+)?){_END}")
_DECIMAL = re.compile(rf"(?P<digits>\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+){_POWER}{_END}", re.IGNORECASE)
_UNIT = re.compile(r"%|\u00b0(?:\s?[CFcf])?|['\"]|(?:: )?[^\W\d_]+(?:(?:[ ./-]|: )[^\W\d_]+)?\.?")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit."""

    value: Fraction
    decimals: int | None
    """Digits after the point; None for a fraction, which is exact."""
    unit: str = ""
    """As it is written; empty if there is none."""
    others: frozenset[Fraction] | None = frozenset()
    """What else the digits may mean, as 1.234 may be 1234; None: nobody knows."""

    @property
    def known(self) -> Unit | None:
        """The unit, if it is a common one."""
        return find_unit(self.unit) if self.unit else None


def read_quantity(text: str) -> Quantity | None:
    """The quantity that a text is, with at most two words of unit; None where the text is anything else."""
    text = bared(text)
    prefix = _PREFIX.match(text)
    if not text or not prefix or len(text) > _LONGEST:
        return None
    found = _read_number(text[prefix.end() :])
    if found is None:
        return None
    number, rest = found
    scaled, unit = _scaled(rest)
    if unit and (prefix[3] or not _is_unit(unit) or (re.search(r"\d(?:[dgx]|[a-z]{3,})$", text, re.IGNORECASE) and not find_unit(unit))):
        return None
    factor = Fraction(-scaled if prefix[1] or "-" in (prefix[2] or "") + (prefix[4] or "") else scaled)
    others = number.others and frozenset(other * factor for other in number.others)
    decimals = 0 if scaled > 1 and number.decimals is not None else number.decimals
    return Quantity(number.value * factor, decimals, unit or (prefix[3] or "").upper(), others)


def same_quantity(given: Quantity, wanted: Quantity, question: str = "", *, count: bool = True) -> bool | None:
    """Whether two quantities are equal, after conversion within a dimension; None where that is not sure.

    Where only one of them has a unit, a common one must be named in the question. Of anything else, such as apples, the number counts;
    unless a `count` was asked for, the question must speak of it.
    """
    if given.unit and wanted.unit:
        one, other = given.known, wanted.known
        # Case tells Mm from mm; of a longer word it says nothing.
        alike = given.unit == wanted.unit or (len(given.unit) > 3 and given.unit.casefold() == wanted.unit.casefold())
        if (one and one == other) or (alike and not one and not other):
            return _equal(given, wanted)
        return _converted(given, wanted, one, other) if one and other else None
    if not given.unit and not wanted.unit:
        equal = _equal(given, wanted)
        # In a text 4/4 may be a measure, and 24/7 a habit.
        return None if equal and not count and (given.decimals is None) != (wanted.decimals is None) else equal
    bare, other_one = (wanted, given) if given.unit else (given, wanted)
    return _half_named(given, wanted, bare, other_one, question, count)


def bared(text: str) -> str:
    """A text without what stands round it and says nothing: mark-up, brackets, quotes, an article, the last full stop."""
    text = " ".join(unwrapped(plain(text)).replace("**", "").replace("\\%", "%").replace("per cent", "%").split())
    text = text.replace("$", "") if text.count("$") > 1 else text
    for _ in range(3):
        text = text[1:-1].strip() if len(text) > 1 and text[0] + text[-1] in ("()", "[]", '""', "''", "``", "**", "__") else text
    # A mark of exclamation before it may be a "not".
    text = text.rstrip("!").strip(" ,;:?`*_()[]\u3002\u201c\u201d").rstrip(" !").removesuffix(".")
    return re.sub(r"^(?:the|an?)\s+(?=\S)", "", text, flags=re.IGNORECASE)


def _read_number(text: str) -> tuple[Quantity, str] | None:
    """(number without sign and unit, what follows it)."""
    for pattern in (_MIXED, _FRACTION):
        if match := pattern.match(text):
            *whole, above, below = [Fraction(group) for group in match.groups() if group is not None and len(group) <= _LONGEST]
            return (Quantity(sum(whole, above / below), None), text[match.end() :].strip()) if below else None
    for pattern in (_COMMA_FOR_POINT, _SPACED, _DECIMAL):
        if match := pattern.match(text):
            return _from_digits(match["digits"], match.groupdict(), pattern is _DECIMAL), text[match.end() :].strip()
    spelt = read_words(text.casefold()) or read_chinese(text)
    return (Quantity(Fraction(spelt[0]), 0), text[spelt[1] :].strip() if text[spelt[1] : spelt[1] + 1] != "-" else "-") if spelt else None


def _from_digits(digits: str, found: dict[str, str | None], point: bool) -> Quantity:
    others: frozenset[Fraction] | None = frozenset()
    if point:
        if re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", digits):
            # English point or comma, or a continental one.
            others = frozenset({Fraction(digits.replace(",", ".")), Fraction(re.sub(r"[.,]", "", digits))})
        plainly = digits.replace(",", "")
    elif "," in digits:
        plainly = digits.replace(".", "").replace(",", ".")
        others = None if re.fullmatch(r"\d+,\d+", digits) else others
    elif re.search(r"[ ']", digits):
        # Two numbers, perhaps.
        plainly, others = re.sub(r"[ ']", "", digits), None
    else:
        plainly = digits.replace(".", "")
    power = found.get("power") or found.get("e")
    decimals = 0 if power else len(plainly.partition(".")[2])
    return Quantity(Fraction(plainly) * Fraction(10) ** int(power or 0), decimals, others=others if not power else frozenset())


def _scaled(text: str) -> tuple[int, str]:
    """(factor, unit) of what follows a number: `million people`."""
    factor = 1
    while match := re.match(r"(?:([a-z]+)\b|([百千万萬亿億]))\s*", text, re.IGNORECASE):
        scale = SCALES.get((match[1] or match[2]).casefold())
        if scale is None:
            break
        factor, text = factor * scale, text[match.end() :]
    return factor, text


def _is_unit(text: str) -> bool:
    if not _UNIT.fullmatch(text):
        return False
    words = set(re.findall(r"[^\W\d_]+", text.casefold()))
    if any(word > "\u3000" for word in words) and not (text in MEASURE_WORDS or find_unit(text)):
        return False
    return HEDGES.isdisjoint(words) and words.isdisjoint(NUMBER_WORDS) and text.casefold().rstrip(".") not in HEDGES


def _half_named(given: Quantity, wanted: Quantity, bare: Quantity, other: Quantity, question: str, count: bool) -> bool | None:
    """`given` against `wanted`, where `bare` is the one of them without a unit and `other` the one with."""
    unit, equal = other.known, _equal(given, wanted)
    if unit and unit.dimension == "%":
        return equal or (None if equal is None or other.value == 100 * bare.value else False)
    if unit and unit.dimension in CURRENCIES:
        asked = [name for dimension in CURRENCIES - {unit.dimension} for name in named(question, dimension)]
        return None if asked else equal
    if unit:
        names = list(named(question, unit.dimension).values())
        if len(names) != 1:
            return None
        meant = replace(bare, unit=names[0])
        return same_quantity(meant, wanted) if bare is given else same_quantity(given, meant)
    if other.unit.casefold() in AMBIGUOUS:
        return None
    spoken = re.search(rf"\b{re.escape(other.unit.rstrip('s'))}(?:e?s)?\b", question, re.IGNORECASE)
    return None if equal and not count and not spoken else equal


def _equal(given: Quantity, wanted: Quantity) -> bool | None:
    """Equal exactly, or after rounding to the coarser one's decimals, two at least and two figures; units aside."""
    if given.value == wanted.value:
        return True
    if given.others is None or wanted.others is None or (given.others | {given.value}) & (wanted.others | {wanted.value}):
        return None
    known = [places for places in (given.decimals, wanted.decimals) if places is not None]
    if not known or abs(given.value - wanted.value) * 2 > Fraction(1, 10 ** min(known)):
        return False
    if min(known) >= 2:
        return True if abs(wanted.value) * 10 >= 1 else None
    return None if min(known) and len(known) == 1 else False


def _converted(given: Quantity, wanted: Quantity, one: Unit, other: Unit) -> bool | None:
    if one.dimension != other.dimension or one.dimension not in CONVERTIBLE:
        return None
    value, truth = given.value * one.size, wanted.value * other.size
    if value == truth:
        return True
    # A converted number is often rounded: what is near is for the judge.
    return None if given.others != frozenset() or wanted.others != frozenset() or abs(value - truth) * 20 <= abs(truth) else False
