"""Two texts compared as texts: a normal form for Latin and CJK script, lists of names, and the words for yes and no."""

import re
import unicodedata
from collections import Counter

_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff\u00ad]")
_RAISED = re.compile("[\u00b9\u00b2\u00b3\u2070-\u207b]+")
_LOWERED = re.compile("(?<=\\d)(?=[\u2080-\u2089])")
_VULGAR = re.compile("(?<=\\d)(?=[\u00bc-\u00be\u2150-\u215e])")
_DASHES, _SLASHES, _QUOTES = "\u2010\u2011\u2012\u2013\u2014\u2212", "\u2044\u2215", "\u2018\u2019"
_SAME = str.maketrans({**dict.fromkeys(_DASHES, "-"), **dict.fromkeys(_SLASHES, "/"), **dict.fromkeys(_QUOTES, "'")})

_WRAPPERS = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}")
_OUTER = " .,;:!?\"'`*_()[]\u201c\u201d\u3001\u3002\u300a\u300b\u300c\u300d\u300e\u300f\u3010\u3011\u2026\u30fb"
# A dot before a digit is the number's own: .5 is not 5.
_OPENING = re.compile(rf"(?:(?!\.\d)[{re.escape(_OUTER)}])+")
_CJK_GAP = re.compile("(?<=[\u3040-\u30ff\u3400-\u9fff])\\s+(?=[\u3040-\u30ff\u3400-\u9fff])")
_MARKS = re.compile("(?<=[a-z])[\u0300-\u036f]+")

_SEPARATOR = re.compile("\\s*(?:[;\u3001]|,(?!\\d)|(?<!\\d),)\\s*(?:(?:and|&)\\s+)?|\\s+(?:and|&)\\s+|\\s*和\\s*")
_MOST_ITEMS = 30
_A_SET = re.compile(
    r"\b(?:what|which|name|list)\b(?:\s+(?:are|were|all|of|the|these|those|other|two|three|four|different|kinds))*\s+(?!(?:his|this|its|was|does|has)\b)\w+[a-rt-z]s\b"
    r"|哪些|哪几|什么颜色"
)
_AN_ORDER = re.compile(
    r"\b(?:and|or|from|to|order(?:s|ed)?|sequence|first|second|third|last|then|next|before|after|left|right|top|bottom|rank(?:s|ed)?|sort(?:ed)?|steps?|"
    r"respectively|each|ascending|descending|chronological|corresponding|versus|vs|beat|against|coordinates)\b|[,\u3001和从]|顺序|分别|依次"
)

_YES = "yes true yeah yep ja oui sí 是 是的 对 对的 對 正确 正確 はい ええ 네 예"
_NO = "no false nope nein non 否 不 不是 不对 不對 错误 錯誤 いいえ 아니요 아니오"
_SAID = dict.fromkeys(_YES.split(), "yes") | dict.fromkeys(_NO.split(), "no")
_GOES_ON = r"\s+(?:it|there|they|he|she|we|i|you|that|this|these|those)\b"
_YES_NO = re.compile(rf"\W*({'|'.join(sorted(_SAID, key=len, reverse=True))})(?:\W*$|\s*[,.;:!\u3001\u3002]|{_GOES_ON})")
_DOUBT = re.compile(
    r"\b(?:maybe|perhaps|possibly|partly|partially|mostly|almost|depends|if|but|however|unless|except|wait|actually|although|though|or)\b|但|可能|也许|不是|でも"
)


def plain(text: str) -> str:
    """Unicode NFKC, with one kind of dash, quote and slash, that changes no number: 10\u00b2 is 10^2, not 102; 1\u00bd is 1 1/2, not 11/2."""
    text = _RAISED.sub(lambda match: "^" + match[0], _INVISIBLE.sub("", text))
    text = _VULGAR.sub(" ", _LOWERED.sub("_", text))
    return unicodedata.normalize("NFKC", text).translate(_SAME)


def unwrapped(text: str) -> str:
    r"""A text without LaTeX's `\text{..}` and its like."""
    return _WRAPPERS.sub(r"\1", text)


def normalise(text: str) -> str:
    """The form in which two texts are compared: `plain`, case folded, single spaces, no mark-up, outer punctuation or article, no space inside CJK."""
    text = plain(text).casefold()
    text = unwrapped(text).replace("**", "").replace("$", "")
    text = _CJK_GAP.sub("", " ".join(text.split()).replace(" & ", " and ")).rstrip(_OUTER)
    opening = _OPENING.match(text)
    return re.sub(r"^(?:the|an?)\s+(?=\S)", "", text[opening.end() :] if opening else text)


def same_text(given: str, wanted: str) -> bool:
    """Whether two texts have one normal form; accents may be left out of one of them, all at once: cafe for caf\u00e9."""
    given, wanted = normalise(given), normalise(wanted)
    if given == wanted:
        return True
    bare, true_bare = _unaccented(given), _unaccented(wanted)
    return bare == true_bare and (bare == given or true_bare == wanted)


def same_list(given: str, wanted: str, question: str = "") -> bool:
    """Whether two texts list the same names: in the same order, or in any where the question asks for several names and hints at no order.

    Numbers keep their order, and a list that lacks something or has more is never the same.
    """
    items, truths = _items(given), _items(wanted)
    if len(truths) < 2 or len(items) != len(truths):
        return False
    if items == truths:
        return True
    asked = question.casefold()
    free = bool(_A_SET.search(asked)) and not _AN_ORDER.search(asked) and not any(c.isdigit() for item in truths for c in item)
    return free and Counter(items) == Counter(truths)


def yes_no(text: str) -> str | None:
    """`yes` or `no` where a text begins with one of them and does not take it back; None otherwise."""
    text = plain(text).casefold()
    match = _YES_NO.match(text)
    if not match or _DOUBT.search(text, match.end(1)) or re.match(r"\W*no\.\s*\d", text):
        return None
    said = _SAID[match[1]]
    return said if all(_SAID.get(word, said) == said for word in re.findall(r"[^\W\d_]+", text[match.end(1) :])) else None


def _unaccented(text: str) -> str:
    return unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", text)))


def _items(text: str) -> list[str]:
    """The items of a list in normal form; empty where the text is none, or one of them is blank."""
    items = [normalise(item) for item in _SEPARATOR.split(" ".join(plain(text).casefold().split()).strip(_OUTER), _MOST_ITEMS)]
    return items if all(items) else []
