"""build(spec) -> Network: the only place where a backbone and a head meet."""

from typing import Any, assert_never

import torch
from torch import Tensor, nn

from heads import spec as specs
from heads.center import CenterHead, PyramidNeck
from heads.classify import ClassificationHead
from heads.heatmap import DeconvHead, FuseHead, PyramidHead, SimpleHead
from heads.necks import Neck, NeckV1, NeckV2, NeckV2p
from heads.segment import FpnSegmentationHead, SegmentationHead
from models.backbone import Backbone, create_backbone, facts
from models.errors import ShapeError, SpecError

Maps = Tensor | dict[str, Tensor]
"""Heatmaps [N, K, h, w], logits [N, classes] or [N, classes, h, w]; a center network's by name."""


class Network(nn.Module):
    """Backbone, neck where the head needs one, and head.

    spec: what this network is; its normalisation must have been applied to the input.
    form: what `spec.neck` asks for.  neck: what belongs to the head, as MoveNet's pyramid.
    """

    def __init__(
        self,
        spec: specs.NetworkSpec,
        backbone: Backbone,
        head: nn.Module,
        neck: nn.Module | None,
        form: Neck | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.form = form
        self.neck = neck
        self.head = head

    def forward(self, x: Tensor) -> Maps:
        """[N, 3, H, W] float32, normalised -> heatmaps [N, K, H/4, W/4] or named maps."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ShapeError(f"a network reads [N, 3, H, W]; got {tuple(x.shape)}")
        maps = self.backbone(x)
        if self.form is not None:
            maps = self.form(maps)
        answer: Maps = self.head(maps if self.neck is None else self.neck(maps))
        return answer


def build(spec: specs.NetworkSpec) -> Network:
    """The network that a spec describes, with fresh weights.

    Raises SpecError where head and backbone do not fit, naming what the head needs, and where a
    number in it makes no network.
    """
    try:
        return _built(spec)
    except (RuntimeError, MemoryError, TypeError, ArithmeticError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise SpecError(f"{spec.name}: no network has such sizes ({reason})") from error


def _built(spec: specs.NetworkSpec) -> Network:
    backbone = _backbone(spec)
    form = _form(spec, backbone)
    offered = backbone.specs if form is None else form.specs
    keypoints = len(spec.skeleton.keypoints)
    head: nn.Module
    neck: nn.Module | None = None
    match spec.head:
        case specs.SimpleHead():
            head = SimpleHead(offered, keypoints)
        case specs.FuseHead(channels=channels):
            head = FuseHead(offered, keypoints, channels)
        case specs.DeconvHead(channels=channels_each):
            head = DeconvHead(offered, keypoints, channels_each)
        case specs.PyramidHead(channels=widths, tower=tower, sigmoid=sigmoid):
            neck = PyramidNeck(offered, widths)
            head = PyramidHead(neck.out_channels, keypoints, tower, sigmoid)
        case specs.CenterHead(channels=widths, tower=tower, boxes=boxes):
            neck = PyramidNeck(offered, widths)
            head = CenterHead(neck.out_channels, keypoints, tower, boxes)
        case specs.ClassifyHead(pool=pool):
            neck = backbone.classification_neck(len(spec.classes))
            last = backbone.specs[-1].channels if neck is None else _width(neck)
            head = ClassificationHead(backbone, last, len(spec.classes), pool)
        case specs.SegmentHead(align_corners=align_corners):
            head = SegmentationHead(offered, len(spec.classes), align_corners)
        case specs.FpnHead(channels=width):
            head = FpnSegmentationHead(offered, len(spec.classes), width)
        case _:
            assert_never(spec.head)
    return Network(spec, backbone, head, neck, form)


def _backbone(spec: specs.NetworkSpec) -> Backbone:
    """The backbone with just the maps that the neck or the head reads."""
    needed = specs.HEAD_STRIDES[spec.head.kind]
    if spec.neck is not None:
        needed = (specs.HEATMAP_STRIDE,) if spec.neck.kind == "v1" else None
    try:
        options: dict[str, Any] = dict(spec.backbone.options)
        known = facts(spec.backbone.name)
        if spec.task == "classify":
            options = dict(known.classification_options) | options
        elif spec.task == "segment":
            options = dict(known.segmentation_options) | options
        if options.get("padding") == "valid" and spec.task != "classify":
            raise SpecError("padding 'valid' shrinks maps, so that places in them are not known")
        return create_backbone(spec.backbone.name, strides=needed, **options)
    except TypeError as error:  # an option of another kind: text for a number
        raise SpecError(f"{spec.backbone.name} cannot be built with {options}: {error}") from error
    except SpecError as error:
        if needed is None:
            raise
        strides = ", ".join(map(str, needed))
        raise SpecError(
            f"a {spec.head.kind} head needs maps of stride {strides}: {error}"
        ) from error


def _form(spec: specs.NetworkSpec, backbone: Backbone) -> Neck | None:
    """The neck that the spec asks for; SpecError where the head needs maps that it lacks."""
    if spec.neck is None:
        return None
    needed = specs.HEAD_STRIDES[spec.head.kind]
    form: Neck
    match spec.neck.kind:
        case "v1":
            form = NeckV1(backbone.specs)
        case "v2":
            form = NeckV2(backbone.specs, spec.neck.channels)
        case "v2p":
            form = NeckV2p(backbone.specs, spec.neck.channels, needed)
        case _:
            assert_never(spec.neck.kind)
    strides = [made.stride for made in form.specs]
    if needed is not None and not set(needed) <= set(strides):
        raise SpecError(
            f"a {spec.head.kind} head needs maps of stride {', '.join(map(str, needed))}; "
            f"neck {spec.neck.kind} offers {', '.join(map(str, strides))}"
        )
    return form


def _width(neck: nn.Module) -> int:
    width = neck.out_channels
    assert isinstance(width, int)
    return width


def input_tensor(spec: specs.NetworkSpec, images: Tensor) -> Tensor:
    """RGB uint8 [N, H, W, 3] -> what the network reads: float32 [N, 3, H, W], normalised."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ShapeError(
            f"images are RGB uint8 [N, H, W, 3]; got {images.dtype} {tuple(images.shape)}"
        )
    norm = spec.normalisation
    x = images.permute(0, 3, 1, 2)
    if norm.channel_order == "bgr":
        x = x.flip(1)
    mean = torch.tensor(norm.mean, device=x.device).view(1, 3, 1, 1)
    std = torch.tensor(norm.std, device=x.device).view(1, 3, 1, 1)
    # One multiplication and one addition a value; keeps channels_last.
    return x.float() * (1 / (255 * std)) - mean / std
