"""What rules of scoring are made of: edit distance, tolerance of numbers, containment, yes and no."""

import re
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from insightv.evaluation.scorers.vqa import without_signs


def anls(reply: str, accepted: Sequence[str], threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity to the nearest accepted answer, 0 below the threshold (DocVQA, arXiv 2007.00398, section 5).

    As in the benchmark's own script distances are of texts with single spaces in lower case, and lengths those of the texts as they are.
    """
    return max(_similarity(reply, answer, threshold) for answer in accepted)


def _similarity(reply: str, answer: str, threshold: float) -> float:
    longest = max(len(reply.upper()), len(answer.upper()))
    distance = Levenshtein.distance(" ".join(reply.lower().split()), " ".join(answer.lower().split()))
    found = 1 - distance / longest if longest else 1.0
    return 0.0 if found < threshold else found


def relaxed(reply: str, answer: str, tolerance: float = 0.05) -> bool:
    """ChartQA's relaxed accuracy as pix2struct and both harnesses have it: a gold number that is not 0 bears 5%, all else is equal but for case."""
    given, wanted = _plain_number(reply), _plain_number(answer)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= tolerance
    return reply.lower() == answer.lower()


def relaxed_number(reply: str, answer: str, tolerance: float = 0.05) -> bool:
    """The same as the paper words it (arXiv 2203.10244, section 5.1): every number is one, also 0 and one with separators of thousands."""
    given, wanted = (_plain_number(_THOUSANDS.sub("", text.strip())) for text in (reply, answer))
    if given is not None and wanted is not None:
        return abs(given - wanted) <= tolerance * abs(wanted)
    return reply.strip().lower() == answer.strip().lower()


_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def _plain_number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def contains(reply: str, accepted: Sequence[str], *, formula: bool = False, fold: bool = False) -> bool:
    """OCRBench (arXiv 2305.07895): an accepted answer stands in the reply, in any case; a formula as it is written, spaces aside.

    With `fold`, as lmms-eval has it, letters of full width are the plain ones; not in a formula.
    """
    if formula:
        squeezed = _one_line(reply).replace(" ", "")
        return any(_one_line(answer).replace(" ", "") in squeezed for answer in accepted)
    texts = [text.translate(_FULL_WIDTH) if fold else text for text in (reply, *accepted)]
    said, *wanted = [_one_line(text.lower()) for text in texts]
    return any(answer in said for answer in wanted)


_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}


def _one_line(text: str) -> str:
    return text.strip().replace("\n", " ")


def begins_with_yes_or_no(reply: str, *, loose: bool = False) -> str | None:
    """MME's own reading (its calculation.py): one of the two words within the first four characters. "know" is no.

    With `loose`, as lmms-eval has it, periods do not count and the first letter alone is the word.
    """
    text = reply.lower().strip()
    if loose:
        text = text.replace(".", "")
        if text in ("y", "n"):
            return {"y": "yes", "n": "no"}[text]
    return next((word for word in ("yes", "no") if word in text[:4]), None)


def says_yes_or_no(reply: str) -> str | None:
    """VLMEvalKit's reading: the one of the two that is a word anywhere in the reply, signs aside; None if both are, or none."""
    words = without_signs(reply.lower(), separate=False).split()
    found = [word for word in ("yes", "no") if word in words]
    return found[0] if len(found) == 1 else None
