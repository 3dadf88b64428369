"""Losses: their numbers, what weights do, and why plain MAE settles on nothing."""

import pytest
import torch
from torch import Tensor

from training.losses import heatmap_loss, heatmap_mae, heatmap_mse

PREDICTED = torch.tensor([[[[0.5, 0.0]], [[1.0, 1.0]]]])  # [1, 2, 1, 2]
TARGET = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])


@pytest.mark.parametrize(
    ("weights", "mse", "mae", "weighted_mae"),
    [
        # Means over two cells, then over two keypoints. First keypoint: errors 0.5, 0; second 1, 0.
        ([1.0, 1.0], (0.125 + 0.5) / 2, (0.25 + 0.5) / 2, (2.75 + 0.5) / 2),
        ([1.0, 0.0], 0.125 / 2, 0.25 / 2, 2.75 / 2),
        ([0.5, 0.5], (0.125 + 0.5) / 4, (0.25 + 0.5) / 4, (2.75 + 0.5) / 4),
        ([0.0, 0.0], 0.0, 0.0, 0.0),
    ],
)
def test_losses_by_hand(weights: list[float], mse: float, mae: float, weighted_mae: float) -> None:
    given = torch.tensor([weights])
    assert float(heatmap_mse(PREDICTED, TARGET, given)) == pytest.approx(mse)
    assert float(heatmap_mae(PREDICTED, TARGET, given)) == pytest.approx(mae)
    # A cell of target 1 counts 1 + 10.
    assert float(heatmap_mae(PREDICTED, TARGET, given, 10.0)) == pytest.approx(weighted_mae)


def best_answer(loss: str, foreground: float = 0.0) -> Tensor:
    """The one map [6] that fits best where a keypoint may be in any of three cells alike.

    A network is in this place at the start of training, and for every hidden keypoint.
    """
    targets = torch.zeros(3, 1, 1, 6)
    for place in range(3):
        targets[place, 0, 0, place] = 1
    answer = torch.full((1, 1, 1, 6), 0.3, requires_grad=True)
    optimizer = torch.optim.Adam([answer], lr=0.01)
    for _ in range(400):
        predicted, ones = answer.expand(3, 1, 1, 6), torch.ones(3, 1)
        if loss == "mse":
            value = heatmap_mse(predicted, targets, ones)
        else:
            value = heatmap_mae(predicted, targets, ones, foreground)
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
    return answer.detach().flatten()


def test_in_doubt_mse_answers_the_mean_and_plain_mae_nothing() -> None:
    """MSE is least at the mean of what may be, MAE at the median: 0, as two of three cells are."""
    doubt = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 0, 0])
    torch.testing.assert_close(best_answer("mse"), doubt, atol=0.02, rtol=0)
    torch.testing.assert_close(best_answer("mae"), torch.zeros(6), atol=0.02, rtol=0)


def test_in_doubt_weighted_mae_answers_every_place() -> None:
    """A peak outweighs two empty cells as soon as 1 + foreground > 2."""
    everywhere = torch.tensor([1.0, 1, 1, 0, 0, 0])
    torch.testing.assert_close(best_answer("mae", 10.0), everywhere, atol=0.02, rtol=0)
    nothing = best_answer("mae", 0.5)
    torch.testing.assert_close(nothing, torch.zeros(6), atol=0.02, rtol=0)


def test_smooth_l1_is_a_square_near_and_a_line_far() -> None:
    target = torch.zeros(1, 1, 1, 2)
    near = heatmap_loss("smooth_l1", torch.full((1, 1, 1, 2), 0.05), target, torch.ones(1, 1))
    far = heatmap_loss("smooth_l1", torch.full((1, 1, 1, 2), 1.0), target, torch.ones(1, 1))
    assert float(near) == pytest.approx(0.5 * 0.05**2 / 0.1)
    assert float(far) == pytest.approx(1.0 - 0.05)


def test_only_the_hardest_keypoints_count() -> None:
    predicted = torch.tensor([[0.1, 0.5, 0.9, 1.0]]).view(1, 4, 1, 1)
    weights = torch.tensor([[1.0, 1.0, 1.0, 0.0]])  # the last is not labelled, so never hard
    target = torch.zeros_like(predicted)
    two = heatmap_loss("mse", predicted, target, weights, hardest=2)
    assert float(two) == pytest.approx((0.81 + 0.25) / 2)
    more = heatmap_loss("mse", predicted, target, weights, hardest=9)
    assert float(more) == pytest.approx((0.01 + 0.25 + 0.81) / 4)
