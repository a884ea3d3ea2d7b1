"""The only idea of "correct" for data and world: find the answer in a reply, normalise it, compare it by rules.

A rule never guesses: an answer that cannot be found is empty, and a comparison that rules do not settle is left to a judge.
"""

import re
import string

from insightv.config import UserError
from insightv.records import Problem
from insightv.rules.moments import is_moment, same_moment
from insightv.rules.quantities import read_quantity, same_quantity
from insightv.rules.sentences import find_quantity
from insightv.rules.wording import normalise as normalise
from insightv.rules.wording import plain, same_list, same_text, yes_no

MOST_OPTIONS = len(string.ascii_uppercase)
"""Options that a question may have: each has a letter."""

_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|hence|therefore)\b,?\s*)?(?:(?:the|my)\s+)?(?:(?:final|correct|right)\s+)*(?:answer|option|choice)\s*(?:(?:is|are)\b|[:=\uff1a])\s*:?\s*"
    r"|^(?:所以|因此)?[,\uff0c]?(?:最终|正确)?(?:答案|选项|答え|回答)(?:应该|应)?(?:是|为|選|选|は|[:=\uff1a])[:\uff1a]?\s*|^(?:应该?)?[选選](?=[A-Za-z])",
    re.IGNORECASE,
)
_IT_IS = re.compile(r"^\s*(?:it\s+is|it's|this\s+is|that\s+is|that's|they\s+are|they're|these\s+are|those\s+are)\s+(?=\S)", re.IGNORECASE)
_OUTPUT = re.compile(r"<output>(.*?)</output>", re.DOTALL)
_ANSWER_LINE = re.compile(r"^[^\w\n]{0,9}(?:(?:final\s+)?answer|(?:最终|正确)?答案|答え)[^\w\n]{0,9}?[:=\uff1a]\s{0,9}(\S.*)$", re.IGNORECASE | re.MULTILINE)
_LETTER = re.compile(
    r"(?:(?:option|choice|选项|選項|答案)\s*)?[(\[*]{0,3}([a-z])(?:[\s)\].:*]{0,6}|\s?[)\].:*\u3001-]{1,4}\s{0,4}(\S.*)|\s?\(([^()]+)\)|\s?(?:选项|項|项))",
    re.DOTALL | re.IGNORECASE,
)
_IS_CORRECT = re.compile(r"\s+is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answer|option|choice|one))?[.!]?$", re.IGNORECASE)
_CODE = re.compile(r"\W*0\d")
"""A number with a zero before it may be a name, as 007 is."""
_LONGEST_OPTION = 2000


def letter(index: int) -> str:
    """The letter of option `index`, from 0; a `UserError` beyond the alphabet."""
    if not 0 <= index < MOST_OPTIONS:
        raise UserError(f"option {index + 1}: a multiple-choice question has {MOST_OPTIONS} options at most")
    return string.ascii_uppercase[index]


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
        return yes_no(bare) or bare
    if problem.answer_type == "number" and read_quantity(bare) is None and not is_moment(bare):
        return find_quantity(bare)
    return bare


def _choice(text: str, problem: Problem) -> str | None:
    """The option's letter, when the text is a letter, a letter with its option, or an option's text."""
    texts = [normalise(option) for option in problem.options]
    text = plain(text.strip()[:_LONGEST_OPTION])
    match = _LETTER.fullmatch(_IS_CORRECT.sub("", text))
    index = ord(match[1].upper()) - ord("A") if match else -1
    said = (match[2] or match[3]) if match else None
    if match and 0 <= index < len(texts) and (not said or normalise(said) == texts[index]):
        return letter(index)
    plainly = normalise(text)
    if plainly and texts.count(plainly) == 1:
        return letter(texts.index(plainly))
    if match and not said:
        return match[1].upper()
    same = [index for index, option in enumerate(problem.options) if _same(text, option, "", count=False)]
    return letter(same[0]) if len(same) == 1 else None


def _agrees(answer: str, accepted: str, problem: Problem) -> bool | None:
    if problem.answer_type == "choice":
        given, wanted = _choice(answer, problem), _choice(accepted, problem)
        return given == wanted if given and wanted else None
    if problem.answer_type == "yes_no":
        given, wanted = yes_no(answer), yes_no(accepted)
        return given == wanted if given and wanted else same_text(answer, accepted) or None
    return _same(answer, accepted, problem.question, count=problem.answer_type == "number")


def _same(answer: str, accepted: str, question: str, *, count: bool) -> bool | None:
    """Whether two open answers agree: as quantities where both are, as dates or times where both are, else as texts."""
    given, wanted = read_quantity(answer), read_quantity(accepted)
    if given and wanted and not count and bool(_CODE.match(answer)) != bool(_CODE.match(accepted)):
        return None
    if given and wanted:
        return same_quantity(given, wanted, question, count=count)
    moment = same_moment(answer, accepted)
    if moment is not None:
        return moment
    return same_text(answer, accepted) or same_text(_IT_IS.sub("", answer), accepted) or same_list(answer, accepted, question) or None
