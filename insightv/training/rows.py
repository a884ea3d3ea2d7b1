"""Turn a data set in TRL's conversational form into tokenised rows: prompt, pixels, and answers with their loss masks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

from insightv.config import UserError
from insightv.images import digest
from insightv.models.chat import Image, Message, Text
from insightv.models.vlm import VLM, encode, render
from insightv.training.packing import Answer, Row


def read_data(folder: Path) -> list[dict[str, Any]]:
    """All rows of the Parquet files in a folder, in the order of the files' names."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UserError(f"no data set in {folder}: it holds no .parquet file")
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


def encode_rows(vlm: VLM, data: Iterable[Mapping[str, Any]], max_length: int) -> tuple[list[Row], dict[str, str]]:
    """Tokenise rows `{id, images: [{bytes}], prompt, completion}` or `{.., prompt, chosen, rejected}`, maybe with `rejected_truncated`.

    Returns the rows and, by id, why others were dropped: longer than `max_length` tokens, never cut. Rows of the same images share their pixels.
    Raises `UserError` where prompt and images do not fit together, an image stands in a completion, or an id comes twice.
    """
    rows: dict[str, Row] = {}
    dropped: dict[str, str] = {}
    seen: dict[tuple[str, ...], dict[str, Any]] = {}
    for item in data:
        row, images = _encode_row(vlm, item)
        if row.row_id in rows or row.row_id in dropped:
            raise UserError(f"row id {row.row_id} comes twice in the data set")
        if row.length > max_length:
            dropped[row.row_id] = f"too_long: {row.length} tokens"
        else:
            rows[row.row_id] = Row(row.row_id, row.prompt_ids, seen.setdefault(images, row.pixels), row.answers)
    return list(rows.values()), dropped


def _encode_row(vlm: VLM, item: Mapping[str, Any]) -> tuple[Row, tuple[str, ...]]:
    blobs = {digest(image["bytes"]): image["bytes"] for image in item.get("images") or ()}
    order = [digest(image["bytes"]) for image in item.get("images") or ()]
    unplaced = iter(order)
    prompt = [_message(turn, unplaced, item["id"]) for turn in item["prompt"]]
    if next(unplaced, None) is not None:
        raise UserError(f"row {item['id']} has more images than places for them in its prompt")
    names = ["completion"] if item.get("completion") is not None else ["chosen", "rejected"]
    encoded = encode(vlm, prompt, blobs.__getitem__, generation_prompt=True)
    answers = [_answer(vlm, prompt, [_message(turn, unplaced, item["id"]) for turn in item[name]], ended=not item.get(f"{name}_truncated")) for name in names]
    return Row(item["id"], encoded.input_ids, encoded.pixels, answers), tuple(order)


def _message(turn: Mapping[str, Any], images: Iterator[str], row_id: str) -> Message:
    if isinstance(turn["content"], str):
        return Message(turn["role"], (Text(turn["content"]),))
    parts: list[Text | Image] = []
    for part in turn["content"]:
        if part["type"] == "text":
            parts.append(Text(part["text"]))
            continue
        place = next(images, None)
        if place is None:
            raise UserError(f"row {row_id} has fewer images than places for them")
        parts.append(Image(place))
    return Message(turn["role"], tuple(parts))


def _answer(vlm: VLM, prompt: Sequence[Message], turns: Sequence[Message], *, ended: bool = True) -> Answer:
    """What follows the rendered prompt: assistant turns with their end-of-turn tokens have loss, user turns between them have none.

    Each piece is tokenised by itself, because inference too continues exactly where the tokenised prompt ends. Of an answer that was cut
    (`ended` false) the last turn stays open: an end that its writer never wrote is no part of what it wrote.
    """
    ids: list[int] = []
    mask: list[int] = []

    def add(text: str, loss: int) -> None:
        piece = vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.extend(piece)
        mask.extend([loss] * len(piece))

    history = list(prompt)
    done = render(vlm, history, generation_prompt=True)
    for place, turn in enumerate(turns, start=1):
        if turn.role == "assistant":
            opened = render(vlm, history, generation_prompt=True)
            add(_rest(done, opened), 0)
            if ended or place < len(turns):
                done = render(vlm, [*history, turn], generation_prompt=False)
            else:
                said = "".join(part.text for part in turn.parts if isinstance(part, Text))
                done = render(vlm, history, generation_prompt=True, prefill=said)
            add(_rest(opened, done), 1)
        history.append(turn)
    return Answer(ids, mask)


def _rest(start: str, whole: str) -> str:
    if not whole.startswith(start):
        raise UserError("the chat template changes earlier turns when a later one comes, so its prompts cannot be trained on")
    return whole[len(start) :]
