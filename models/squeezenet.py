"""SqueezeNet: the accuracy of AlexNet with fifty times fewer parameters.

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer 2016, "SqueezeNet: AlexNet-level accuracy with 50x
fewer parameters and <0.5MB model size", arXiv:1602.07360, section 3 and table 1. Three strategies:
most 3x3 filters become 1x1; what still is 3x3 sees few channels, because a squeeze layer of 1x1
filters comes before; and maps are halved late, so that most layers work on large ones. 1_1 is the
authors' later form, which halves earlier and costs 2.4 times less. Fire s has 8 s channels. At
224 x 224:

    1_0: features  layer               channels  stride      1_1: features  layer
    -------------  ------------------  --------  ------      -------------  ------------------
    0              7x7, stride 2       96        2           0              3x3, stride 2 (64)
    2              pool, stride 2                4           2              pool, stride 2
    3 - 5          Fire 16, 16, 32     256       4           3 - 4          Fire 16, 16
    6              pool, stride 2                8           5              pool, stride 2
    7 - 10         Fire 32, 48, 48, 64 512       8           6 - 7          Fire 32, 32
    11             pool, stride 2                16          8              pool, stride 2
    12             Fire 64             512       16          9 - 12         Fire 48, 48, 64, 64

Tensor names are torchvision's. Where we depart: maps have exactly the input's size over the stride
(the paper's first convolution and its pools are not padded: `padding="valid"` reproduces that, and
torchvision's numbers); there is no stride 32. The classifier is a 1x1 convolution before pooling.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec, register
from models.blocks import initialise
from models.errors import SpecError

STRIDES = (4, 8, 16)
Padding = Literal["same", "valid"]


class Fire(nn.Module):
    """1x1 filters squeeze, 1x1 and 3x3 filters expand side by side (section 3.2)."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, 2 * expanded, H, W]."""
        x = self.activation(self.squeeze(x))
        both = [self.activation(self.expand1x1(x)), self.activation(self.expand3x3(x))]
        return torch.cat(both, dim=1)


class SqueezeNet(Backbone):
    """Table 1 of the paper without its classifier.

    stem: channels and kernel of the first convolution.
    fires: squeeze channels of the Fires at strides 4, 8 and 16; each expands to 8 times as many.
    """

    classification_strides = (16,)

    def __init__(
        self,
        *,
        strides: Sequence[int],
        stem: tuple[int, int],
        fires: Sequence[Sequence[int]],
        padding: Padding,
    ) -> None:
        if padding not in get_args(Padding):
            raise SpecError(f"padding is {' or '.join(get_args(Padding))}; got {padding!r}")
        channels, kernel = stem
        same = padding == "same"
        features: list[nn.Module] = [
            nn.Conv2d(3, channels, kernel, stride=2, padding=kernel // 2 if same else 0),
            nn.ReLU(inplace=True),
        ]
        last_of: dict[int, tuple[int, int]] = {}
        for stride, squeezes in zip(STRIDES, fires, strict=True):
            features.append(nn.MaxPool2d(3, stride=2, padding=1 if same else 0, ceil_mode=not same))
            for squeezed in squeezes:
                features.append(Fire(channels, squeezed, 4 * squeezed))
                channels = 8 * squeezed
            last_of[stride] = (len(features) - 1, channels)
        taps = tuple(last_of[stride][0] for stride in strides)
        built = max(taps) + 1
        super().__init__(
            specs=[FeatureSpec(stride, last_of[stride][1]) for stride in strides],
            unbuilt=[f"features.{i}." for i in range(built, len(features))],
        )
        self.features = nn.Sequential(*features[:built])
        self.taps = taps
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first."""
        self.check_input(x)
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                maps.append(x)
        return maps

    def classification_neck(self, classes: int) -> "ClassMaps":
        """One map a class, which the pooling then averages."""
        return ClassMaps(self.specs[-1].channels, classes)

    def classification_layers(self, channels: int, classes: int) -> nn.Module:
        """Nothing: the pooled class maps are the logits. Raises SpecError where two are pooled."""
        if channels != classes:
            raise SpecError("squeezenet pools its class maps once, by avg or max; got avgmax")
        return nn.Identity()


class ClassMaps(nn.Module):
    """A 1x1 convolution to one map a class, and ReLU: the end of table 1."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, classes, 1)
        self.out_channels = classes

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the last counts -> [N, classes, H / 16, W / 16]."""
        return nn.functional.relu(self.conv(maps[-1]))


_PAPER = "Iandola et al. 2016, arXiv:1602.07360"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=735_424,
    multiply_adds=787_161_088,
    weights_origin="torchvision (ImageNet)",
    weights_licence="BSD-3-Clause",
    strides=STRIDES,
)
def squeezenet1_0(strides: Sequence[int] = STRIDES, *, padding: Padding = "same") -> SqueezeNet:
    """The network of the paper."""
    fires = ((16, 16, 32), (32, 48, 48, 64), (64,))
    return SqueezeNet(strides=strides, stem=(96, 7), fires=fires, padding=padding)


@register(
    paper=_PAPER + "; github.com/forresti/SqueezeNet, v1.1",
    input_size=(224, 224),
    parameters=722_496,
    multiply_adds=287_006_720,
    weights_origin="torchvision (ImageNet)",
    weights_licence="BSD-3-Clause",
    strides=STRIDES,
)
def squeezenet1_1(strides: Sequence[int] = STRIDES, *, padding: Padding = "same") -> SqueezeNet:
    """2.4 times cheaper than 1_0, as accurate."""
    fires = ((16, 16), (32, 32), (48, 48, 64, 64))
    return SqueezeNet(strides=strides, stem=(64, 3), fires=fires, padding=padding)
