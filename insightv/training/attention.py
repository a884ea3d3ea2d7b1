"""Attention over rows whose answers share their prompt, each of which sees the prompt and itself: in whichever form the machine does best.

`shared_prefix` computes no block that nobody sees: a prompt of P tokens with N answers of A takes P^2/2 + N*A*(P + A) scores, a mask over the whole
row (P + N*A)^2. It is made of two calls of the library's own attention, so it has that one's precision.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

PADDING = -1
"""Segment of the positions behind a row's end."""
SHARED = "shared_prefix"


class Layout(NamedTuple):
    """Where prompts and answers stand in a batch of B rows of length L with N answers each, A being the longest answer."""

    prompt: int
    """Tokens of the longest prompt."""
    places: Tensor
    """[B*N, A] places of the answers' tokens in the flattened batch [B*L]; of the padding, the place of some token."""
    real: Tensor
    """Where in the flattened answers [B*N*A] there are tokens, not padding."""
    back: Tensor
    """The places of these."""
    seen: Tensor
    """[B*N, 1, A, prompt + A] bool: what each answer token sees of the prompt and of its answer."""


def choose(model: Any, *, half: bool) -> None:
    """Set the language model's attention: FlexAttention on a GPU, on a CPU plain products in bfloat16 and `shared_prefix` in float32."""
    # The backward pass of the library's attention in bfloat16 takes half of a step's time on a CPU; plain products make good use of AMX.
    kind = "flex_attention" if next(model.parameters()).is_cuda else "eager" if half else SHARED
    model.set_attn_implementation({"text_config": kind})


def arguments(model: Any, segments: Tensor, prompt_lengths: Tensor, answers: int, longest: int) -> dict[str, Any]:
    """What a model's forward pass is given for rows of these segments [B, L]: 0 the prompt, k the k-th answer, -1 padding."""
    if answers == 1:
        # Causal attention does it: nothing follows the only answer but padding.
        return {"attention_mask": None}
    kind = model.config.get_text_config()._attn_implementation
    if kind == SHARED:
        return {"attention_mask": None, SHARED: layout(segments, prompt_lengths, answers, longest)}
    if kind == "flex_attention":
        return {"attention_mask": _block_mask(segments)}
    mask = _mask(segments)
    return {"attention_mask": mask if kind == "sdpa" else torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)}


def layout(segments: Tensor, prompt_lengths: Tensor, answers: int, longest: int) -> Layout:
    """The layout of a batch."""
    rows, width = segments.shape
    device, most = segments.device, int(prompt_lengths.max())
    which = torch.arange(1, answers + 1, device=device).repeat(rows)
    of = torch.arange(rows, device=device).repeat_interleave(answers)
    mine = segments[of] == which[:, None]
    counts, starts = mine.sum(1), mine.int().argmax(1)
    within = torch.arange(longest, device=device)
    real = (within < counts[:, None]).flatten().nonzero().squeeze(1)
    places = of[:, None] * width + (starts[:, None] + within).clamp(max=width - 1)
    of_prompt = (torch.arange(most, device=device) < prompt_lengths[of][:, None])[:, None, None].expand(-1, 1, longest, -1)
    own = (within <= within[:, None]).expand(len(of), 1, -1, -1)
    return Layout(most, places, real, places.flatten()[real], torch.cat([of_prompt, own], dim=-1))


def _seen(segments: Tensor, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return (key <= query) & ((segments[row, key] == 0) | (segments[row, key] == segments[row, query]))


def _mask(segments: Tensor) -> Tensor:
    """[B, 1, L, L] bool."""
    rows, width = segments.shape
    place = torch.arange(width, device=segments.device)
    return _seen(segments, torch.arange(rows, device=segments.device)[:, None, None, None], place[:, None], place)


def _block_mask(segments: Tensor) -> BlockMask:
    rows, width = segments.shape
    return create_block_mask(lambda row, _, query, key: _seen(segments, row, query, key), rows, None, width, width, device=segments.device.type)


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None, **more: Any
) -> tuple[Tensor, None]:
    """Queries [B, H, L, D], keys and values [B, H or fewer, L, D] -> [B, L, H, D]."""
    found: Layout | None = more.pop(SHARED, None)
    if found is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
        return plain
    rows, heads, width, size = query.shape
    answers = len(found.places) // rows
    first = slice(0, found.prompt)
    settings = {"scale": scaling, "enable_gqa": key.shape[1] != heads, "dropout_p": more.get("dropout", 0.0)}
    prompt = scaled_dot_product_attention(query[:, :, first], key[:, :, first], value[:, :, first], is_causal=True, **settings)

    def picked(states: Tensor) -> Tensor:
        """[B*N, H, A, D] of the answers' tokens."""
        flat = states.transpose(1, 2).flatten(0, 1)
        return flat.index_select(0, found.places.flatten()).view(*found.places.shape, *flat.shape[1:]).transpose(1, 2)

    def with_prompt(states: Tensor) -> Tensor:
        return torch.cat([states[:, :, first].repeat_interleave(answers, 0), picked(states)], dim=2)

    answered = scaled_dot_product_attention(picked(query), with_prompt(key), with_prompt(value), attn_mask=found.seen, **settings)
    whole = pad(prompt, (0, 0, 0, width - found.prompt)).transpose(1, 2).flatten(0, 1)
    whole = whole.index_copy(0, found.back, answered.transpose(1, 2).flatten(0, 1).index_select(0, found.real))
    return whole.view(rows, width, heads, size), None


AttentionInterface.register(SHARED, _attend)
