"""The only idea of "correct" for data and world: find the answer in a reply, normalise it, compare it by rules.

A rule never guesses: an answer that cannot be found is empty, and a comparison that rules do not settle is left to a judge.
"""

import math
import re
import string
import unicodedata

from insightv.config import UserError
from insightv.records import Problem

MOST_OPTIONS = len(string.ascii_uppercase)
"""Options that a question may have: each has a letter."""

_WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
_NUMBER_WORDS = {word: float(value) for value, word in enumerate(_WORDS.split())}
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?:[eE][+-]?\d+)?(?:/\d+(?:\.\d+)?)?")
_SCALES = {"%", "percent", "hundred", "thousand", "million", "billion", "trillion", "dozen", "k", "m", "bn"}
_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|hence|therefore)\b,?\s*)?(?:the\s+)?(?:(?:final|correct|right)\s+)*(?:answer|option|choice)\s*(?:(?:is|are)\b|[:=])\s*:?\s*", re.IGNORECASE
)
_OUTPUT = re.compile(r"<output>(.*?)</output>", re.DOTALL)
_ANSWER_LINE = re.compile(r"^[^\w\n]{0,9}(?:final\s+)?answer[^\w\n]{0,9}?[:=]\s{0,9}(\S.*)$", re.IGNORECASE | re.MULTILINE)
_LETTER = re.compile(r"(?:(?:option|choice)\s+)?[(\[*]{0,3}([a-z])(?:[\s)\].:*]{0,6}|[)\].:*-]{1,4}\s{0,4}(\S.*))", re.DOTALL | re.IGNORECASE)
_LONGEST_OPTION = 2000
_WRAPPERS = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}")


def letter(index: int) -> str:
    """The letter of option `index`, from 0; a `UserError` beyond the alphabet."""
    if not 0 <= index < MOST_OPTIONS:
        raise UserError(f"option {index + 1}: a multiple-choice question has {MOST_OPTIONS} options at most")
    return string.ascii_uppercase[index]


def normalise(text: str) -> str:
    """The form in which two texts are compared: Unicode NFKC, case folded, single spaces, no mark-up, outer punctuation or article."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _WRAPPERS.sub(r"\1", text).replace("**", "").replace("$", "")
    text = " ".join(text.split()).strip(" .,;:!?\"'`*_()[]\u201c\u201d\u2018\u2019")
    return re.sub(r"^(?:the|an?)\s+(?=\S)", "", text)


def extract(text: str, problem: Problem) -> str:
    """The answer inside a reply, in the form of the problem's answer type; empty if there is none.

    Looks, in this order, at the last `<output>` block, the last `\\boxed{}`, the last line `Answer: ..` and the last line;
    the first of these that is present decides. A choice gives its letter, also where the reply gives the option's text.
    """
    marked = _marked(text)
    if marked is not None:
        return _typed(marked, problem)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _typed(lines[-1], problem) if lines else ""


def settle(text: str, problem: Problem) -> bool | None:
    """Whether the answer inside a text, such as a chain's candidate answer, agrees with an accepted one: `extract`, then `correct`.

    None where rules do not settle it, also where they find no answer in a text that is not blank: a judge may.
    """
    found = extract(text, problem)
    return correct(found, problem) if found or not text.strip() else None


def correct(answer: str, problem: Problem) -> bool | None:
    """Whether an extracted answer agrees with an accepted one; None if rules do not settle it and a judge must."""
    if not answer.strip():
        return False
    judgements = [_agrees(answer, accepted, problem) for accepted in problem.answers]
    if True in judgements:
        return True
    return None if None in judgements else False


def _marked(text: str) -> str | None:
    outputs = _OUTPUT.findall(text)
    if outputs:
        return str(outputs[-1]).strip()
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    lines = _ANSWER_LINE.findall(text)
    return str(lines[-1]).strip() if lines else None


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position].strip()
    return None


def _typed(found: str, problem: Problem) -> str:
    found = found.split("</thoughts>")[0].strip()
    bare = _LEAD_IN.sub("", found).strip().removesuffix(".").strip()
    if problem.answer_type == "choice":
        return _choice(bare, problem) or ""
    if problem.answer_type == "yes_no":
        return _yes_no(bare) or bare
    if problem.answer_type == "number" and _number(bare) is None:
        numbers = [match for match in _NUMBER.findall(bare) if any(c.isdigit() for c in match)]
        return numbers[0] if len(numbers) == 1 else ""
    return bare


def _choice(text: str, problem: Problem) -> str | None:
    """The option's letter, when the text is a letter, a letter with its option, or an option's text."""
    texts = [normalise(option) for option in problem.options]
    match = _LETTER.fullmatch(text.strip()[:_LONGEST_OPTION])
    index = ord(match[1].upper()) - ord("A") if match else -1
    if match and 0 <= index < len(texts) and (not match[2] or normalise(match[2]) == texts[index]):
        return letter(index)
    plain = normalise(text)
    if plain and texts.count(plain) == 1:
        return letter(texts.index(plain))
    return match[1].upper() if match and not match[2] else None


def _yes_no(text: str) -> str | None:
    match = re.match(r"\W*(yes|no|true|false)(?:\W*$|\s*[,.;:!])", text, re.IGNORECASE)
    return {"yes": "yes", "true": "yes", "no": "no", "false": "no"}[match[1].casefold()] if match else None


def _agrees(answer: str, accepted: str, problem: Problem) -> bool | None:
    if problem.answer_type == "choice":
        given, wanted = _choice(answer, problem), _choice(accepted, problem)
        return given == wanted if given and wanted else None
    if normalise(answer) == normalise(accepted):
        return True
    if problem.answer_type == "yes_no":
        given, wanted = _yes_no(answer), _yes_no(accepted)
        return given == wanted if given and wanted else None
    return _same_number(answer, accepted)


def _same_number(answer: str, accepted: str) -> bool | None:
    """Compare numbers with their units: equal to one part in a million or by rounding to the coarser one's decimals (two at least)."""
    given, wanted = _number(answer), _number(accepted)
    if given is None or wanted is None:
        return None
    (value, unit, decimals), (truth, true_unit, true_decimals) = given, wanted
    places = min(decimals, true_decimals)
    equal = math.isclose(value, truth, rel_tol=1e-6, abs_tol=1e-9) or (places >= 2 and round(value, places) == round(truth, places))
    units_agree = unit == true_unit or not unit or not true_unit
    if equal and {unit, true_unit} == {"%", ""}:
        return True
    rescaled = unit != true_unit and bool({unit, true_unit} & _SCALES)
    return equal if units_agree and not rescaled else None


def _number(text: str) -> tuple[float, str, int] | None:
    """(value, unit, decimals) of a text that is one number with at most a short unit before or after it."""
    plain = normalise(text).replace("\u2212", "-")
    plain = re.sub(r"^\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", plain)
    signed = unicodedata.normalize("NFKC", text).strip().lstrip("$*( ").replace("\u2212", "-")
    first, _, rest = plain.partition(" ")
    if first in _NUMBER_WORDS:
        return (_NUMBER_WORDS[first], rest, 0) if len(rest.split()) <= 2 and not any(c.isdigit() for c in rest) else None
    source = signed.casefold() if signed[:1] in "+-." and signed[1:2].isdigit() else plain
    match = _NUMBER.match(source)
    if not match or not any(c.isdigit() for c in match[0]):
        return None
    unit = source[match.end() :].strip(" .,;:!?\"'`*_()[]")
    if any(c.isdigit() for c in unit) or len(unit.split()) > 2 or "/" in unit[:1]:
        return None
    numerator, _, denominator = match[0].replace(",", "").partition("/")
    try:
        value = float(numerator) / float(denominator or 1)
    except (ZeroDivisionError, ValueError, OverflowError):
        return None
    decimals = len(numerator.partition(".")[2]) if "e" not in numerator.casefold() else 0
    return (value, unit, decimals) if math.isfinite(value) else None
