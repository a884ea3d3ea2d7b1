"""The optimizer of the base's training against the library's own, which computes in bfloat16."""

import pytest
import torch

from insightv.world.base.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(2, 24, 40), (3, 16, 48), (1, 48, 16)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape) * 30
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.min() > 0.5 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert ((left @ right) * orthogonal(matrices)).sum() > 0.8 * shape[0] * min(shape[1:])


def test_updates_agree_with_the_library() -> None:
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in ((24, 24), (48, 16), (24, 24), (16, 48))]
    trained = []
    for make in (lambda p: Muon(p, lr=0.02), lambda p: torch.optim.Muon(p, lr=0.02, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original")):
        torch.manual_seed(1)
        matrices = [torch.nn.Parameter(matrix.clone()) for matrix in start]
        optimizer = make(matrices)
        for _ in range(4):
            for matrix in matrices:
                matrix.grad = torch.randn_like(matrix)
            optimizer.step()
        trained.append(matrices)
    for ours, theirs, first in zip(*trained, start, strict=True):
        assert (ours - theirs).norm() < 0.02 * (theirs - first).norm()


def test_a_matrix_without_a_gradient_stays() -> None:
    matrix = torch.nn.Parameter(torch.ones(4, 4))
    Muon([matrix], lr=0.1).step()
    assert torch.equal(matrix, torch.ones(4, 4))
