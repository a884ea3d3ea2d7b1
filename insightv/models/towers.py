"""One vision tower for several models: what one of them has seen the others need not look at again."""

import copy
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from insightv.models.vlm import VLM

_NAMES = ("vision_tower", "vision_model", "visual")


def share_tower(vlms: Sequence[VLM], cache: int = 512) -> bool:
    """Let models whose vision towers have the same weights use the first one's, whose last outputs, `cache` megabytes of them, are kept.

    False where towers differ, as after training them: nothing is shared then. A tower that ends in a projector of its own (Qwen) is the same
    only where that is too.
    """
    places = [_tower(vlm.model) for vlm in vlms]
    first = getattr(*places[0])
    if not all(_same(first, getattr(*place)) for place in places[1:]):
        return False
    for owner, name in places[1:]:
        setattr(owner, name, first)
    first.forward = _Remembering(first.forward, cache * 2**20)
    return True


class _Remembering:
    """A forward pass that keeps its last results by the bytes of what it was given; safe for threads."""

    def __init__(self, forward: Any, room: int) -> None:
        self._forward, self._room = forward, room
        self._known: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, *given: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            return self._forward(*given, **named)
        key = _key([*given, *sorted(named.items())])
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return copy.copy(self._known[key][0])
            found = self._forward(*given, **named)
            # Copies go out: some models put what they make of the fields into the fields.
            self._known[key] = copy.copy(found), sum(tensor.nbytes for tensor in _tensors(found))
            while len(self._known) > 1 and sum(size for _, size in self._known.values()) > self._room:
                self._known.popitem(last=False)
            return found


def _tower(model: Any) -> tuple[Any, str]:
    """The module that holds a model's vision tower, and its name there."""
    for path, module in model.named_modules():
        if path.rpartition(".")[2] in _NAMES:
            owner, _, name = path.rpartition(".")
            assert module is not None
            return model.get_submodule(owner), name
    raise ValueError(f"{type(model).__name__} has no part named {', '.join(_NAMES)}")


def _same(one: Any, other: Any) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return one is other or (left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left))


def _key(value: Any) -> str:
    seen = hashlib.sha256()

    def see(part: Any) -> None:
        if isinstance(part, Tensor):
            seen.update(f"{part.dtype} {tuple(part.shape)}".encode())
            seen.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(part, list | tuple):
            for one in part:
                see(one)
        else:
            seen.update(repr(part).encode())

    see(value)
    return seen.hexdigest()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if hasattr(value, "values") else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
