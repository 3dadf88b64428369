"""How wrong predicted heatmaps and class maps are: pure functions on tensors.

Axes: N sample, K keypoint, h w cell. weights [N, K]: 0 where a keypoint is not labelled, up to 1
where its label is sure; an unlabelled keypoint gives no gradient.
"""

from collections.abc import Mapping
from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

HeatmapLoss = Literal["mse", "mae", "smooth_l1"]
RegionLoss = Literal["cross_entropy", "focal", "dice"]

IGNORED = 255
"""The class of pixels that nobody labelled (VOC)."""

FOCUS = 2.0
"""Focal loss: the power of the doubt that a pixel counts by (arXiv:1708.02002, gamma)."""


def heatmap_loss(
    kind: HeatmapLoss,
    predicted: Tensor,
    target: Tensor,
    weights: Tensor,
    foreground: float = 0.0,
    hardest: int = 0,
) -> Tensor:
    """The error that a recipe names, of [N, K, h, w] heatmaps.

    foreground: see heatmap_mae.  hardest: only so many keypoints a sample count, those with the
    largest error (online hard keypoint mining: Chen et al. 2018, arXiv:1711.07319, section 3.2); 0:
    all.
    """
    match kind:
        case "mse":
            error = (predicted - target).square()
        case "mae":
            error = (predicted - target).abs()
        case "smooth_l1":
            error = F.smooth_l1_loss(predicted, target, reduction="none", beta=SMOOTH_BELOW)
        case _:
            assert_never(kind)
    if foreground:
        error = error * (1 + foreground * target)
    by_keypoint = error.mean(dim=(2, 3)) * weights  # [N, K]
    if hardest:
        by_keypoint = by_keypoint.topk(min(hardest, by_keypoint.shape[1]), dim=1).values
    return by_keypoint.mean()


SMOOTH_BELOW = 0.1
"""Where smooth_l1 turns from a square to a line: a tenth of a heatmap's peak."""


def heatmap_mse(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error: what the official HRNet code minimises.

    The mean is over cells and over all keypoints, of which unlabelled ones count as 0 (as there).
    """
    return heatmap_loss("mse", predicted, target, weights)


def heatmap_mae(
    predicted: Tensor, target: Tensor, weights: Tensor, foreground: float = 0.0
) -> Tensor:
    """Mean absolute error.

    A map is 0 almost everywhere, and the absolute error is smallest where half of the errors lie on
    each side: so with foreground = 0 an all-zero answer is already a good one, and training tends
    to stay there. foreground: how much more a cell of target 1 counts than one of target 0.
    """
    return heatmap_loss("mae", predicted, target, weights, foreground)


def region_loss(kind: RegionLoss, logits: Tensor, masks: Tensor) -> Tensor:
    """Of logits [N, classes, H, W] against class indices [N, H, W]; IGNORED pixels count not.

    `focal` counts a pixel by how unsure the network is of its class (Lin et al. 2017,
    arXiv:1708.02002, equation 4). `dice` is 1 - the mean over classes of 2 |A and B| / (|A| + |B|)
    (Milletari et al. 2016, arXiv:1606.04797, section 3), which minds small regions as much as large
    ones. 0 where nothing is labelled.
    """
    known = masks != IGNORED
    if not known.any():
        return logits.sum() * 0
    match kind:
        case "cross_entropy":
            return F.cross_entropy(logits, masks, ignore_index=IGNORED)
        case "focal":
            surprise = F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="none")
            doubt = 1 - torch.exp(-surprise)
            return (doubt**FOCUS * surprise)[known].mean()
        case "dice":
            found = logits.softmax(dim=1) * known[:, None]
            true = F.one_hot(masks.where(known, 0), logits.shape[1]).movedim(3, 1) * known[:, None]
            both = (found * true).sum(dim=(0, 2, 3))
            sizes = found.sum(dim=(0, 2, 3)) + true.sum(dim=(0, 2, 3))
            present = true.sum(dim=(0, 2, 3)) > 0
            return 1 - (2 * both / sizes)[present].mean()
        case _:
            assert_never(kind)


def center_loss(answer: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Of center maps (see heads.center_codec) against what `CenterCodec.encode` says, batched.

    Peaks by focal loss, the rest by absolute error where somebody is (Zhou et al. 2019,
    arXiv:1904.07850, section 3, with its weights).
    """
    people = targets["center"] * targets["center_weight"]
    loss = peak_loss(answer["center"], people, targets["center_weight"])
    loss = loss + peak_loss(
        answer["kpt_heatmap"], targets["kpt_heatmap"], targets["kpt_heatmap_weight"]
    )
    for name in ("kpt_regress", "kpt_offset"):
        loss = loss + _mean_absolute(answer[name], targets[name], targets[f"{name}_weight"])
    for name, share in (("box_scale", BOX_SHARE), ("box_offset", 1.0)):
        if name in answer:
            known = targets["box_weight"].expand_as(targets[name])
            loss = loss + share * _mean_absolute(answer[name], targets[name], known)
    return loss


BOX_SHARE = 0.1
"""Of the error of a box's size, which is counted in cells and large."""


def peak_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Focal loss of maps whose targets are Gaussians of height 1 (arXiv:1808.01244, eq. 1).

    A peak's own cell is to be 1; the cells round it are to be 0, but that counts the less the
    higher the Gaussian is there. Divided by the number of peaks. weight: 0 where nobody knows.
    """
    sure, unsure = F.logsigmoid(logits), F.logsigmoid(-logits)  # of 1, and of 0
    doubt, claim = unsure.exp(), sure.exp()
    peak = (target == 1).float()
    error = peak * doubt**2 * sure + (1 - peak) * (1 - target) ** 4 * claim**2 * unsure
    return -(error * weight).sum() / (peak * weight).sum().clamp(min=1)


def _mean_absolute(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return ((predicted - target).abs() * weight).sum() / weight.sum().clamp(min=1)
