"""From a plain row of somebody's data to a problem: every field is checked and nothing is guessed."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from insightv.answers import MOST_OPTIONS, letter
from insightv.datasets.formats import RowError
from insightv.images import digest
from insightv.records import AnswerType, Problem
from insightv.store import content_hash

_LEADING = re.compile(r"\A(?:\s*<image>\s*)+")
_NUMBER = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)?(\.\d+)?\s*%?")
_OPTION_LINE = re.compile(r"^\(?([A-Z])[.):]\s+(\S.*)$")
_MOST_META = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Draft:
    """A plain row that was checked but for its images, which nobody has looked at: they stand here as the row names or holds them."""

    question: str
    options: tuple[str, ...]
    answers: tuple[str, ...]
    answer_type: AnswerType
    images: tuple[Any, ...]
    meta: dict[str, Any]

    def key(self, seed: int) -> str:
        """A hash of seed and content: the same wherever the row stands in a file, and before any image is decoded."""
        images = [digest(bytes(image)) if isinstance(image, bytes) else image for image in map(_content, self.images)]
        return content_hash([seed, self.question, self.options, self.answers, images])


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


def draft_of(fields: dict[str, Any]) -> Draft:
    """A plain row, checked; raises `RowError`. Options may stand in the question as lines `A. text`; answers to them may be letters or texts."""
    question = fields.get("question")
    if not isinstance(question, str) or not question.replace("<image>", "").strip():
        raise RowError("no_question", f"no text in `question`; the row has {', '.join(fields)}"[:300])
    question, options = _options(question.strip(), fields.get("options"))
    answers = _texts(fields.get("answers", fields.get("answer")))
    if (index := fields.get("answer_index")) is not None:
        answers = [_indexed(index, options)]
    if not answers:
        raise RowError("no_answer")
    if options:
        answers = [_letter(answer, options) for answer in answers]
    images = _listed(fields.get("images", fields.get("image")))
    if question.count("<image>") > len(images):
        raise RowError("image_missing", f"{question.count('<image>')} <image> marks for {len(images)} images")
    # Images before all words need no mark. With one they would stand where a prompt has its question, and not at its beginning, as at inference.
    question = _LEADING.sub("", question)
    kind = fields.get("answer_type") or _answer_type(answers, options)
    if kind not in ("choice", "number", "yes_no", "text") or (kind == "choice") != bool(options):
        raise RowError("bad_answer_type", f"{kind!r} with {len(options)} options")
    return Draft(question, tuple(options), tuple(answers), kind, tuple(images), _checked_meta(fields.get("meta") or {}))


def _content(image: Any) -> Any:
    """What an image is known by before it is read: its bytes, else its name."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    return image if isinstance(image, bytes | str) else str(type(image))


def _checked_meta(meta: Any) -> dict[str, Any]:
    if not isinstance(meta, dict):
        raise RowError("bad_meta", "meta is an object")
    try:
        text = orjson.dumps(meta)
    except (TypeError, ValueError) as error:
        raise RowError("bad_meta", f"meta is no JSON: {error}") from None
    if len(text) > _MOST_META:
        raise RowError("bad_meta", f"meta has {len(text)} bytes, more than {_MOST_META}")
    return dict(orjson.loads(text))


def _listed(value: Any) -> list[Any]:
    """One value or a list as a list, without what is null or blank."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [item for item in values if item is not None and not (isinstance(item, str) and not item.strip())]


def _indexed(index: Any, options: list[str]) -> str:
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if not isinstance(index, int) or not 0 <= index < len(options):
        raise RowError("bad_answer", f"answer_index {index!r} is no place, from 0, among {len(options)} options")
    return letter(index)


def _texts(value: Any) -> list[str]:
    """One value or a list as texts, without empty ones and repetitions."""
    texts = []
    for item in _listed(value):
        if isinstance(item, bool):
            item = "yes" if item else "no"
        if isinstance(item, float) and math.isnan(item):
            # How pandas writes an empty cell.
            continue
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
    return re.sub(r"\n(choices|options):$", "", "\n".join(lines).strip(), flags=re.IGNORECASE), [match[2].strip() for match in tail]


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
