"""MathVista's answers without the language model that reads them there: its own rules, lmms-eval 0.7.3's and VLMEvalKit e8e78f0's.

A `row` has the columns question_type, answer_type, choices, answer and, for floats, precision.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from insightv.answers import letter
from insightv.evaluation.scorers.letters import vlmeval_letter

Row = Mapping[str, Any]

_QUOTED = re.compile(r'The answer is "(.*)"\.')
_BRACKETED = re.compile(r"\(([a-zA-Z])\)")


def choices(row: Row) -> list[str]:
    return [str(choice) for choice in row.get("choices") or ()]


def own_answer(reply: str, row: Row) -> str | None:
    """MathVista's evaluation/extract_answer.py with its quick extraction, then calculate_score.py: the option's text, or the number as rounded.

    Where it asks a model, the reply itself stands for what that would extract, but for the most similar option: a choice must be a lone letter or
    name one alone in brackets. Precision, where a layout has none, is that of the accepted answer.
    """
    quoted = _QUOTED.search(reply)
    said = quoted[1] if quoted else reply
    if row["question_type"] == "multi_choice":
        options = choices(row)
        if reply in options or quoted:
            return _most_similar(reply if reply in options else said, options)
        named = set(map(str.upper, _BRACKETED.findall(reply))) or {reply.strip()}
        return _by_letter(named.pop(), options) if len(named) == 1 else None
    if row["answer_type"] == "integer":
        return _number(lambda: int(float(said)))
    if row["answer_type"] == "float":
        decimals = row.get("precision") or len(str(row["answer"]).partition(".")[2])
        return _number(lambda: round(float(said), int(float(decimals))))
    return said if quoted or said[:1] == "[" else None


def lmms_answer(reply: str, row: Row) -> str | None:
    """The same as lmms-eval has it, None where it asks a model. An empty reply is the option most similar to nothing.

    Its floats are rounded to a precision that must be an integer, and the published data's is none: they are never read.
    """
    if row["question_type"] == "multi_choice":
        options = choices(row)
        return _most_similar(reply, options) if reply in options or not reply else None
    if row["answer_type"] == "integer":
        return _number(lambda: int(float(int(reply))))
    if row["answer_type"] == "float":
        return _number(lambda: round(float(reply), row.get("precision", 1.0)))
    return None


def vlmeval_answer(reply: str, row: Row) -> str | None:
    """VLMEvalKit's prefetch: a choice's letter, or a number that is right; None where it asks a model, as for each that is wrong, 0 or a list."""
    if row["question_type"] == "multi_choice":
        options = choices(row)
        return vlmeval_letter(reply, {letter(place): option for place, option in enumerate(options)})
    kind = {"integer": int, "float": float}.get(row["answer_type"])
    try:
        right = kind is not None and kind(reply) == kind(row["answer"]) != 0
    except ValueError:
        right = False
    return reply if right else None


def _most_similar(said: str, options: Sequence[str]) -> str:
    """The option of a bare or bracketed letter, else the one at the smallest edit distance, the first of several."""
    found = _BRACKETED.search(said)
    said = found[1].upper() if found else said.strip()
    return _by_letter(said, options) or min(options, key=lambda option: Levenshtein.distance(said, option))


def _by_letter(said: str, options: Sequence[str]) -> str | None:
    return next((option for place, option in enumerate(options) if letter(place) == said), None)


def _number(read: Callable[[], float]) -> str | None:
    try:
        return str(read())
    except (ValueError, OverflowError, TypeError):
        return None
