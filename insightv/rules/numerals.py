"""Numbers in words, English below a million and Chinese up to 10^12, and the words that change what a number says."""

import re

_BELOW_20 = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENFOLD = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL, _TENS = _BELOW_20.split(), _TENFOLD.split()
VALUES = {word: value for value, word in enumerate(_SMALL)} | {word: 10 * value for value, word in enumerate(_TENS, 2)}
NUMBER_WORDS = frozenset(VALUES) | {"hundred", "thousand", "million", "billion", "trillion", "dozen"}

_CHANGING = (
    "or and to not no nor never than more less fewer minus plus times half halves third thirds quarter quarters fifth fifths tenth tenths least "
    "most over under above below between approximately approx about around roughly nearly almost up maybe perhaps possibly except without unless "
    "if but instead rather either neither pair pairs couple dozens hundreds thousands millions billions score scores each per apiece every "
    "another double twice triple squared cubed power root factorial before after until till since within too by off missing wrong incorrect "
    "cannot negative noon midnight doubt could might would should guess hardly barely scarcely far near close somewhere nowhere can multiple "
    "factor log tens sixths sevenths eighths ninths hundredth hundredths thousandths out bc ad removed gone taken eaten several decade decades "
    "century centuries cent cents trio trios duo duos set sets pack packs ago past clock am pm a.m p.m st nd rd th january february march april "
    "may june july august september october november december jan feb mar apr jun jul aug sep sept oct nov dec short soon late early"
)
HEDGES = frozenset(_CHANGING.split())
"""Words that change what a number beside them says."""

_TEN_UP = rf"(?:{'|'.join(_TENS)})(?:[ -](?:{'|'.join(_SMALL[1:10])})\b)?"
_BELOW_100 = rf"(?:{_TEN_UP}|(?:{'|'.join(reversed(_SMALL))}))"
_BELOW_1000 = rf"(?:(?:(?:{'|'.join(_SMALL[1:10])}) )?hundred\b(?: (?:and )?{_BELOW_100}\b)?|{_BELOW_100}\b)"
_ENGLISH = re.compile(
    rf"(?:(?P<thousands>{_BELOW_1000} )?(?P<thousand>thousand)\b(?: (?:and )?(?P<rest>{_BELOW_1000}))?|(?P<alone>{_BELOW_1000})|(?P<dozen>dozen)\b)"
)

_DIGITS = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"\u3007": 0, "两": 2, "兩": 2}
_PLACES = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_CHINESE = re.compile(f"[{''.join((*_DIGITS, *_PLACES, *_MYRIADS))}]+")
_FALLING = re.compile("(?:[一二两兩三四五六七八九]千)?零?(?:[一二两兩三四五六七八九]百)?零?(?:[一二三四五六七八九]?十)?零?[一二两兩三四五六七八九]?")
_COLLOQUIAL = re.compile(r"[百千万萬亿億][一二三四五六七八九]$")


def read_words(text: str) -> tuple[int, int] | None:
    """(value, length) of the number in words that a text in lower case begins with; None if there is none."""
    match = _ENGLISH.match(text)
    if not match:
        return None
    if match["dozen"]:
        return 12, match.end()
    if match["alone"]:
        return _below_1000(match["alone"]), match.end()
    thousands = _below_1000(match["thousands"]) if match["thousands"] else 1
    return 1000 * thousands + (_below_1000(match["rest"]) if match["rest"] else 0), match.end()


def read_chinese(text: str) -> tuple[int, int] | None:
    """(value, length) of the Chinese numeral that a text begins with; None if there is none, or it is one with two readings, such as 百五."""
    match = _CHINESE.match(text)
    if not match or _COLLOQUIAL.search(match[0]):
        return None
    if set(match[0]) <= set(_DIGITS):
        if len(match[0]) in (2, 3):
            # 三四 may be three or four.
            return None
        # Figures one by one, as in a year; a single one is just that figure.
        return int("".join(str(_DIGITS[c]) for c in match[0])), match.end()
    value = _chinese(match[0])
    return None if value is None else (value, match.end())


def _below_1000(words: str) -> int:
    value = 0
    for word in re.findall(r"[a-z]+", words):
        value = max(value, 1) * 100 if word == "hundred" else value + VALUES.get(word, 0)
    return value


def _chinese(numeral: str) -> int | None:
    """The value of a numeral with places; None unless places fall and each has one figure."""
    for myriad in ("亿億", "万萬"):
        for character in myriad:
            high, found, low = numeral.partition(character)
            if found:
                above, below = _chinese(high) if high else None, _chinese(low) if low else 0
                small = below is not None and below < _MYRIADS[character]
                return above * _MYRIADS[character] + below if above and small and below is not None else None
    if not _FALLING.fullmatch(numeral):
        return None
    value, figure = 0, 0
    for character in numeral:
        if character in _PLACES:
            value, figure = value + (figure or 1) * _PLACES[character], 0
        else:
            figure = _DIGITS[character]
    return value + figure
