"""Inception-ResNet v2: cheap Inception modules that correct their input instead of replacing it.

Szegedy, Ioffe, Vanhoucke, Alemi 2016, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", arXiv:1602.07261, section 3.2 and figures 15 to 19. A module's branches
are narrow, a 1x1 convolution without norm or ReLU brings them back to the width of the map, and
the result is added to the map; so more modules fit in the cost of Inception v4, and training is
faster. The sums of so many wide modules made training break down, hence all corrections but the
last are multiplied by 0.1 to 0.2 first (section 3.3). Sizes at 299 x 299, the published input,
without padding, and at 320 x 320 with it:

    part                stride  299   320   channels    what
    ------------------  ------  ----  ----  ----------  -------------------------------------------
    conv2d_1a, 2a, 2b   2       147   160   32 32 64    3x3
    conv2d_3b, 4a       4       71    80    80 192      pool; 1x1, 3x3
    mixed_5b            8       35    40    320         pool; a module of Inception v3
    repeat              8       35    40    320         Inception-ResNet-A x 10 (figure 16)
    mixed_6a            16      17    20    1088        Reduction-A (figure 7)
    repeat_1            16      17    20    1088        Inception-ResNet-B x 20 (figure 17)
    mixed_7a            32      8     10    2080        Reduction-B (figure 18)
    repeat_2, block8    32      8     10    2080        Inception-ResNet-C x 9 + 1 (figure 19)
    conv2d_7b           32      8     10    1536        1x1

Tensor names are timm's. Where we depart: maps have exactly the input's size over the stride; the
published network does not pad its halving layers and two of the stem's convolutions, which
`padding="valid"` reproduces, with any input of at least 75 x 75, and timm's numbers. As the public
weights need: the stem is Inception v3's and not figure 3's, modules are repeated 10, 20 and 10
times and not 5, 10 and 5, and maps are 320, 1088 and 2080 wide and not 384, 1154 and 2048. The last
correction has no ReLU behind it. Dropout is not built. timm's file reads pixels between -1 and 1.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from models.backbone import register
from models.blocks import Branches, ConvBn
from models.inception_chain import STRIDES, InceptionChain, Padding, Part, halving_pool, is_same


class ScaledResidual(Branches):
    """A map plus scale times what its branches say, through a 1x1 convolution (figures 16, 17, 19).

    joined: channels of all branches together.  activated: with ReLU on the sum.
    """

    def __init__(
        self,
        *branches: Mapping[str, nn.Module],
        channels: int,
        joined: int,
        scale: float,
        activated: bool = True,
    ) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.scale = scale
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, h, w] -> the same shape."""
        total: Tensor = self.conv2d(super().forward(x)) * self.scale + x
        return functional.relu(total, inplace=True) if self.activated else total


def module_5() -> Branches:
    """[N, 192, h, w] -> [N, 320, h, w]."""
    pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return Branches(
        {"branch0": ConvBn(192, 96, 1)},
        {"branch1": nn.Sequential(ConvBn(192, 48, 1), ConvBn(48, 64, 5))},
        {"branch2": nn.Sequential(ConvBn(192, 64, 1), ConvBn(64, 96, 3), ConvBn(96, 96, 3))},
        {"branch3": nn.Sequential(pool, ConvBn(192, 64, 1))},
    )


def residual_a() -> ScaledResidual:
    """[N, 320, h, w] -> the same shape."""
    return ScaledResidual(
        {"branch0": ConvBn(320, 32, 1)},
        {"branch1": nn.Sequential(ConvBn(320, 32, 1), ConvBn(32, 32, 3))},
        {"branch2": nn.Sequential(ConvBn(320, 32, 1), ConvBn(32, 48, 3), ConvBn(48, 64, 3))},
        channels=320,
        joined=128,
        scale=0.17,
    )


def reduction_a(*, padded: bool) -> Branches:
    """[N, 320, h, w] -> [N, 1088, h / 2, w / 2] (table 1: k, l, m, n = 256, 256, 384, 384)."""
    return Branches(
        {"branch0": ConvBn(320, 384, 3, stride=2, padded=padded)},
        {
            "branch1": nn.Sequential(
                ConvBn(320, 256, 1),
                ConvBn(256, 256, 3),
                ConvBn(256, 384, 3, stride=2, padded=padded),
            )
        },
        {"branch2": halving_pool(padded)},
    )


def residual_b() -> ScaledResidual:
    """[N, 1088, h, w] -> the same shape."""
    return ScaledResidual(
        {"branch0": ConvBn(1088, 192, 1)},
        {
            "branch1": nn.Sequential(
                ConvBn(1088, 128, 1), ConvBn(128, 160, (1, 7)), ConvBn(160, 192, (7, 1))
            )
        },
        channels=1088,
        joined=384,
        scale=0.10,
    )


def reduction_b(*, padded: bool) -> Branches:
    """[N, 1088, h, w] -> [N, 2080, h / 2, w / 2]."""
    return Branches(
        {
            "branch0": nn.Sequential(
                ConvBn(1088, 256, 1), ConvBn(256, 384, 3, stride=2, padded=padded)
            )
        },
        {
            "branch1": nn.Sequential(
                ConvBn(1088, 256, 1), ConvBn(256, 288, 3, stride=2, padded=padded)
            )
        },
        {
            "branch2": nn.Sequential(
                ConvBn(1088, 256, 1),
                ConvBn(256, 288, 3),
                ConvBn(288, 320, 3, stride=2, padded=padded),
            )
        },
        {"branch3": halving_pool(padded)},
    )


def residual_c(*, scale: float = 0.20, activated: bool = True) -> ScaledResidual:
    """[N, 2080, h, w] -> the same shape."""
    return ScaledResidual(
        {"branch0": ConvBn(2080, 192, 1)},
        {
            "branch1": nn.Sequential(
                ConvBn(2080, 192, 1), ConvBn(192, 224, (1, 3)), ConvBn(224, 256, (3, 1))
            )
        },
        channels=2080,
        joined=448,
        scale=scale,
        activated=activated,
    )


def _repeat(times: int, block: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(block() for _ in range(times)))


@register(
    paper="Szegedy et al. 2016, arXiv:1602.07261, section 3.2",
    input_size=(320, 320),
    parameters=54_306_464,
    multiply_adds=18_087_321_600,
    weights_origin="timm (ImageNet)",
    weights_licence="Apache-2.0",
)
def inception_resnet_v2(
    strides: Sequence[int] = STRIDES, *, padding: Padding = "same"
) -> InceptionChain:
    """The larger of the paper's two residual networks."""
    same = is_same(padding)
    parts = [
        Part("conv2d_1a", 2, 32, partial(ConvBn, 3, 32, 3, stride=2, padded=same)),
        Part("conv2d_2a", 2, 32, partial(ConvBn, 32, 32, 3, padded=same)),
        Part("conv2d_2b", 2, 64, partial(ConvBn, 32, 64, 3)),
        Part("maxpool_3a", 4, 64, partial(halving_pool, same)),
        Part("conv2d_3b", 4, 80, partial(ConvBn, 64, 80, 1)),
        Part("conv2d_4a", 4, 192, partial(ConvBn, 80, 192, 3, padded=same)),
        Part("maxpool_5a", 8, 192, partial(halving_pool, same)),
        Part("mixed_5b", 8, 320, module_5),
        Part("repeat", 8, 320, partial(_repeat, 10, residual_a)),
        Part("mixed_6a", 16, 1088, partial(reduction_a, padded=same)),
        Part("repeat_1", 16, 1088, partial(_repeat, 20, residual_b)),
        Part("mixed_7a", 32, 2080, partial(reduction_b, padded=same)),
        Part("repeat_2", 32, 2080, partial(_repeat, 9, residual_c)),
        Part("block8", 32, 2080, partial(residual_c, scale=1.0, activated=False)),
        Part("conv2d_7b", 32, 1536, partial(ConvBn, 2080, 1536, 1)),
    ]
    return InceptionChain(parts, strides, padding=padding)
