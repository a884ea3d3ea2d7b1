"""VQA accuracy: answers in the wording of the benchmark's own script, each of ten annotators left out in turn (VQA, TextVQA)."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files

_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = dict(zip(["none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], (0, *range(11)), strict=True))
_ARTICLES = ("a", "an", "the")
# As the scripts have them: EvalAI's condition before the period is always met, and at most 32 periods go (a flag is taken for a count).
_PERIOD = {True: re.compile(r"(?!<=\d)(\.)(?!\d)"), False: re.compile(r"(?<!\d)\.(?!\d)")}
_COMMA = re.compile(r"(?<=\d)(\,)+(?=\d)")
_MOST_PERIODS = 32


def vqa_accuracy(reply: str, accepted: Sequence[str], *, separate: bool = True) -> float:
    """The mean, over the annotators left out, of a third for each of the others who agrees, 1 at most. `separate` is that of `worded`."""
    answers = [_worded_once(answer, separate=separate) for answer in accepted]
    given, counts = worded(reply, separate=separate), Counter(answers)
    agreeing = [counts[given] - (answer == given) for answer in answers]
    return sum(min(1.0, count / 3) for count in agreeing) / len(answers)


def worded(text: str, *, separate: bool = True) -> str:
    """An answer without signs, articles and number words, contractions with their apostrophe.

    With `separate`, as EvalAI does and VLMEvalKit does not, lower case, commas, question marks and a genitive's s are seen to first, and a period
    behind a digit goes too.
    """
    if separate:
        text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = without_signs(text.replace("\n", " ").replace("\t", " ").strip(), separate=separate)
    words = [str(_NUMBERS.get(word, word)) for word in text.lower().split()]
    return " ".join(_contractions().get(word, word) for word in words if word not in _ARTICLES)


# Of an answer, not of a reply: annotators say the same again, and every system is asked the same questions.
_worded_once = lru_cache(maxsize=100_000)(worded)


def without_signs(text: str, *, separate: bool) -> str:
    """Without signs, or with spaces in their place, and without periods; behind a digit one stays unless `separate`."""
    told, thousands = text, _COMMA.search(text)
    for sign in _SIGNS:
        # A sign beside a space anywhere, or a comma within a number, and each one goes; else it becomes a space.
        told = told.replace(sign, "" if thousands or f"{sign} " in text or f" {sign}" in text else " ")
    return _PERIOD[separate].sub("", told, count=_MOST_PERIODS)


@cache
def _contractions() -> dict[str, str]:
    lines = (files(__package__) / "contractions.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ") for line in lines)
