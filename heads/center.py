"""People in one pass: a feature pyramid and a branch for each kind of map (MoveNet's design).

MoveNet (Google 2021) is CenterNet (arXiv:1904.07850) over MobileNetV2 and a small feature pyramid
(arXiv:1612.03144). What the maps mean and how they are read stands in `heads.center_codec`. Tensor
names are those of the converted MoveNet files.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import FeatureSpec


class DepthwiseSeparable(nn.Module):
    """3x3 depthwise convolution without bias or activation, 1x1 convolution with bias, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(
            in_channels, in_channels, kernel_size=3, padding=1, groups=in_channels, bias=False
        )
        self.pw = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, h, w] -> [N, out, h, w]."""
        return F.relu(self.pw(self.dw(x)))


class PyramidNeck(nn.Module):
    """Maps of strides 4, 8, 16, 32 -> one map of stride 4, from coarse to fine.

    channels: widths at strides 4, 8 and 16; stride 32 enters with the width of stride 16.
    """

    def __init__(self, specs: Sequence[FeatureSpec], channels: tuple[int, int, int]) -> None:
        super().__init__()
        fine, middle, coarse = channels
        at4, at8, at16, at32 = (spec.channels for spec in specs)
        # Numbered by level: level L has stride 2**L.
        self.lateral5 = nn.Conv2d(at32, coarse, kernel_size=1)
        self.lateral4 = nn.Conv2d(at16, coarse, kernel_size=1)
        self.lateral3 = nn.Conv2d(at8, middle, kernel_size=1)
        self.lateral2 = nn.Conv2d(at4, fine, kernel_size=1)
        self.smooth4 = DepthwiseSeparable(coarse, middle)
        self.smooth3 = DepthwiseSeparable(middle, fine)
        self.smooth2 = DepthwiseSeparable(fine, fine)
        self.out_channels = fine

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps, finest first -> [N, channels[0], h, w] at stride 4."""
        at4, at8, at16, at32 = maps
        top: Tensor = self.lateral5(at32)
        top = self.smooth4(_double(top) + self.lateral4(at16))
        top = self.smooth3(_double(top) + self.lateral3(at8))
        finest: Tensor = self.smooth2(_double(top) + self.lateral2(at4))
        return finest


class Branch(nn.Module):
    """3x3 depthwise, 1x1 to `width`, ReLU, 1x1 to `out`: one kind of map."""

    def __init__(self, in_channels: int, width: int, out: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(
            in_channels, in_channels, kernel_size=3, padding=1, groups=in_channels, bias=False
        )
        self.pw = nn.Conv2d(in_channels, width, kernel_size=1)
        self.out = nn.Conv2d(width, out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, h, w] -> [N, out, h, w]."""
        answer: Tensor = self.out(F.relu(self.pw(self.dw(x))))
        return answer


class CenterHead(nn.ModuleDict):
    """One branch for each kind of map, by name; the maps are explained in `heads.center_codec`."""

    def __init__(self, in_channels: int, keypoints: int, tower: int, boxes: bool) -> None:
        widths = {
            "center": 1,
            "kpt_heatmap": keypoints,
            "kpt_regress": 2 * keypoints,
            "kpt_offset": 2 * keypoints,
        }
        if boxes:
            widths |= {"box_scale": 2, "box_offset": 2}
        super().__init__({name: Branch(in_channels, tower, w) for name, w in widths.items()})

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """[N, in, h, w] -> name -> [N, c, h, w]."""
        return {name: branch(features) for name, branch in self.items()}


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
