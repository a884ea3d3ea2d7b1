"""The training primitive: per-token log-probabilities of N answers to one (images, prompt).

SFT is N = 1, a preference pair N = 2, group RL N = 8; they are thin reductions over `answer_logprobs`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from insightv.models.vlm import collate_pixels

IGNORED = -100
"""Label of a position that has no loss."""
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
        """Tokens of the prompt with its longest answer."""
        return len(self.prompt_ids) + max(len(answer.ids) for answer in self.answers)


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


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
    """Make one right-padded batch of rows that have the same number N of answers.

    Gives `input_ids`, `attention_mask`, `labels` [B*N, L] in row-major order (labels unshifted, -100 without loss), `prompt_lengths` [B*N],
    `answers` = N, `row_ids` and `pixels`. In this plain version each answer is a sequence of its own with its own copy of prompt and pixels.
    """
    count = len(rows[0].answers)
    if any(len(row.answers) != count for row in rows):
        raise ValueError("rows of one batch must have the same number of answers")
    pairs = [(row, answer) for row in rows for answer in row.answers]
    longest = max(len(row.prompt_ids) + len(answer.ids) for row, answer in pairs)
    width = -(-longest // _STRIDE) * _STRIDE
    ids = [torch.tensor(row.prompt_ids + answer.ids) for row, answer in pairs]
    labels = [
        torch.tensor([IGNORED] * len(row.prompt_ids) + [token if kept else IGNORED for token, kept in zip(answer.ids, answer.mask, strict=True)])
        for row, answer in pairs
    ]
    return {
        "input_ids": _padded(ids, width, pad_id),
        "attention_mask": _padded([torch.ones_like(one) for one in ids], width, 0),
        "labels": _padded(labels, width, IGNORED),
        "prompt_lengths": torch.tensor([len(row.prompt_ids) for row, _ in pairs]),
        "pixels": collate_pixels([row.pixels for row, _ in pairs if row.pixels]),
        "answers": count,
        "row_ids": [row.row_id for row in rows],
    }


def _padded(rows: Sequence[Tensor], width: int, value: int) -> Tensor:
    return pad(pad_sequence(list(rows), batch_first=True, padding_value=value), (0, width - max(len(row) for row in rows)), value=value)


def answer_logprobs(model: nn.Module, batch: Mapping[str, Any]) -> AnswerLogprobs:
    """Log-probabilities of a collated batch's answers under `model`, which may be wrapped by DDP or PEFT.

    Differentiable. The head runs only on positions that predict a token with loss, so logits are [K, vocabulary] for K such tokens.
    """
    labels = batch["labels"]
    rows, columns = torch.nonzero(labels[:, 1:] != IGNORED, as_tuple=True)
    positions = rows * labels.shape[1] + columns
    spare = -len(positions) % (16 * _STRIDE)
    logits = _logits_at(model, batch, pad(positions, (0, spare)))[: len(positions)]
    targets = labels[rows, columns + 1]
    chosen = logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)
    starts = batch["prompt_lengths"]
    width = int((batch["attention_mask"].sum(1) - starts).max())
    offsets = columns + 1 - starts[rows]
    tokens = chosen.new_zeros(len(labels), width).index_put((rows, offsets), chosen)
    mask = torch.zeros(len(labels), width, dtype=torch.bool, device=labels.device).index_put((rows, offsets), torch.ones_like(rows, dtype=torch.bool))
    shape = (-1, batch["answers"])
    return AnswerLogprobs(tokens, mask, tokens.sum(1).view(shape), mask.sum(1).view(shape))


def _logits_at(model: nn.Module, batch: Mapping[str, Any], positions: Tensor) -> Tensor:
    """Logits [K, vocabulary], float32, at flat positions of the batch."""
    inner: Any = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model

    def pick(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return inputs[0].flatten(0, 1).index_select(0, positions)

    extra = dict(batch["pixels"])
    if "image_grid_thw" in extra:
        # Models with multimodal RoPE find their images by token type.
        extra["mm_token_type_ids"] = (batch["input_ids"] == inner.config.image_token_id).int()
    # A hook in front of the head instead of calling the backbone: the forward pass must go through the outermost wrapper, or DDP would not synchronise.
    handle = inner.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **extra)
    finally:
        handle.remove()
    logits: Tensor = output.logits
    return logits.float()
