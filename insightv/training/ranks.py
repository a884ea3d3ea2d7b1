"""The processes of one training under torchrun: which one writes, which GPU is whose, and waiting for each other."""

import os
from datetime import timedelta

import torch
from accelerate import PartialState

from insightv.config import UserError

_PATIENCE = timedelta(days=7)
"""How long processes wait for each other. The library's ten minutes end a training in which one of them has more to prepare than the others."""


def is_first() -> bool:
    """Whether this process is the one that writes: the only one, or rank 0 under torchrun."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def together() -> PartialState:
    """All processes of this training: how many, which one this is, and a way to wait for the others."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def take_gpu() -> None:
    """Give each process under torchrun a GPU of its own before anything is loaded; all would load onto the first."""
    if torch.cuda.is_available():
        place, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= count:
            raise UserError(f"processes is {os.environ['LOCAL_WORLD_SIZE']}, but this machine has {count} GPUs; start one for each at most")
        torch.cuda.set_device(place)
