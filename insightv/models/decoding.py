"""Decode a batch of samples together: one prefill and one image encoding per distinct prompt, one key-value cache for all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from insightv.models.chat import Sampling
from insightv.models.vlm import VLM, Encoded, collate_pixels, detokenize, positions


@dataclass(eq=False)
class Sample:
    """One reply in the making; samples of one prompt share its `Encoded` object."""

    prompt: Encoded
    sampling: Sampling
    seed: int
    watch: Callable[["Sample"], None] | None = None
    """Called after every token, in the decoding thread."""
    ids: list[int] = field(default_factory=list)
    """Tokens so far, the one that ended the reply included."""
    logprobs: list[float] = field(default_factory=list)
    """The model's log-probability of each token at temperature 1; empty unless asked for."""
    finish: Literal["stop", "length"] | None = None
    cancelled: bool = False
    """Set from any thread: the sample is dropped at the next token."""

    @property
    def open(self) -> bool:
        """Whether tokens are still wanted."""
        return self.finish is None and not self.cancelled


@torch.inference_mode()
def decode(vlm: VLM, samples: Sequence[Sample]) -> None:
    """Fill in tokens and finish of every sample that is not cancelled.

    A sample's draws come from its own seed alone, so its batch companions matter to it only through floating-point sums.
    """
    live = [sample for sample in samples if sample.open]
    if not live:
        return
    prompts = list({id(sample.prompt): sample.prompt for sample in live}.values())
    place = {id(prompt): row for row, prompt in enumerate(prompts)}
    state = _State.prefill(vlm, prompts)
    state.select([place[id(sample.prompt)] for sample in live])
    draws = _Draws(live, vlm.device)
    ends, limit = end_tokens(vlm), context(vlm)
    while True:
        tokens = draws.next(state.logits)
        _append(vlm, live, tokens, state.logits, ends, limit)
        kept = [row for row, sample in enumerate(live) if sample.open]
        if not kept:
            return
        if 8 * len(kept) <= 7 * len(live):
            # Copying the cache costs about as much as one step, so a few finished rows are carried along.
            live = [live[row] for row in kept]
            state.select(kept)
            draws.select(kept)
            tokens = tokens[torch.tensor(kept, device=tokens.device)]
        state.step(vlm, tokens)


def reply_text(vlm: VLM, sample: Sample) -> str:
    """The text of a sample so far, without the token or the string that ended it."""
    ids = sample.ids[:-1] if sample.ids and sample.ids[-1] in end_tokens(vlm) else sample.ids
    text = detokenize(vlm, ids)
    return text[: min((at for stop in sample.sampling.stop if (at := text.find(stop)) >= 0), default=len(text))]


def end_tokens(vlm: VLM) -> frozenset[int]:
    """Tokens that end a reply, by the generation config, else by the tokenizer."""
    named = vlm.model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named if named is not None else vlm.tokenizer.eos_token_id]
    return frozenset(token for token in ends if token is not None)


def context(vlm: VLM) -> int:
    """Tokens of prompt and reply together that the model has positions for."""
    return int(getattr(vlm.model.config.get_text_config(), "max_position_embeddings", None) or 2**31)


class _GrowingLayer(DynamicLayer):
    """Keys and values in buffers with room to spare: a new token is written in place, where the base class copies everything."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._length = 0
        self._buffers = [key_states[:, :, :0], value_states[:, :, :0]]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self._length = self._length, self._length + key_states.shape[-2]
        if self._length > self._buffers[0].shape[-2]:
            room = self._length // 2 + 32
            self._buffers = [_padded(buffer[:, :, :start], key_states.shape[-2] + room) for buffer in self._buffers]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : self._length] = new
        return self._expose()

    def batch_select_indices(self, indices: Tensor) -> None:
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._expose()

    def _expose(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = keys, values = tuple(buffer[:, :, : self._length] for buffer in self._buffers)
        return keys, values


def _padded(states: Tensor, room: int) -> Tensor:
    return torch.cat([states, states.new_empty(*states.shape[:2], room, states.shape[3])], dim=2)


@dataclass
class _State:
    """What a batch of B sequences has come to."""

    logits: Tensor
    """[B, vocabulary] float32, of the next token."""
    cache: Cache
    mask: Tensor
    """[B, length so far]: 0 on the padding at the left."""
    position: Tensor
    """[B, 1] of the next token."""

    @classmethod
    def prefill(cls, vlm: VLM, prompts: Sequence[Encoded]) -> "_State":
        longest = max(len(prompt.input_ids) for prompt in prompts)
        padding = [longest - len(prompt.input_ids) for prompt in prompts]
        fill = vlm.tokenizer.pad_token_id or 0
        ids = torch.tensor([[fill] * pad + prompt.input_ids for pad, prompt in zip(padding, prompts, strict=True)], device=vlm.device)
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding], device=vlm.device)
        pixels = _on_model(vlm, collate_pixels([prompt.pixels for prompt in prompts]))
        place = positions(vlm.model, ids, mask, pixels)
        cache = Cache(layer_class_to_replicate=_GrowingLayer)
        output = vlm.model(input_ids=ids, attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=True, logits_to_keep=1, **pixels)
        highest = place.amax(0) if place.dim() == 3 else place
        return cls(output.logits[:, -1].float(), cache, mask, highest.amax(1, keepdim=True) + 1)

    def step(self, vlm: VLM, tokens: Tensor) -> None:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        output = vlm.model(input_ids=tokens[:, None], attention_mask=self.mask, position_ids=self.position, past_key_values=self.cache, use_cache=True)
        self.logits = output.logits[:, -1].float()
        self.position = self.position + 1

    def select(self, rows: Sequence[int]) -> None:
        indices = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(indices)
        self.logits, self.mask, self.position = self.logits[indices], self.mask[indices], self.position[indices]


class _Draws:
    """Chooses tokens: greedily, or by the inverse of the distribution function at numbers that each sample's seed gave beforehand."""

    def __init__(self, samples: Sequence[Sample], device: torch.device) -> None:
        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device)[:, None]

        self._temperature = column([sample.sampling.temperature for sample in samples])
        self._top_p = column([sample.sampling.top_p for sample in samples])
        self._uniform = torch.zeros(len(samples), max(sample.sampling.max_tokens for sample in samples), dtype=torch.float64)
        for row, sample in enumerate(samples):
            if sample.sampling.temperature > 0:
                # Always drawn on the CPU: the same numbers on every device.
                wanted = sample.sampling.max_tokens
                self._uniform[row, :wanted] = torch.rand(wanted, generator=torch.Generator().manual_seed(sample.seed), dtype=torch.float64)
        self._uniform = self._uniform.to(device)
        self._step = -1

    def next(self, logits: Tensor) -> Tensor:
        """Tokens [B] from logits [B, vocabulary]."""
        self._step += 1
        greedy = logits.argmax(-1)
        if not bool((self._temperature > 0).any()):
            return greedy
        probabilities = (logits / self._temperature.clamp(min=1e-6)).softmax(-1)
        order = None
        if bool((self._top_p < 1).any()):
            probabilities, order = probabilities.sort(dim=-1, descending=True)
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self._top_p, 0)
        # In double precision, or the tail of a large vocabulary would be lost in the sum.
        upto = probabilities.cumsum(-1, dtype=torch.float64)
        drawn = torch.searchsorted(upto, self._uniform[:, self._step, None] * upto[:, -1:], right=True).clamp(max=logits.shape[-1] - 1)
        if order is not None:
            drawn = order.gather(-1, drawn)
        return torch.where(self._temperature[:, 0] > 0, drawn[:, 0], greedy)

    def select(self, rows: Sequence[int]) -> None:
        indices = torch.tensor(rows, device=self._temperature.device)
        self._temperature, self._top_p, self._uniform = self._temperature[indices], self._top_p[indices], self._uniform[indices]


def _append(vlm: VLM, live: Sequence[Sample], tokens: Tensor, logits: Tensor, ends: frozenset[int], limit: int) -> None:
    """Give each open sample its token and see whether that finishes it."""
    logprobs = None
    if any(sample.sampling.logprobs for sample in live):
        logprobs = (logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)).tolist()
    for row, (sample, token) in enumerate(zip(live, tokens.tolist(), strict=True)):
        if not sample.open:
            continue
        sample.ids.append(token)
        if logprobs is not None and sample.sampling.logprobs:
            sample.logprobs.append(logprobs[row])
        if token in ends or _stopped(vlm, sample):
            sample.finish = "stop"
        elif len(sample.ids) >= sample.sampling.max_tokens or len(sample.prompt.input_ids) + len(sample.ids) >= limit:
            sample.finish = "length"
        if sample.watch:
            sample.watch(sample)


def _stopped(vlm: VLM, sample: Sample) -> bool:
    """Whether a stop string ends within the last tokens; every token stands for at least one byte, so few need a look."""
    stops = sample.sampling.stop
    if not stops:
        return False
    tail = detokenize(vlm, sample.ids[-(max(len(stop.encode()) for stop in stops) + 4) :])
    return any(stop in tail for stop in stops)


def _on_model(vlm: VLM, pixels: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(vlm.device, vlm.model.dtype if tensor.is_floating_point() else None) for name, tensor in pixels.items()}
