"""From a data set in TRL's conversational form to rows of tokens: one prompt with its images, and answers with their loss masks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from insightv.config import UserError
from insightv.images import digest
from insightv.models.chat import Image, Message, Text
from insightv.models.vlm import VLM, Prepared, count_image_tokens, expand, prepare, render, tokenize
from insightv.training.packing import Answer, Row


class RowRefused(ValueError):
    """A row that cannot be trained on; the message says why, in words fit for a user."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A row whose images are still encoded bytes, each a single placeholder in the prompt."""

    row_id: str
    prompt: list[int]
    answers: list[Answer]
    images: Sequence[bytes] = ()
    """None where they are prepared already."""
    digests: Sequence[str] = ()
    """Of the images."""


def tokenize_row(vlm: VLM, item: Mapping[str, Any]) -> Tokens:
    """Tokenise `{id, images: [{bytes}], prompt, completion}` or `{.., prompt, chosen, rejected}`, maybe with `rejected_truncated`.

    Messages are `{role, content}`, their content a text or parts `{type: text, text}` and `{type: image}`. Raises `RowRefused`.
    """
    images = [_bytes(image) for image in item.get("images") or ()]
    digests = [digest(data) for data in images]
    unplaced = iter(digests)
    prompt = [_message(turn, unplaced) for turn in item["prompt"]]
    if next(unplaced, None) is not None:
        raise RowRefused("more images than places for them in its prompt")
    names = ["completion"] if item.get("completion") is not None else ["chosen", "rejected"]
    turns = {name: [_message(turn, unplaced) for turn in item[name]] for name in names}
    answers = [_answer(vlm, prompt, turns[name], ended=not item.get(f"{name}_truncated")) for name in names]
    if not all(any(answer.mask) for answer in answers):
        raise RowRefused("an answer without a token to learn")
    return Tokens(item["id"], tokenize(vlm, render(vlm, prompt, generation_prompt=True)), answers, images, digests)


def prompt_length(vlm: VLM, row: Tokens, sizes: Sequence[tuple[int, int]]) -> int:
    """Tokens of the prompt with its images, whose sizes are (width, height). Raises `RowRefused` where the prompt has not a place for each."""
    placeholders = row.prompt.count(vlm.processor.image_token_id)
    if placeholders != len(row.images):
        raise RowRefused(f"{placeholders} image tokens in its prompt for {len(row.images)} images")
    return len(row.prompt) - placeholders + sum(count_image_tokens(vlm, sizes))


def encode_row(vlm: VLM, row: Tokens, prepared: Prepared | None = None) -> Row:
    """The row with its images expanded in the prompt; `prepared` are these images if somebody has prepared them already."""
    encoded = expand(vlm, row.prompt, prepared or prepare(vlm, row.images))
    return Row(row.row_id, encoded.input_ids, encoded.pixels, row.answers)


def _bytes(image: Mapping[str, Any] | None) -> bytes:
    data = image and image.get("bytes")
    if not data:
        raise RowRefused("an image is missing: its bytes must stand in the data set")
    return bytes(data)


def _message(turn: Mapping[str, Any], images: Iterator[str]) -> Message:
    if isinstance(turn["content"], str):
        return Message(turn["role"], (Text(turn["content"]),))
    parts: list[Text | Image] = []
    for part in turn["content"]:
        if part["type"] == "text":
            parts.append(Text(part["text"]))
            continue
        place = next(images, None)
        if place is None:
            raise RowRefused("fewer images than places for them")
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
