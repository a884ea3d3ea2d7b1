"""What rules need of a row, from whichever layout it came: Hugging Face's Parquet or VLMEvalKit's table, lists unfolded."""

import re
import string
from collections.abc import Mapping
from typing import Any

from insightv.config import UserError

Row = Mapping[str, Any]

FORMULAS = "Handwritten Mathematical Expression Recognition"
_INLINE = re.compile(r"(?:^|,)\s*([A-D]):\s")


def options(row: Row) -> dict[str, str]:
    """By letter: a list, or the columns A, B, .., where nothing and "nan" are no option, or those that MMStar writes into the question."""
    listed = row.get("options", row.get("choices"))
    if isinstance(listed, list):
        return {letter: str(option) for letter, option in zip(string.ascii_uppercase, listed, strict=False)}
    columns = {letter: str(row[letter]) for letter in string.ascii_uppercase if row.get(letter) is not None}
    return {letter: option for letter, option in columns.items() if option.strip().lower() not in ("", "nan")} or _inline(str(row.get("question", "")))


def _inline(question: str) -> dict[str, str]:
    _, _, tail = question.rpartition("Options:")
    _, *pieces = _INLINE.split(tail)
    return dict(zip(pieces[::2], map(str.strip, pieces[1::2]), strict=True))


def accepted(row: Row) -> list[str]:
    """The accepted answers; a row without any is a `UserError`."""
    listed = row.get("answers", row.get("answer"))
    if listed is None or listed == []:
        raise UserError("a row without an answer cannot be scored: its split has none")
    return [str(answer) for answer in listed] if isinstance(listed, list) else [str(listed)]


def right_letter(row: Row) -> str:
    """The right option's letter, which AI2D writes as a number from 0 and MathVista's table has in a column of its own."""
    answer = str(row.get("answer_option") or row["answer"]).strip()
    if "options" in row and answer.isdecimal():
        return string.ascii_uppercase[int(answer)]
    return answer


def is_open(row: Row) -> bool:
    """Whether a question of MMMU has no options."""
    return str(row["question_type"]) == "open" if "question_type" in row else not options(row)


def is_formula(row: Row) -> bool:
    """Whether a question of OCRBench asks for a formula; Hugging Face's layout names the data set that all of these come from."""
    return bool(row["dataset"] == "HME100k" if "dataset" in row else row.get("question_type", row.get("category")) == FORMULAS)
