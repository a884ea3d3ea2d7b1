"""The training primitive: log-probabilities of N answers to one (images, prompt), from one row in which the answers share the prompt.

A row is `[prompt | answer 1 | .. | answer N]`. Each answer sees the prompt and itself, at the positions that it has right behind the prompt, so
that it gets what it would get in a sequence of its own, while prompt and images are computed once. SFT is N = 1, a preference pair N = 2, group
RL N = 8; they are thin reductions over `answer_logprobs`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from insightv.models.vlm import collate_pixels, positions
from insightv.training.attention import PADDING, arguments

IGNORED = -100
"""Label of a position that has no loss."""
CHUNK = 512
"""Positions whose logits over the whole vocabulary exist at once."""
_STRIDE = 16
"""Widths are multiples of this: a library that compiles and keeps a kernel per shape (oneDNN does) then meets few shapes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens that follow a prompt, and which of them have loss (1) or not (0: a user's turn in between, say)."""

    ids: list[int]
    mask: list[int]


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt with its images and its N answers."""

    row_id: str
    prompt_ids: list[int]
    """Image placeholders expanded: as many as the model has features for the images."""
    pixels: dict[str, Tensor]
    """The processor's tensors of this row's images; empty without images."""
    answers: list[Answer]

    @property
    def length(self) -> int:
        """Tokens of the prompt with its longest answer: what the model's context must hold."""
        return len(self.prompt_ids) + max(len(answer.ids) for answer in self.answers)

    @property
    def width(self) -> int:
        """Tokens of the prompt with all its answers: what the row takes in a batch."""
        return len(self.prompt_ids) + sum(len(answer.ids) for answer in self.answers)


@dataclass(frozen=True, slots=True)
class AnswerLogprobs:
    """What a model gives to B rows of N answers each; everything float32 on the model's device."""

    tokens: Tensor
    """[B*N, T] log-probability of each answer token, 0 where it has no loss; T is the longest answer."""
    mask: Tensor
    """[B*N, T] bool: tokens that have loss."""
    sums: Tensor
    """[B, N] log-probability of each answer: the sum over its tokens with loss."""
    counts: Tensor
    """[B, N] tokens with loss."""


def collate(rows: Sequence[Row], pad_id: int, spare: Row | None = None) -> dict[str, Any]:
    """Make one right-padded batch of B rows that have the same number N of answers.

    Gives int64 `input_ids`, `labels` (unshifted, -100 without loss), `segments` (0 the prompt, k the k-th answer, -1 padding) and `offsets` (place
    of a token within its answer), all [B, L]; `prompt_lengths` [B], `answers` = N, `longest` = T, `row_ids`, and `pixels` of each row once.

    Where no row has an image, `spare`, which has one, is added as a row that counts for nothing: processes that share a model must all use its
    vision tower in every step, or wait for each other for ever. One process alone does so too, for an optimizer moves what has a gradient of zero, by
    its momentum, but not what has none.
    """
    count, ids = len(rows[0].answers), [row.row_id for row in rows]
    if any(len(row.answers) != count for row in rows):
        raise ValueError("rows of one batch must have the same number of answers")
    if spare and not any(row.pixels for row in rows):
        silent = Answer(spare.answers[0].ids[:1], [0])
        rows = [*rows, Row(spare.row_id, spare.prompt_ids, spare.pixels, [silent] * count)]
    width = -(-max(row.width for row in rows) // _STRIDE) * _STRIDE

    def stacked(fill: int, prompt: Callable[[Row], list[int]], answer: Callable[[int, Answer], list[int]]) -> Tensor:
        lines = [prompt(row) + [value for place, one in enumerate(row.answers, start=1) for value in answer(place, one)] for row in rows]
        return torch.tensor([line + [fill] * (width - len(line)) for line in lines])

    return {
        "input_ids": stacked(pad_id, lambda row: row.prompt_ids, lambda _, one: one.ids),
        "labels": stacked(IGNORED, lambda row: [IGNORED] * len(row.prompt_ids), lambda _, one: _labels(one)),
        "segments": stacked(PADDING, lambda row: [0] * len(row.prompt_ids), lambda place, one: [place] * len(one.ids)),
        "offsets": stacked(0, lambda row: [0] * len(row.prompt_ids), lambda _, one: list(range(len(one.ids)))),
        "prompt_lengths": torch.tensor([len(row.prompt_ids) for row in rows]),
        "answers": count,
        "longest": max(len(answer.ids) for row in rows for answer in row.answers),
        "row_ids": ids,
        "pixels": collate_pixels([row.pixels for row in rows if row.pixels]),
    }


def moved(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on a device."""
    pixels = {name: value.to(device) for name, value in batch["pixels"].items()}
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()} | {"pixels": pixels}


def _labels(answer: Answer) -> list[int]:
    return [token if kept else IGNORED for token, kept in zip(answer.ids, answer.mask, strict=True)]


def answer_logprobs(model: nn.Module, batch: Mapping[str, Any]) -> AnswerLogprobs:
    """Log-probabilities of a collated batch's answers under `model`, which may be wrapped by DDP, PEFT or a sharding engine.

    For answer y_k of prompt x: log p(y_k | x) = sum over its tokens i with loss of log p(y_k,i | x, y_k,<i). Differentiable. Images are encoded
    once a row, and the head runs only on the positions that predict a token with loss, over at most `CHUNK` of them at once.
    """
    labels, segments, offsets = batch["labels"], batch["segments"], batch["offsets"]
    rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
    starts, within = batch["prompt_lengths"][rows], offsets[rows, columns]
    # An answer's first token is predicted at the prompt's last position, wherever in the row the answer stands.
    before = torch.where(within == 0, starts - 1, columns - 1)
    places, targets = rows * labels.shape[1] + before, labels[rows, columns]
    real, count, width = len(batch["row_ids"]), batch["answers"], batch["longest"]
    if real < len(labels):
        # What the spare row says at its prompt's end, times nothing: it counts for nothing, and yet all parameters have a gradient.
        end = real * labels.shape[1] + batch["prompt_lengths"][real:] - 1
        chosen = _logprobs(model, batch, torch.cat([places, end]), torch.cat([targets, torch.zeros_like(end)]))
        chosen = chosen[:-1] + 0 * chosen[-1]
    else:
        chosen = _logprobs(model, batch, places, targets)
    place = (rows * count + segments[rows, columns] - 1, within)
    tokens = chosen.new_zeros(real * count, width).index_put(place, chosen)
    mask = torch.zeros_like(tokens, dtype=torch.bool).index_put(place, torch.ones_like(rows, dtype=torch.bool))
    return AnswerLogprobs(tokens, mask, tokens.sum(1).view(-1, count), mask.sum(1).view(-1, count))


def _logprobs(model: nn.Module, batch: Mapping[str, Any], places: Tensor, targets: Tensor) -> Tensor:
    """Log-probability [K], float32, of K target tokens at flat positions of the batch."""
    inner: Any = extract_model_from_parallel(model)
    if hasattr(inner, "peft_config"):
        inner = inner.get_base_model()
    head = inner.get_output_embeddings()
    logits = head.forward

    def instead(hidden: Tensor) -> Tensor:
        picked = hidden.flatten(0, 1).index_select(0, places)
        chunks = list(zip(picked.split(CHUNK), targets.split(CHUNK), strict=True))
        if len(chunks) == 1 or not torch.is_grad_enabled():
            return torch.cat([_chosen(logits, *chunk) for chunk in chunks])
        return torch.cat([checkpoint(_chosen, logits, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks])

    extra = dict(batch["pixels"])
    if "image_grid_thw" in extra:
        # Models with multimodal RoPE find their images by token type.
        extra["mm_token_type_ids"] = (batch["input_ids"] == inner.config.image_token_id).int()
    # The head answers with log-probabilities for the time of this call: it must run inside the outermost wrapper's forward pass, where DDP
    # synchronises and a sharded head is whole, and its logits must not be kept.
    head.forward = instead
    try:
        output = model(
            input_ids=batch["input_ids"],
            position_ids=_positions(inner, batch),
            use_cache=False,
            **extra,
            **arguments(inner, batch["segments"], batch["prompt_lengths"], batch["answers"], batch["longest"]),
        )
    finally:
        del head.forward
    chosen: Tensor = output.logits
    return chosen


def _chosen(logits: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    spare = -len(hidden) % (4 * _STRIDE)
    scores = logits(pad(hidden, (0, 0, 0, spare)))[: len(hidden)].float()
    return scores.gather(1, targets[:, None]).squeeze(1) - scores.logsumexp(1)


def _positions(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Position ids [B, L], or [3, B, L] for multimodal RoPE: each answer's begin where the prompt's end."""
    segments = batch["segments"]
    # Padding counts on as text, for positions that start anew look like a second sequence to the model.
    placed = positions(model, batch["input_ids"], torch.ones_like(segments), batch["pixels"])
    first = placed.gather(-1, batch["prompt_lengths"].expand(placed.shape[:-1])[..., None])
    return torch.where(segments > 0, first + batch["offsets"], placed)
