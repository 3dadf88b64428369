"""How wrong predicted heatmaps are: pure functions on tensors, weighted by keypoint.

Axes: N sample, K keypoint, h w cell. weights [N, K]: 0 where a keypoint is not labelled, up to 1
where its label is sure; an unlabelled keypoint gives no gradient.
"""

from torch import Tensor


def heatmap_mse(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error of [N, K, h, w] heatmaps: what the official HRNet code minimises."""
    return _weighted_mean((predicted - target).square(), weights)


def heatmap_mae(
    predicted: Tensor, target: Tensor, weights: Tensor, foreground: float = 0.0
) -> Tensor:
    """Mean absolute error of [N, K, h, w] heatmaps.

    A map is 0 almost everywhere, and the absolute error is smallest where half of the errors lie on
    each side: so with foreground = 0 an all-zero answer is already a good one, and training tends
    to stay there. foreground: how much more a cell of target 1 counts than one of target 0.
    """
    error = (predicted - target).abs() * (1 + foreground * target)
    return _weighted_mean(error, weights)


def _weighted_mean(error: Tensor, weights: Tensor) -> Tensor:
    """Mean over cells and over all keypoints; unlabelled ones count as 0 (official code)."""
    return (error.mean(dim=(2, 3)) * weights).mean()
