"""NetworkSpec: the one description of a network. Values only; no torch.

Recipes write it, checkpoint files carry it, the server and the evaluator read it.
"""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from heads.center_codec import CenterCodec
from heads.classes import CITYSCAPES, imagenet_1k
from heads.codec import HeatmapCodec, Refine
from heads.geometry import BOX_PADDING, Alignment, Crop, Size
from heads.skeleton import COCO_17, Skeleton
from models.errors import SpecError

Task = Literal["pose", "people", "classify", "segment"]
Option = bool | int | float | str | tuple[int, ...]

INPUT_MULTIPLE = 32
"""Sides of an input are multiples of the coarsest stride."""

MASK_CLASSES = 256

HEATMAP_STRIDE = 4
"""Input pixels a heatmap cell, for every head here."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Normalisation(_Frozen):
    """What the network's input is made of: (value / 255 - mean) / std, channel by channel.

    channel_order: `bgr` for networks that were trained on OpenCV's order (official SimpleBaseline);
    mean and std are given in that order.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    channel_order: Literal["rgb", "bgr"] = "rgb"


class BackboneSpec(_Frozen):
    """A name of `models.list_backbones()` and the options of its family."""

    name: str
    options: dict[str, Option] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        # The head decides on strides, and a file must not make its reader open other files.
        if {"strides", "weights"} & self.options.keys():
            raise ValueError("strides and weights are no options of a backbone in a spec")
        return self


class SimpleHead(_Frozen):
    """1x1 convolution on the stride-4 map: the official HRNet pose network."""

    kind: Literal["simple"] = "simple"


class FuseHead(_Frozen):
    """All maps brought to stride 4 and concatenated (HRNetV2, arXiv:1904.04514, section 3).

    channels: width of the 1x1 convolution that mixes them.
    """

    kind: Literal["fuse"] = "fuse"
    channels: PositiveInt = 64


class DeconvHead(_Frozen):
    """Deconvolutions up from stride 32 (SimpleBaseline, arXiv:1804.06208).

    channels: width of each; three of them double stride 32 to stride 4.
    """

    kind: Literal["deconv"] = "deconv"
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (256, 256, 256)


class PyramidHead(_Frozen):
    """A feature pyramid from coarse to fine, then a branch to the heatmaps (MoveNet's, alone).

    channels: widths of the pyramid at strides 4, 8 and 16.  tower: width inside the branch.
    sigmoid: heatmaps are the sigmoid of what the branch says, as MoveNet was trained.
    """

    kind: Literal["pyramid"] = "pyramid"
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (24, 32, 64)
    tower: PositiveInt = 96
    sigmoid: bool = False


class CenterHead(_Frozen):
    """People in one pass over a feature pyramid (CenterNet, arXiv:1904.07850; MoveNet).

    channels: widths of the pyramid at strides 4, 8 and 16.  tower: width inside each branch.
    boxes: also answers each person's box (people networks need it).
    max_people: so many centres are looked at.
    shift_px: (see CenterCodec) where the network's grid lies under its input.
    """

    kind: Literal["center"] = "center"
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (24, 32, 64)
    tower: PositiveInt = 96
    boxes: bool = True
    max_people: PositiveInt = 6
    shift_px: float = 0.0


class ClassifyHead(_Frozen):
    """The paper's classifier: its neck, pooling, its layers.

    pool: mean, maximum, or both one after the other, of each channel.
    """

    kind: Literal["classify"] = "classify"
    pool: Literal["avg", "max", "avgmax"] = "avg"


class SegmentHead(_Frozen):
    """Classes for every cell of stride 4 from all maps, as HRNetV2 has it (arXiv:1904.04514).

    align_corners: how coarser maps are brought to stride 4; True in the files of branch HRNet-OCR.
    """

    kind: Literal["segment"] = "segment"
    align_corners: bool = False


class FpnHead(_Frozen):
    """Classes for every cell of stride 4 from a feature pyramid (arXiv:1901.02446).

    channels: width of the pyramid.
    """

    kind: Literal["fpn"] = "fpn"
    channels: PositiveInt = 128


AnyHead = (
    SimpleHead
    | FuseHead
    | DeconvHead
    | PyramidHead
    | CenterHead
    | ClassifyHead
    | SegmentHead
    | FpnHead
)
HeadSpec = Annotated[AnyHead, Field(discriminator="kind")]

HEAD_STRIDES: dict[str, tuple[int, ...] | None] = {
    "simple": (4,),
    "fuse": (4, 8, 16, 32),
    "deconv": (32,),
    "pyramid": (4, 8, 16, 32),
    "center": (4, 8, 16, 32),
    "classify": None,
    "segment": None,
    "fpn": None,
}
"""The backbone maps that each kind of head reads; None: all that there are."""

HEADS: dict[str, type[AnyHead]] = {
    "simple": SimpleHead,
    "fuse": FuseHead,
    "deconv": DeconvHead,
    "pyramid": PyramidHead,
    "center": CenterHead,
    "classify": ClassifyHead,
    "segment": SegmentHead,
    "fpn": FpnHead,
}
"""Kinds as they stand in network names, `<backbone>+<head>`."""

TASKS: dict[str, frozenset[str]] = {
    "pose": frozenset({"simple", "fuse", "deconv", "pyramid", "center"}),
    "people": frozenset({"center"}),
    "classify": frozenset({"classify"}),
    "segment": frozenset({"segment", "fpn"}),
}
"""The kinds of head that can do each task."""


class NeckSpec(_Frozen):
    """HRNet's way to hand on maps, between any backbone and a head; see `heads.necks`.

    channels: of each map that comes out; None: the paper's.
    """

    kind: Literal["v1", "v2", "v2p"]
    channels: PositiveInt | None = None


class CodecSpec(_Frozen):
    """How heatmaps are made and read; see HeatmapCodec."""

    sigma: PositiveFloat = 2.0
    refine: Refine = "dark"
    unbiased: bool = False
    blur_kernel: Annotated[int, Field(ge=1, le=99)] = 11

    @field_validator("blur_kernel")
    @classmethod
    def _has_a_middle(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError(f"a blur's side is odd; got {side}")
        return side


class Glance(_Frozen):
    """A first, coarser look for boxes, which is enough where nobody looks small in it.

    short_side: that of the image as it is seen then.
    score: from which on a box counts.
    height: share of the image's short side below which a box is small.
    """

    short_side: PositiveInt
    score: Annotated[float, Field(gt=0, lt=1)] = 0.2
    height: Annotated[float, Field(gt=0, lt=1)] = 0.35


class View(_Frozen):
    """How a `people` network sees a whole image; see Crop.letterbox.

    glance: how it looks for boxes first; None looks once.
    """

    short_side: PositiveInt = 320
    max_long: PositiveInt = 800
    glance: Glance | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.glance is not None and self.glance.short_side >= self.short_side:
            raise ValueError(
                f"a glance is coarser than the view of {self.short_side}; "
                f"got {self.glance.short_side}"
            )
        return self


class Provenance(_Frozen):
    """Where weights come from and what they are worth.

    trained: False for the weights that building gives, which know nothing.
    parameters: learnable numbers.  scores: measured figures by name, each name
        saying with which boxes and data.
    """

    trained: bool = True
    origin: str = ""
    licence: str = ""
    parameters: PositiveInt | None = None
    data: str = ""
    recipe: str = ""
    scores: dict[str, float] = Field(default_factory=dict)


_Side = Annotated[int, Field(ge=1, le=4096)]


class NetworkSpec(_Frozen):
    """All that is needed to build, feed and read a network.

    neck: None: the head reads the backbone's own maps.
    input_size: (height, width) in pixels; for `people` the size its cost is stated for.
    alignment, padding: how a person's crop is cut, see Crop.around.
    view: how a whole image is fed to a `people` or `segment` network.
    center_share: the share of the image's short side that a `classify` network sees.
    skeleton, classes: what pose and people networks, or classify and segment networks, answer in.
    threshold: people with a lower score are not answered unless the caller says otherwise.
    """

    name: str
    task: Task
    backbone: BackboneSpec
    head: HeadSpec
    neck: NeckSpec | None = None
    input_size: tuple[_Side, _Side]
    normalisation: Normalisation = Normalisation()
    alignment: Alignment = "udp"
    padding: PositiveFloat = BOX_PADDING
    codec: CodecSpec = CodecSpec()
    view: View = View()
    center_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    threshold: float = 0.0
    skeleton: Skeleton = COCO_17
    classes: tuple[str, ...] = ()
    provenance: Provenance = Provenance()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(side % INPUT_MULTIPLE for side in self.input_size):
            raise ValueError(
                f"input sides must be multiples of {INPUT_MULTIPLE}; got {self.input_size}"
            )
        if self.task == "people" and not (self.head.kind == "center" and self.head.boxes):
            raise ValueError(f"task people needs a center head with boxes; got {self.head.kind}")
        if self.head.kind not in TASKS[self.task]:
            raise ValueError(
                f"a {self.head.kind} head cannot {self.task}; "
                f"heads that can: {', '.join(sorted(TASKS[self.task]))}"
            )
        if self.neck is not None and self.task == "classify":
            raise ValueError("a classify head has its paper's neck; it takes no other")
        if self.task in ("classify", "segment") and not self.classes:
            raise ValueError(f"task {self.task} needs the names of its classes")
        if self.task == "segment" and len(self.classes) > MASK_CLASSES:
            raise ValueError(
                f"a mask has a byte a pixel, for {MASK_CLASSES} classes; got {len(self.classes)}"
            )
        return self

    @property
    def network_name(self) -> str:
        """`<backbone>+<head>`."""
        return f"{self.backbone.name}+{self.head.kind}"

    @property
    def heatmap_size(self) -> Size:
        """(height, width) of the heatmaps in cells."""
        return (self.input_size[0] // HEATMAP_STRIDE, self.input_size[1] // HEATMAP_STRIDE)

    def heatmap_codec(self) -> HeatmapCodec:
        """What writes and reads this network's heatmaps."""
        return HeatmapCodec(
            self.input_size, self.heatmap_size, self.alignment, **self.codec.model_dump()
        )

    def center_codec(self) -> CenterCodec:
        """What reads this network's center maps."""
        if self.head.kind != "center":
            raise SpecError(f"{self.name} has a {self.head.kind} head, no center maps")
        return CenterCodec(
            stride=HEATMAP_STRIDE, shift_px=self.head.shift_px, max_people=self.head.max_people
        )

    def crop(self, box_xywh: tuple[float, float, float, float]) -> Crop:
        """The view of one person's box that this network is fed with."""
        return Crop.around(
            box_xywh, self.input_size, alignment=self.alignment, padding=self.padding
        )

    def whole(self, image_size: Size, short_side: int | None = None) -> Crop:
        """The view of a whole image that a `people` or `segment` network is fed with.

        short_side: another one than that of `view`; the longest side allowed changes with it.
        """
        short_side = short_side or self.view.short_side
        max_long = self.view.max_long * short_side // self.view.short_side
        return Crop.letterbox(image_size, short_side, multiple=INPUT_MULTIPLE, max_long=max_long)

    def middle(self, image_size: Size) -> Crop:
        """The middle of an image, as a `classify` network is fed with it."""
        return Crop.middle(image_size, self.input_size, self.center_share)


def parse_network_name(network: str) -> tuple[str, str]:
    """`hrnet_w32+simple` -> ("hrnet_w32", "simple"); SpecError says what the form is."""
    backbone, plus, head = network.partition("+")
    if not plus or not backbone or head not in HEADS:
        raise SpecError(
            f"network {network!r} is not <backbone>+<head> with a head of {', '.join(HEADS)}"
        )
    return backbone, head


def default_spec(network: str, *, input_size: Size = (256, 192)) -> NetworkSpec:
    """The spec of `<backbone>+<head>` with the usual settings.

    Pose heads answer COCO's 17 keypoints in input_size; classifiers ImageNet's 1000 classes and
    segmentation heads Cityscapes' 19 classes, in their usual sizes.
    """
    name, kind = parse_network_name(network)
    backbone, head = BackboneSpec(name=name), HEADS[kind]()
    if kind == "classify":
        return NetworkSpec(
            name=network,
            task="classify",
            backbone=backbone,
            head=head,
            input_size=(224, 224),
            center_share=0.875,
            classes=imagenet_1k(),
        )
    if kind in TASKS["segment"]:
        return NetworkSpec(
            name=network,
            task="segment",
            backbone=backbone,
            head=head,
            input_size=(512, 1024),
            view=View(short_side=512, max_long=1024),
            classes=CITYSCAPES,
        )
    task: Task = "people" if kind == "center" else "pose"
    return NetworkSpec(name=network, task=task, backbone=backbone, head=head, input_size=input_size)
