"""Common units: what they measure and how many base units each is. What is ambiguous, such as a gallon, is left out."""

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit; equal ones have one dimension and one size."""

    dimension: str
    size: Fraction
    """In the dimension's base unit."""


_TABLE = {
    "length": {
        "m metre metres meter meters 米": "1",
        "km kilometre kilometres kilometer kilometers 公里 千米": "1000",
        "cm centimetre centimetres centimeter centimeters 厘米": "0.01",
        "mm millimetre millimetres millimeter millimeters 毫米": "0.001",
        'in " inch inches': "0.0254",
        "ft ' foot feet": "0.3048",
        "yd yard yards": "0.9144",
        "mi mile miles": "1609.344",
    },
    "mass": {
        "g gram grams 克": "1",
        "mg milligram milligrams": "0.001",
        "kg kilogram kilograms kilo kilos 公斤 千克": "1000",
        "lb lbs pound pounds": "453.59237",
        "oz ounce ounces": "28.349523125",
    },
    "volume": {
        "l L litre litres liter liters 升": "1",
        "ml mL millilitre millilitres milliliter milliliters 毫升": "0.001",
        "cl cL centilitre centilitres centiliter centiliters": "0.01",
    },
    "time": {
        "s sec secs second seconds 秒": "1",
        "ms millisecond milliseconds 毫秒": "0.001",
        "min mins minute minutes 分钟": "60",
        "h hr hrs hour hours 小时": "3600",
        "day days 天": "86400",
        "week weeks": "604800",
    },
    "calendar": {"month months 个月": "1", "year years yr yrs": "12"},
    "data": {
        "B byte bytes": "1",
        "KB kB kb kilobyte kilobytes": "1000",
        "MB mb megabyte megabytes": "1000000",
        "GB gb gigabyte gigabytes": "1000000000",
        "TB tb terabyte terabytes": "1000000000000",
    },
    "temperature": {"\u00b0C \u00b0c celsius": "1", "\u00b0F \u00b0f fahrenheit": "2"},
    "$": {"$ US$ USD usd dollar dollars": "1"},
    "\u20ac": {"\u20ac EUR eur euro euros": "1"},
    "\u00a3": {"\u00a3 GBP gbp": "1"},
    "yen": {"yen JPY 円": "1"},
    "yuan": {"yuan RMB rmb CNY 元": "1"},
    "%": {"% percent pct": "1"},
}
"""Dimension -> names of a unit, apart by spaces -> its size. Sizes of temperatures only tell them apart."""

UNITS = {name: Unit(dimension, Fraction(size)) for dimension, units in _TABLE.items() for names, size in units.items() for name in names.split()}
CURRENCIES = frozenset({"$", "\u20ac", "\u00a3", "yen", "yuan"})
CONVERTIBLE = frozenset({"length", "mass", "volume", "time", "calendar"})
"""A kilobyte has 1000 or 1024 bytes, and degrees and currencies need more than a factor."""

SCALES = {
    **{"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "bn": 10**9, "trillion": 10**12, "dozen": 12},
    **{"百": 100, "千": 1000, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8},
}
AMBIGUOUS = frozenset(("k", "m", "b", "mn", "mio"))
"""May be thousands or millions as well as units."""

MEASURE_WORDS = frozenset("个個只隻条條本张張名位人辆輛台棵头頭匹件块塊支枝把座间瓶杯碗朵颗顆粒次岁歲枚冊羽つ개명")
"""What stands between a CJK numeral and what it counts."""

_ANY_CASE = frozenset(("km", "cm", "kg", "ml", "ft", "lb", "oz"))
_TOO_SHORT = frozenset(("in", "m", "s", "h", "l", "g", "b", "'", '"', "second", "foot"))
"""Other words too: in a question these name a unit only in brackets."""


def find_unit(name: str) -> Unit | None:
    """The unit of that name or symbol; most symbols of one or two letters keep their case, because Mm is not mm and Mb is not MB."""
    name = re.sub(r"^degrees?\s+|\.$", "", name).strip()
    return UNITS.get(name) or (UNITS.get(name.casefold()) if len(name) > 2 or name.casefold() in _ANY_CASE else None)


def named(question: str, dimension: str) -> dict[Unit, str]:
    """The units of a dimension that a question names, each with the name that it uses."""
    found: dict[Unit, str] = {}
    bracketed = set(re.findall(r"[(\[](\S+?)[)\]]", question))
    for word in re.findall(r"\u00b0[CF]|[^\W\d_]+|[%$\u20ac\u00a3]", question):
        unit = find_unit(word)
        if unit and unit.dimension == dimension and (word.casefold() not in _TOO_SHORT or word in bracketed):
            found.setdefault(unit, word)
    return found
