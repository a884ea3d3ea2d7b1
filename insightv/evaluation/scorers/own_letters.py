"""Letters as one benchmark alone reads them: MMStar's and MMMU-Pro's own rules, and lmms-eval 0.7.3's for MMBench and AI2D."""

import re
import string
from collections.abc import Mapping, Sequence

from insightv.evaluation.scorers.letters import lmms_letter, mmmu_letter
from insightv.evaluation.scorers.received import lmms_received

_BEGINNINGS = ("", "(", "option ", "the answer is ")
_ANSWER = "Answer:"
_MMBENCH = "ABCDE"
"""lmms-eval also reads E there, the letter of a judge who finds no option like the reply: an answer, and a wrong one."""
_AFFIXES = (("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."), (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."))
_BEFORE_A_PERIOD = re.compile(r"\s*([A-Z])\.")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def mmstar_letter(reply: str) -> str | None:
    """MMStar's eval/vlmeval/evaluate/mmstar.py: the first character in any case, or that behind "(", "option " or "the answer is ".

    A word's first letter is one too: "because" is B.
    """
    said = reply.lower().strip().replace("\n", " ")
    found = [said[len(beginning)] for beginning in _BEGINNINGS if said.startswith(beginning) and len(said) > len(beginning)]
    return next((letter.upper() for letter in found if letter in "abcd"), None)


def mmmu_pro_letter(reply: str, options: Sequence[str]) -> str | None:
    """MMMU-Pro's mmmu-pro/evaluate.py: the only letter of an option behind the last "Answer:", else MMMU's looser rule over the whole reply.

    Any capital counts there: "Answer: B. Dog" names two. None where it would draw an option.
    """
    _, announced, tail = reply.rpartition(_ANSWER)
    named = [letter for letter in string.ascii_uppercase[: len(options)] if announced and letter in tail]
    return named[0] if len(named) == 1 else mmmu_letter(reply, options, loose=True)


def mmbench_static(reply: str, options: Mapping[str, str]) -> str | None:
    """lmms-eval's MMBench without a judge (mmbench_en_dev_static): the one letter that is a word, then with signs, then an option's text, else its common rule.

    `options` are by letter, a missing one being the text "nan" there, which is looked for like any other.
    """
    return _mmbench_word(reply.split()) or _mmbench_text(reply.lower(), options) or lmms_letter(reply, len(options))


def _mmbench_word(words: Sequence[str]) -> str | None:
    present = set(words)
    alone = [letter for letter in _MMBENCH if letter in present]
    # Among more than three words an A may be the article.
    if len(alone) == 1 and not (alone == ["A"] and len(words) > 3):
        return alone[0]
    for before, behind in _AFFIXES:
        found = [letter for letter in _MMBENCH if f"{before}{letter}{behind}" in present]
        if len(found) == 1:
            return found[0]
    return None


def _mmbench_text(said: str, options: Mapping[str, str]) -> str | None:
    found = [letter for letter, option in options.items() if option.lower() in said]
    return found[0] if len(found) == 1 else None


def ai2d_letter(reply: str, count: int) -> str | None:
    """lmms-eval's AI2D: a capital and a period at the very beginning, else the whole reply, if nothing but a letter in any case is left without signs.

    The beginning is looked at before reasoning is cut away, so the reply is given as it came.
    """
    found = _BEFORE_A_PERIOD.match(reply)
    letter = lmms_received(found[1] if found else reply).lower().translate(_NO_PUNCTUATION)
    return letter.upper() if len(letter) == 1 and letter in string.ascii_lowercase[:count] else None
