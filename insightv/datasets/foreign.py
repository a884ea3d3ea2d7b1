"""From a row of somebody's data to a problem: every field is checked, every image decoded, and nothing is guessed or fetched."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from insightv.answers import MOST_OPTIONS, letter
from insightv.files import explained
from insightv.images import ImageError, decode
from insightv.records import AnswerType, Problem
from insightv.store import ImageStore, content_hash

_NUMBER = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)?(\.\d+)?\s*%?")
_FORM_HINT = re.compile(
    r"\n(answer with the option's letter from the given choices directly|answer the question using a single word or phrase)\.?\s*$", re.IGNORECASE
)
"""Endings of LLaVA's instruction data that order a short reply; our prompts say themselves what reply they want."""
_OPTION_LINE = re.compile(r"^\(?([A-Z])[.):]\s+(\S.*)$")


class RowError(ValueError):
    """Why a row cannot become a problem: a fixed name and a detail for the reader."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def make_problem(
    question: str,
    answers: Iterable[str],
    *,
    images: Iterable[str] = (),
    options: Iterable[str] = (),
    answer_type: AnswerType = "text",
    source: str = "",
    meta: dict[str, Any] | None = None,
) -> Problem:
    """A problem with its content hash as id; `images` are digests."""
    fields = {"question": question, "images": list(images), "options": list(options), "answers": list(answers), "answer_type": answer_type, "source": source}
    return Problem.model_validate({"id": content_hash(fields), **fields, "meta": meta or {}})


def questions_of(row: Any) -> Iterator[dict[str, Any]]:
    """A row's questions as plain rows."""
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, dict):
        raise RowError("bad_row", f"a row is an object, not {type(row).__name__}")
    if "conversations" not in row:
        yield row
        return
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns or len(turns) % 2 or not all(isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns):
        raise RowError("bad_conversation", "conversations are pairs of turns with text in `value`")
    for asked, said in zip(turns[::2], turns[1::2], strict=True):
        if (asked.get("from"), said.get("from")) != ("human", "gpt"):
            raise RowError("bad_conversation", "turns alternate between human and gpt")
        rest = {name: row[name] for name in ("image", "images", "meta") if name in row}
        yield {"question": _FORM_HINT.sub("", asked["value"].strip()), "answer": said["value"].strip(), **rest}


def problem_of(fields: dict[str, Any], folder: Path, images: ImageStore, source: str) -> Problem:
    """A plain row as a problem, its images stored; raises `RowError`."""
    question = fields.get("question")
    if not isinstance(question, str) or not question.replace("<image>", "").strip():
        raise RowError("no_question")
    question, options = _options(question.strip(), fields.get("options"))
    answers = _texts(fields.get("answers", fields.get("answer")))
    if not answers:
        raise RowError("no_answer")
    if options:
        answers = [_letter(answer, options) for answer in answers]
    paths = _texts(fields.get("images", fields.get("image")))
    if question.count("<image>") > len(paths):
        raise RowError("image_missing", f"{question.count('<image>')} <image> marks for {len(paths)} images")
    kind = fields.get("answer_type") or _answer_type(answers, options)
    if kind not in ("choice", "number", "yes_no", "text") or (kind == "choice") != bool(options):
        raise RowError("bad_answer_type", f"{kind!r} with {len(options)} options")
    meta = fields.get("meta") or {}
    if not isinstance(meta, dict):
        raise RowError("bad_meta", "meta is an object")
    digests = [_image(path, folder, images) for path in paths]
    return make_problem(question, answers, images=digests, options=options, answer_type=kind, source=source, meta=meta)


def _texts(value: Any) -> list[str]:
    """One value or a list as texts, without empty ones and repetitions."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    texts = []
    for item in values:
        if isinstance(item, bool):
            item = "yes" if item else "no"
        if not isinstance(item, str | int | float):
            raise RowError("bad_value", f"a text or number is wanted, not {type(item).__name__}")
        texts.append(str(item).strip())
    return list(dict.fromkeys(filter(None, texts)))


def _options(question: str, given: Any) -> tuple[str, list[str]]:
    """The question without options, and the options: those given, else the lines `A. ..`, `B. ..` at its end."""
    if given is not None and not isinstance(given, list):
        raise RowError("bad_options", "options are a list")
    if given:
        options = [str(option).strip() for option in given]
        if not all(options) or len(set(options)) != len(options) or not 2 <= len(options) <= MOST_OPTIONS:
            raise RowError("bad_options", f"2 to {MOST_OPTIONS} different, non-empty options are wanted")
        return question, options
    lines = question.splitlines()
    tail = []
    while lines and (match := _OPTION_LINE.match(lines[-1].strip())):
        tail.append(match)
        lines.pop()
    tail.reverse()
    if len(tail) < 2 or not lines or [match[1] for match in tail] != [letter(place) for place in range(len(tail))]:
        return question, []
    return "\n".join(lines).strip(), [match[2].strip() for match in tail]


def _letter(answer: str, options: list[str]) -> str:
    """The letter of the option that an answer means."""
    bare = re.fullmatch(r"\(?([A-Za-z])[.):]?", answer)
    named = bare[1].upper() if bare else ""
    letters = [letter(place) for place in range(len(options))]
    meant = [name for name, option in zip(letters, options, strict=True) if name == named or option.casefold() == answer.casefold()]
    if len(meant) != 1:
        raise RowError("bad_answer", f"{answer!r} {'means more than one option' if meant else 'is none of the options'}")
    return meant[0]


def _answer_type(answers: list[str], options: list[str]) -> AnswerType:
    if options:
        return "choice"
    if all(answer.casefold() in ("yes", "no") for answer in answers):
        return "yes_no"
    return "number" if all(_NUMBER.fullmatch(answer) and re.search(r"\d", answer) for answer in answers) else "text"


def _image(name: str, folder: Path, images: ImageStore) -> str:
    """The digest of an image file, stored once it is known to decode."""
    try:
        path = (folder / name).resolve()
        present = path.is_file()
    except (ValueError, OSError):
        # A name that no file system takes: too long, or with a zero byte.
        raise RowError("image_missing", f"{name[:80]!r} is not a file name") from None
    if not path.is_relative_to(folder.resolve()):
        raise RowError("image_outside", f"{name} lies outside the image folder")
    if not present:
        raise RowError("image_missing", f"no image {name} in the image folder")
    with explained(path):
        data = path.read_bytes()
    try:
        decode(data)
    except ImageError as error:
        raise RowError("bad_image", f"{name}: {error}") from None
    return images.add(data)
