"""Muon: what its steps are, and that it learns and goes on as other optimisers do."""

import copy

import pytest
import torch
from torch import nn

from training.muon import COEFFICIENTS, ITERATIONS, LENGTH, Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 64, 576), (2, 576, 64), (1, 17, 64), (4, 16, 40)])
def test_orthogonalise_levels_singular_values(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_orthogonalise_keeps_singular_vectors() -> None:
    """In double precision U f(S) V' has the vectors of U S V', so U' X V is diagonal."""
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(8, 20, dtype=torch.float64), full_matrices=False)
    inner = u.T @ orthogonalise((u @ s.diag() @ v)[None])[0] @ v.T
    off_diagonal = inner - inner.diagonal().diag()
    assert off_diagonal.abs().max() < 1e-9
    assert inner.diagonal().min() > 0


def test_orthogonalise_is_newton_schulz_on_the_matrix_itself() -> None:
    """Though it goes by the small square matrix, and singular values fall to 1e-5 of the first."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(4, 64, 576), full_matrices=False)
    matrices = u @ torch.logspace(0, -5, 64).diag() @ v
    x = matrices.double() / torch.linalg.matrix_norm(matrices.double(), keepdim=True)
    for _ in range(ITERATIONS):
        a, b, c = COEFFICIENTS
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    difference = orthogonalise(matrices) - x.float()
    assert difference.norm() < 1e-3 * x.norm()


def test_a_step_is_about_as_long_as_adamws() -> None:
    """Root mean square 0.2 of the rate times singular values of 0.7 to 1.2, at any gradient."""
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.zeros(64, 32, 3, 3))
    kernel.grad = 1e-4 * torch.randn(kernel.shape)
    Muon([kernel], lr=0.01).step()
    length = kernel.square().mean().sqrt().item() / 0.01
    assert 0.7 * LENGTH < length < 1.2 * LENGTH


def test_vectors_move_as_by_adam() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(5)) for _ in range(2))
    muon = Muon([ours], lr=0.01, weight_decay=0.1)
    adamw = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(4):
        ours.grad = theirs.grad = torch.randn(5)
        muon.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs)


def test_no_gradient_no_step() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    Muon([weight]).step()
    assert (weight == 1).all()


def test_a_closure_gives_gradients_and_the_loss() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    optimizer = Muon([weight])

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    with torch.no_grad():
        assert optimizer.step(closure) == 6
    assert (weight < 1).all()


def test_a_saved_optimizer_goes_on_with_the_same_bits() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    optimizer = Muon(network.parameters())
    images = torch.rand(4, 3, 8, 8)

    def step(net: nn.Module, by: Muon) -> None:
        net.zero_grad()
        net(images).square().mean().backward()
        by.step()

    step(network, optimizer)
    twin = copy.deepcopy(network)
    resumed = Muon(twin.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(network, optimizer)
    step(twin, resumed)
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_learns_a_linear_map() -> None:
    """Steps do not shrink with the gradient, so the rate has to fall for the error to vanish."""
    torch.manual_seed(0)
    inputs, truth = torch.randn(256, 16), torch.randn(16, 16)
    layer = nn.Linear(16, 16)
    optimizer = Muon(layer.parameters(), lr=0.1, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=200)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (layer(inputs) - inputs @ truth.T).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]
