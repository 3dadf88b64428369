"""HRNet: keep a fine map through the whole network, and add coarser ones beside it.

Sun, Xiao, Liu, Wang 2019, "Deep High-Resolution Representation Learning for Human Pose
Estimation", arXiv:1902.09212, section 3; Wang et al. 2019, arXiv:1908.07919 (HRNetV2: all four
maps are used, and the classifier below). Four branches run in parallel at strides 4, 8, 16, 32; at
the end of every module each branch receives the sum of all of them, brought to its size
(the exchange unit). So the fine map never has to be recovered from a coarse one.

Branch widths are C, 2C, 4C, 8C, where C is the number in the name (16 for w18_small). Sizes at
256 x 192:

    part      new branch  size      channels        blocks a branch   modules
    --------  ----------  --------  --------------  ----------------  -------
    stem      stride 4    64 x 48   64              2 convolutions    -
    layer1    stride 4    64 x 48   256             4 Bottleneck      -
    stage2    stride 8    32 x 24   C, 2C           4 BasicBlock      1
    stage3    stride 16   16 x 12   C, 2C, 4C       4 BasicBlock      4
    stage4    stride 32   8 x 6     C, 2C, 4C, 8C   4 BasicBlock      3

    w18_small     layer1 is 1 Bottleneck of 128; 2 blocks a branch; modules 1, 1, 1
    w18_small_v2  layer1 is 2 Bottlenecks of 256; 2 blocks a branch; modules 1, 3, 2

Tensor names are those of the official files. Where we depart: the last module of stage 4 has
exchange paths only to the maps that are asked for (the official pose network has those to the
finest, the official classifier has all); and `upsample` is an argument, because the official
segmentation networks interpolate the same weights bilinearly.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec, register
from models.blocks import BasicBlock, Bottleneck, ConvNorm, initialise
from models.errors import SpecError

STRIDES = (4, 8, 16, 32)

Upsample = Literal["nearest", "bilinear", "bilinear_align_corners"]


class HighResolutionModule(nn.Module):
    """Parallel branches of BasicBlocks, then the exchange unit (arXiv:1902.09212, figure 3).

    outputs: the branches that receive an exchange; all but in the very last module.
    """

    def __init__(
        self, widths: Sequence[int], blocks: int, outputs: Sequence[int], upsample: Upsample
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(blocks))) for width in widths
        )
        # fuse_layers.i.j leads from branch j to branch i; i.i is the identity and has no module.
        self.fuse_layers = nn.ModuleDict(
            {
                str(i): nn.ModuleDict(
                    {
                        str(j): _exchange_path(widths, j, i, upsample)
                        for j in range(len(widths))
                        if j != i
                    }
                )
                for i in outputs
            }
        )
        self.outputs = tuple(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map a branch -> one map for each of `outputs`."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [self._exchange(maps, i) for i in self.outputs]

    def _exchange(self, maps: list[Tensor], i: int) -> Tensor:
        """Equation 3 of arXiv:1908.07919: the sum of all branches, brought to branch i."""
        paths = self.fuse_layers[str(i)]
        assert isinstance(paths, nn.ModuleDict)
        brought = [x if j == i else paths[str(j)](x) for j, x in enumerate(maps)]
        total: Tensor = brought[0]
        for x in brought[1:]:
            total = total + x
        out: Tensor = self.relu(total)
        return out


def _exchange_path(
    widths: Sequence[int], source: int, target: int, upsample: Upsample
) -> nn.Module:
    if source > target:  # coarser: match the channels, then enlarge
        matched = ConvNorm(widths[source], widths[target], 1, activation=None)
        return nn.Sequential(*matched, _upsampling(2 ** (source - target), upsample))
    steps = target - source  # finer: halve once a step, at the source's width until the last one
    halvings = [ConvNorm(widths[source], widths[source], 3, stride=2) for _ in range(steps - 1)]
    last = ConvNorm(widths[source], widths[target], 3, stride=2, activation=None)
    return nn.Sequential(*halvings, last)


def _upsampling(factor: int, upsample: Upsample) -> nn.Upsample:
    if upsample == "nearest":
        return nn.Upsample(scale_factor=factor, mode="nearest")
    corners = upsample == "bilinear_align_corners"
    return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=corners)


class HRNet(Backbone):
    """The four-branch network; `forward` is figure 1 of arXiv:1902.09212.

    width: channels of the finest branch, C.
    layer1: width and number of the Bottlenecks before the first branching.
    modules: exchange modules of stages 2, 3 and 4.
    blocks: BasicBlocks of a branch in a module.
    """

    classification_strides = STRIDES

    def __init__(
        self,
        width: int,
        *,
        layer1: tuple[int, int] = (64, 4),
        modules: tuple[int, int, int] = (1, 4, 3),
        blocks: int = 4,
        strides: Sequence[int] = STRIDES,
        upsample: Upsample = "nearest",
    ) -> None:
        if upsample not in get_args(Upsample):
            raise SpecError(f"HRNet upsamples {', '.join(get_args(Upsample))}; asked {upsample!r}")
        widths = [width, 2 * width, 4 * width, 8 * width]
        outputs = [STRIDES.index(stride) for stride in strides]
        last_module = f"stage4.{modules[2] - 1}.fuse_layers."
        super().__init__(
            specs=[FeatureSpec(STRIDES[i], widths[i]) for i in outputs],
            unbuilt=[f"{last_module}{i}." for i in range(4) if i not in outputs],
        )
        bottleneck, depth = layer1
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        channels = bottleneck * Bottleneck.expansion
        self.layer1 = nn.Sequential(
            Bottleneck(64, bottleneck),
            *(Bottleneck(channels, bottleneck) for _ in range(depth - 1)),
        )
        self.transition1 = nn.ModuleDict(
            {
                "0": ConvNorm(channels, widths[0], 3),
                "1": nn.Sequential(ConvNorm(channels, widths[1], 3, stride=2)),
            }
        )
        self.stage2 = _stage(widths[:2], modules[0], blocks, [0, 1], upsample)
        self.transition2 = _new_branch(widths, 2)
        self.stage3 = _stage(widths[:3], modules[1], blocks, [0, 1, 2], upsample)
        self.transition3 = _new_branch(widths, 3)
        self.stage4 = _stage(widths, modules[2], blocks, outputs, upsample)
        initialise(self)

    def classification_neck(self, classes: int) -> "ClassificationNeck":
        """The channel-increasing head of the paper's classifier."""
        del classes
        return ClassificationNeck(self.specs)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first."""
        self.check_input(x)
        x = self.relu(self.bn1(self.conv1(x)))  # stride 2
        x = self.relu(self.bn2(self.conv2(x)))  # stride 4
        maps: list[Tensor] = [self.layer1(x)]
        maps = self.stage2(_branch_out(self.transition1, maps))  # strides 4, 8
        maps = self.stage3(_branch_out(self.transition2, maps))  # strides 4, 8, 16
        maps = self.stage4(_branch_out(self.transition3, maps))  # the asked of 4, 8, 16, 32
        return maps


def _stage(
    widths: Sequence[int], modules: int, blocks: int, outputs: Sequence[int], upsample: Upsample
) -> nn.Sequential:
    every = range(len(widths))
    return nn.Sequential(
        *(HighResolutionModule(widths, blocks, every, upsample) for _ in range(modules - 1)),
        HighResolutionModule(widths, blocks, outputs, upsample),
    )


def _new_branch(widths: Sequence[int], i: int) -> nn.ModuleDict:
    """Branch i starts from the coarsest one so far; the others go on as they are."""
    return nn.ModuleDict({str(i): nn.Sequential(ConvNorm(widths[i - 1], widths[i], 3, stride=2))})


def _branch_out(transition: nn.ModuleDict, maps: list[Tensor]) -> list[Tensor]:
    """The given maps and one more, half the size of the last."""
    sources = [*maps, maps[-1]]
    return [transition[str(i)](x) if str(i) in transition else x for i, x in enumerate(sources)]


class ClassificationNeck(nn.Module):
    """From the four maps to one of 2048 channels at stride 32 (arXiv:1908.07919, appendix).

    Each map is widened by a Bottleneck (to 128, 256, 512, 1024), then halved and added to the next
    coarser one. Pooling and the linear classifier follow in a head. The official convolutions have
    biases here although a batch norm follows, and their files hold them.
    """

    out_channels = 2048

    def __init__(self, specs: Sequence[FeatureSpec]) -> None:
        if tuple(spec.stride for spec in specs) != STRIDES:
            offered = ", ".join(str(spec.stride) for spec in specs)
            raise SpecError(f"HRNet's classifier needs strides 4, 8, 16, 32; offered: {offered}")
        super().__init__()
        bottlenecks = (32, 64, 128, 256)
        wide = [width * Bottleneck.expansion for width in bottlenecks]
        self.incre_modules = nn.ModuleList(
            nn.Sequential(Bottleneck(spec.channels, width))
            for spec, width in zip(specs, bottlenecks, strict=True)
        )
        self.downsamp_modules = nn.ModuleList(
            ConvNorm(fine, coarse, 3, stride=2, bias=True) for fine, coarse in pairwise(wide)
        )
        self.final_layer = ConvNorm(wide[-1], self.out_channels, 1, bias=True)
        initialise(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps at strides 4, 8, 16, 32 -> [N, 2048, H / 32, W / 32]."""
        widened = [widen(x) for widen, x in zip(self.incre_modules, maps, strict=True)]
        y: Tensor = widened[0]
        for halve, x in zip(self.downsamp_modules, widened[1:], strict=True):
            y = x + halve(y)
        out: Tensor = self.final_layer(y)
        return out


_POSE = "Sun et al. 2019, arXiv:1902.09212, section 3"
_VISUAL = "Wang et al. 2019, arXiv:1908.07919, section 3"
_POSE_WEIGHTS = "github.com/leoxiaobin/deep-high-resolution-net.pytorch (COCO keypoints)"
_IMAGENET_WEIGHTS = "github.com/HRNet/HRNet-Image-Classification (ImageNet)"


@register(
    paper=_VISUAL,
    input_size=(224, 224),
    parameters=1_477_920,
    multiply_adds=603_968_512,
    weights_origin=_IMAGENET_WEIGHTS,
    weights_licence="MIT",
    segmentation_options={"upsample": "bilinear"},
)
def hrnet_w18_small(strides: Sequence[int] = STRIDES, upsample: Upsample = "nearest") -> HRNet:
    """The smallest official form (cls_hrnet_w18_small_v1): widths 16, 32, 64, 128."""
    return HRNet(
        16, layer1=(32, 1), modules=(1, 1, 1), blocks=2, strides=strides, upsample=upsample
    )


@register(
    paper=_VISUAL,
    input_size=(224, 224),
    parameters=3_860_720,
    multiply_adds=1_594_158_944,
    weights_origin=_IMAGENET_WEIGHTS,
    weights_licence="MIT",
    segmentation_options={"upsample": "bilinear"},
)
def hrnet_w18_small_v2(strides: Sequence[int] = STRIDES, upsample: Upsample = "nearest") -> HRNet:
    """Widths 18, 36, 72, 144 with half of the blocks of w18."""
    return HRNet(
        18, layer1=(64, 2), modules=(1, 3, 2), blocks=2, strides=strides, upsample=upsample
    )


@register(
    paper=_VISUAL,
    input_size=(224, 224),
    parameters=9_562_260,
    multiply_adds=3_281_983_152,
    weights_origin=_IMAGENET_WEIGHTS,
    weights_licence="MIT",
    segmentation_options={"upsample": "bilinear"},
)
def hrnet_w18(strides: Sequence[int] = STRIDES, upsample: Upsample = "nearest") -> HRNet:
    """Widths 18, 36, 72, 144."""
    return HRNet(18, strides=strides, upsample=upsample)


@register(
    paper=_VISUAL,
    input_size=(224, 224),
    parameters=25_812_276,
    multiply_adds=7_080_143_280,
    weights_origin=_IMAGENET_WEIGHTS,
    weights_licence="MIT",
    segmentation_options={"upsample": "bilinear"},
)
def hrnet_w30(strides: Sequence[int] = STRIDES, upsample: Upsample = "nearest") -> HRNet:
    """Widths 30, 60, 120, 240."""
    return HRNet(30, strides=strides, upsample=upsample)


@register(
    paper=_POSE,
    input_size=(256, 192),
    parameters=29_305_536,
    multiply_adds=7_730_429_952,
    weights_origin=_POSE_WEIGHTS,
    weights_licence="MIT",
    segmentation_options={"upsample": "bilinear"},
)
def hrnet_w32(strides: Sequence[int] = STRIDES, upsample: Upsample = "nearest") -> HRNet:
    """Widths 32, 64, 128, 256: the pose network of the paper."""
    return HRNet(32, strides=strides, upsample=upsample)


@register(
    paper=_VISUAL,
    input_size=(224, 224),
    parameters=45_521_216,
    multiply_adds=11_646_288_640,
    weights_origin=_IMAGENET_WEIGHTS,
    weights_licence="MIT",
    segmentation_options={"upsample": "bilinear"},
)
def hrnet_w40(strides: Sequence[int] = STRIDES, upsample: Upsample = "nearest") -> HRNet:
    """Widths 40, 80, 160, 320."""
    return HRNet(40, strides=strides, upsample=upsample)


@register(
    paper=_VISUAL,
    input_size=(224, 224),
    parameters=54_974_640,
    multiply_adds=13_829_368_000,
    weights_origin=_IMAGENET_WEIGHTS,
    weights_licence="MIT",
    segmentation_options={"upsample": "bilinear"},
)
def hrnet_w44(strides: Sequence[int] = STRIDES, upsample: Upsample = "nearest") -> HRNet:
    """Widths 44, 88, 176, 352."""
    return HRNet(44, strides=strides, upsample=upsample)


@register(
    paper=_POSE,
    input_size=(256, 192),
    parameters=65_325_120,
    multiply_adds=15_885_287_424,
    weights_origin=_POSE_WEIGHTS,
    weights_licence="MIT",
    segmentation_options={"upsample": "bilinear"},
)
def hrnet_w48(strides: Sequence[int] = STRIDES, upsample: Upsample = "nearest") -> HRNet:
    """Widths 48, 96, 192, 384: the large pose network of the paper."""
    return HRNet(48, strides=strides, upsample=upsample)


@register(
    paper=_VISUAL,
    input_size=(224, 224),
    parameters=115_697_600,
    multiply_adds=27_801_518_080,
    weights_origin=_IMAGENET_WEIGHTS,
    weights_licence="MIT",
    segmentation_options={"upsample": "bilinear"},
)
def hrnet_w64(strides: Sequence[int] = STRIDES, upsample: Upsample = "nearest") -> HRNet:
    """Widths 64, 128, 256, 512."""
    return HRNet(64, strides=strides, upsample=upsample)
