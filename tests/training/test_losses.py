"""Losses on heatmaps: what they are worth in numbers, and what must not reach the network."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.losses import heatmap_mae, heatmap_mse

BOTH = pytest.mark.parametrize("loss", [heatmap_mse, heatmap_mae])
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@BOTH
def test_a_perfect_answer_costs_nothing(loss: Loss) -> None:
    target = torch.rand(2, 3, 8, 6)
    assert float(loss(target, target, torch.ones(2, 3))) == 0


@BOTH
def test_what_an_unlabelled_map_holds_does_not_matter(loss: Loss) -> None:
    target, weights = torch.rand(1, 2, 8, 6), torch.tensor([[1.0, 0.0]])
    predicted = torch.rand(1, 2, 8, 6)
    other = predicted.clone()
    other[:, 1] = 1e6
    assert torch.equal(loss(predicted, target, weights), loss(other, target, weights))


@BOTH
def test_a_person_without_labels_gives_a_finite_zero(loss: Loss) -> None:
    predicted = torch.rand(1, 2, 8, 6, requires_grad=True)
    value = loss(predicted, torch.rand(1, 2, 8, 6), torch.zeros(1, 2))
    (slope,) = torch.autograd.grad(value, predicted)
    assert value.item() == 0
    assert not slope.any()


@BOTH
def test_a_sure_label_pulls_twice_as_hard_as_a_half_sure_one(loss: Loss) -> None:
    predicted = torch.full((1, 2, 8, 6), 0.5, requires_grad=True)
    value = loss(predicted, torch.zeros(1, 2, 8, 6), torch.tensor([[1.0, 0.5]]))
    (slope,) = torch.autograd.grad(value, predicted)
    torch.testing.assert_close(slope[:, 0], 2 * slope[:, 1])


def test_values_by_hand() -> None:
    predicted, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.5]]]])
    ones = torch.ones(1, 1)
    assert float(heatmap_mse(predicted, target, ones)) == pytest.approx((1 + 0.25) / 2)
    assert float(heatmap_mae(predicted, target, ones)) == pytest.approx((1 + 0.5) / 2)
    # Cells count 1 + 2 * 1 and 1 + 2 * 0.5.
    weighted = float(heatmap_mae(predicted, target, ones, foreground=2.0))
    assert weighted == pytest.approx((1 * 3 + 0.5 * 2) / 2)
