"""Muon for a CPU (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum whose matrices are made orthogonal before each update.

`torch.optim.Muon` does that in bfloat16, which takes seconds an update on a processor without bfloat16 arithmetic; here it is float32, and
matrices of one shape go together.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration, chosen by its authors to bring all singular values near 1 in five rounds."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, for matrices alone; `lr` is the spectral norm of an update of a square or wide matrix."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(list(matrices), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # the base class also takes a closure that evaluates the loss
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    mean = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                    mean.lerp_(matrix.grad, 1 - group["momentum"])
                    alike.setdefault(matrix.shape, []).append((matrix, matrix.grad.lerp(mean, group["momentum"])))
            for shape, pairs in alike.items():
                updates = orthogonal(torch.stack([update for _, update in pairs]))
                for (matrix, _), update in zip(pairs, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-group["lr"] * max(1, shape[0] / shape[1]) ** 0.5)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices [B, M, N] with their singular values brought near 1 (0.7 to 1.2)."""
    a, b, c = _QUINTIC
    wide: Tensor = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrices.shape[1] <= matrices.shape[2] else wide.mT
