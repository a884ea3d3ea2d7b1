"""The layouts of visual question data: from a row as somebody wrote it to plain rows, one for each question.

A plain row has `question`, `answer` or `answers` (or `answer_index`, the place of the right option from 0), and maybe `image` or `images`, `options`,
`answer_type` and `meta`. What a row knows besides (its index, category, split, the data set that it came from) goes into `meta`.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from insightv.answers import MOST_OPTIONS, letter
from insightv.config import UserError
from insightv.datasets.formats import RowError

Fields = dict[str, Any]

_FACTS = {"index": "index", "id": "index", "question_id": "index", "category": "category", "l2-category": "l2_category"}
_ORIGIN = {"split": "split", "source": "origin", "data_source": "origin"}
_LONGEST_FACT = 200
_FORM_HINT = re.compile(
    r"\n(answer with the (option's )?letter( from the given choices directly)?|answer the question using a single word or phrase)\.?\s*$", re.IGNORECASE
)
"""Endings of LLaVA's and the Cauldron's instruction data that order a short reply; our prompts say themselves what reply they want."""
_PLACED = re.compile(r"<image (\d+)>")
_QUOTED = re.compile(r"""'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*\"""", re.DOTALL)
_GROUPS = (("answer", "answers", "answer_index"), ("image", "images"))
_LISTS = ("answers", "options", "images", "image", "meta", "conversations", "texts")
_PLAIN = ("question", "answer", "answers", "answer_index", "image", "images", "options", "answer_type")
_NOT_EVALKIT = {"answers", "answer_index", "images", "options", "answer_type", "meta"}
_REQUIRED = ("question", "answer", "answers", "answer_index", "image", "images", "conversations", "texts")
"""Mapped columns that a row must have: without an answer it is no problem, and without its image it would be another one."""
TARGETS = (*_PLAIN, "meta", "conversations", "texts", "hint", "image_path", *dict.fromkeys((*_FACTS, *_ORIGIN)))
"""Names that a column may be given by a mapping."""


def conversation(row: Fields) -> Iterator[Fields]:
    """LLaVA's layout, each pair of turns a question of its own about the row's images.

    `conversations` is a list of {"from": "human" | "gpt", "value"}, `image` (or `images`) what they are about. Cambrian-10M has the same with
    `id` and `source`, LLaVA-NeXT-Data with `id` and `data_source` (features of huggingface.co/datasets/lmms-lab/LLaVA-NeXT-Data).
    """
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns):
        raise RowError("bad_conversation", "conversations are a list of turns with text in `value`")
    if turns and turns[0].get("from") == "system":
        turns = turns[1:]
    if not turns or len(turns) % 2:
        raise RowError("bad_conversation", "conversations are pairs of turns")
    rest = {name: row[name] for name in ("image", "images") if name in row} | {"meta": _meta(row)}
    for asked, said in zip(turns[::2], turns[1::2], strict=True):
        if (asked.get("from"), said.get("from")) != ("human", "gpt"):
            raise RowError("bad_conversation", "turns alternate between human and gpt")
        yield {"question": _FORM_HINT.sub("", asked["value"].strip()), "answer": said["value"].strip(), **rest}


def texts(row: Fields) -> Iterator[Fields]:
    """The Cauldron's layout: `images` and `texts`, a list of {user, assistant, source} (features of huggingface.co/datasets/HuggingFaceM4/the_cauldron).

    Its multiple-choice questions read `Question: ..`, `Choices:`, `A. ..`, `Answer with the letter.`, and are answered by `Answer: A`.
    """
    pairs = row.get("texts")
    if not isinstance(pairs, list) or not pairs:
        raise RowError("bad_conversation", "texts are a list of pairs of user and assistant")
    for pair in pairs:
        if not isinstance(pair, dict) or not isinstance(pair.get("user"), str) or not isinstance(pair.get("assistant"), str):
            raise RowError("bad_conversation", "texts are pairs with text in `user` and `assistant`")
        question = re.sub(r"^Question:\s*", "", _FORM_HINT.sub("", pair["user"].strip()))
        answer = re.sub(r"^Answer:\s*", "", pair["assistant"].strip())
        yield {"question": question, "answer": answer, "images": row.get("images"), "meta": _meta(row) | _facts(pair, {"source": "origin"})}


def plain(row: Fields) -> Iterator[Fields]:
    """A row with our own names; lists may be written as text, as in the cells of a table."""
    fields = {name: unfolded(value) if name in _LISTS else value for name, value in row.items()}
    yield {name: fields[name] for name in _PLAIN if name in fields} | {"meta": _meta(fields)}


def evalkit(row: Fields) -> Iterator[Fields]:
    """VLMEvalKit's layout: `index`, `image` (base64, or a list of them), `question`, options in columns `A`, `B` .., `answer`, and often `hint`,
    `category`, `l2-category`, `split` or `image_path` (github.com/open-compass/VLMEvalKit, docs/en/Development.md and vlmeval/dataset/image_base.py).

    `<image 2>` in a question names the second image, as in MMMU; where options name images too, all stand before the question, in order.
    """
    question = row.get("question")
    if not isinstance(question, str):
        raise RowError("no_question", f"no text in `question`; the row has {_names(row)}")
    if hint := row.get("hint"):
        question = f"Hint: {hint}\n{question}"
    options = [str(value) for place in range(MOST_OPTIONS) if (value := row.get(letter(place))) not in (None, "")]
    if options and len(options) != next(place for place in range(MOST_OPTIONS + 1) if place == MOST_OPTIONS or row.get(letter(place)) in (None, "")):
        raise RowError("bad_options", "the columns A, B, .. have a gap")
    images = unfolded(row.get("image") or row.get("image_path"))
    images = images if isinstance(images, list) else [images] if images is not None else []
    if not any(_PLACED.search(option) for option in options):
        question, places = placed(question, len(images))
        images = [images[place] for place in places]
    answers = unfolded(row.get("answer"))
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        answers = row.get("answer")
    yield {"question": question, "answers": answers, "options": options, "images": images, "meta": _meta(row)}


def sample(row: Fields) -> Iterator[Fields]:
    """WebDataset's layout: the images of the archive's members, with questions as in any of the other layouts in the JSON beside them."""
    if not any(row.get(name) for name in ("image", "images")):
        raise RowError("image_missing", f"no image beside {row.get('__key__')}; members of a row stand next to each other in the archive")
    fields = {"id": row.get("__key__")} | {name: value for name, value in row.items() if name != "__key__"}
    yield from LAYOUTS[_layout(fields)](fields)


LAYOUTS: dict[str, Callable[[Fields], Iterator[Fields]]] = {
    "llava": conversation,
    "cambrian": conversation,
    "llava-next-data": conversation,
    "cauldron": texts,
    "plain": plain,
    "vlmevalkit": evalkit,
    "webdataset": sample,
}


def questions(row: Any, preset: str) -> Iterator[Fields]:
    """The plain rows of a row in the named layout, or in that which its columns show; raises `RowError`."""
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, dict):
        raise RowError("bad_row", f"a row is an object, not {type(row).__name__}")
    yield from LAYOUTS[preset or _layout(row)](row)


def _layout(row: Fields) -> str:
    if "__key__" in row:
        return "webdataset"
    if "conversations" in row:
        return "llava"
    if "texts" in row and "question" not in row:
        return "cauldron"
    return "vlmevalkit" if is_evalkit(row) else "plain"


def is_evalkit(row: Any) -> bool:
    """Whether a row's columns are those of VLMEvalKit, as opposed to a plain row that has an index."""
    return isinstance(row, dict) and {"index", "question"} <= row.keys() and ("image" in row or "image_path" in row) and not _NOT_EVALKIT & row.keys()


def check_columns(columns: Mapping[str, str]) -> None:
    """A name that a mapping cannot give is a `UserError`."""
    for name in columns:
        if name not in TARGETS and not re.fullmatch("[A-Z]", name):
            raise UserError(f"columns: {name!r} is no name of ours; map one of {', '.join(TARGETS)}, A, B, .. to a column of the rows")


def renamed(row: Any, columns: Mapping[str, str]) -> Any:
    """The row with columns under our names; what is mapped stands for its whole group, so a mapped `answer` hides a column `answers`."""
    if not columns or not isinstance(row, dict):
        return row
    if missing := [column for name, column in columns.items() if name in _REQUIRED and column not in row]:
        raise RowError("no_column", f"no column {missing[0]!r}; the row has {_names(row)}")
    hidden = {name for group in _GROUPS if any(name in columns for name in group) for name in group}
    kept = {name: value for name, value in row.items() if name not in hidden and name not in columns.values()}
    return kept | {name: row[column] for name, column in columns.items() if column in row}


def _meta(row: Fields) -> Any:
    """The row's own `meta` over what its columns tell."""
    own = row.get("meta")
    if own is not None and not isinstance(own, dict):
        raise RowError("bad_meta", "meta is an object")
    return _facts(row, _FACTS | _ORIGIN) | (own or {})


def _facts(row: Fields, names: Mapping[str, str]) -> Fields:
    found: Fields = {}
    for name, ours in names.items():
        value = row.get(name)
        short = isinstance(value, str) and 0 < len(value) <= _LONGEST_FACT
        if short or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            found.setdefault(ours, value)
    return found


def unfolded(value: Any) -> Any:
    """A list or object that was written as text, in JSON or as Python writes a list of texts; any other value as it is."""
    text = value.strip() if isinstance(value, str) else ""
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return value
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        items = _QUOTED.findall(text)
        if text[0] == "[" and not _QUOTED.sub("", text)[1:-1].replace(",", "").strip() and items:
            return [re.sub(r"\\(.)", r"\1", item[1:-1]) for item in items]
        return value


def placed(text: str, count: int, *, strict: bool = False) -> tuple[str, list[int]]:
    """The text with `<image>` for each mark `<image 2>`, and which of `count` images stand there, from 0: those that no mark names, then the marks'.

    Where marks do not fit, for there is no such image or it is named twice, the text stays as it is and the images stand in order. `strict` takes an
    image named twice twice, and raises `RowError` where there is no such image.
    """
    named = [int(number) - 1 for number in _PLACED.findall(text)]
    beyond = [place for place in named if not 0 <= place < count]
    if strict and beyond:
        raise RowError("bad_mark", f"the question names image {beyond[0] + 1}, and there are {count}")
    if beyond or (not strict and len(set(named)) != len(named)):
        return text, list(range(count))
    return _PLACED.sub("<image>", text), [place for place in range(count) if place not in named] + named


def _names(row: Fields) -> str:
    return ", ".join(map(str, list(row)[:20]))[:300] or "no columns"
