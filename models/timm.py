"""Any network of the package timm as a backbone: `create_backbone("timm/convnext_tiny")`.

timm (Ross Wightman, PyTorch Image Models, Apache-2.0) holds more than a thousand networks and knows
where the feature maps of each are; this module asks it for those that our strides need and puts
them under our contract. It is no family: none of its names stands in `list_backbones`, and nothing
here is imported before one is asked for. The package is an extra: `pip install '.[timm]'`.

What a network of timm offers is found once, on shapes alone: for each of the strides 4, 8, 16 and
32 its deepest map, provided that the map of its published input has exactly input / stride cells
(Inception's have fewer, as it pads nothing). Multiply-adds are those `profile` counts; products of
attention have no weights and are left out. Some transformers read one size only; the option
`image_size` builds those for another.
Only what the asked strides need is built, as far as timm can cut it: its HRNet and a few old
searched networks keep layers that nothing reads.

Weights come from timm's own files, under their own names, through `weights` as everywhere.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import SIDE_MULTIPLE, Backbone, Facts, FeatureSpec, Variant
from models.errors import ShapeError, SpecError, UnknownName
from models.extras import install
from models.profile import profile

PREFIX = "timm/"
STRIDES = (4, 8, 16, 32)
USUAL_SIZE = (224, 224)

Size = tuple[int, int]


@dataclass(frozen=True)
class Described:
    """What timm says of one of its networks.

    input_size: the published one, (height, width).  fixed: whether it reads no other.
    levels: where in timm's list of maps the deepest of each stride is.
    tensor_names: of its classifier, and of its feature network with all levels.
    """

    model: str
    input_size: Size
    fixed: bool
    levels: Mapping[int, int]
    tensor_names: tuple[str, ...]


class TimmBackbone(Backbone):
    """A network of timm, cut off behind the deepest asked map; see `variant`."""

    def __init__(
        self, described: Described, *, strides: Sequence[int], image_size: Size | None
    ) -> None:
        published = described.input_size
        built_for = image_size or _rounded_up(published)
        resized = image_size is not None or (described.fixed and built_for != published)
        network = _feature_network(
            described.model,
            [described.levels[stride] for stride in strides],
            built_for if resized else None,
        )
        channels = network.feature_info.channels()
        super().__init__(
            specs=[FeatureSpec(*pair) for pair in zip(strides, channels, strict=True)],
            unbuilt=(),
        )
        self.classification_strides = (max(strides),)
        self.fixed_size = built_for if described.fixed or resized else None
        self.channels_last = str(getattr(network, "output_fmt", "")).endswith("NHWC")
        self.network: nn.Module = network
        self.may_have_idle_layers = True
        built = {_plain(name) for name in self.state_dict()}
        left_out = [name for name in described.tensor_names if _plain(name) not in built]
        self.unbuilt = tuple(left_out)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first."""
        self.check_input(x)
        if self.fixed_size is not None and tuple(x.shape[2:]) != self.fixed_size:
            height, width = self.fixed_size
            raise ShapeError(
                f"this network of timm reads {height} x {width} only, got "
                f"{x.shape[2]} x {x.shape[3]}; build it with image_size={tuple(x.shape[2:])}"
            )
        maps: list[Tensor] = list(self.network(x))
        return [y.permute(0, 3, 1, 2) for y in maps] if self.channels_last else maps

    def own_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a file of timm under our names.

        timm's feature networks write `stages.0` as `stages_0`, or put `model.` before it.
        """
        own = {_plain(name): name for name in self.state_dict()}
        return {own.get(_plain(name), name): tensor for name, tensor in state.items()}


def variant(name: str) -> Variant:
    """How `timm/<model>` is built, and its facts.

    Raises UnknownName if timm has no such model, SpecError if it has no maps of ours or is not
    installed.
    """
    _timm()
    described, facts = _known(name.removeprefix(PREFIX))

    def build(strides: Sequence[int] = STRIDES, *, image_size: Size | None = None) -> TimmBackbone:
        if image_size is not None:
            image_size = _checked_size(image_size)
        return TimmBackbone(described, strides=strides, image_size=image_size)

    return Variant(build, facts)


def _timm() -> Any:
    """The package, which is typed but built by a table of functions that are not."""
    try:
        return import_module("timm")
    except ImportError as error:
        raise SpecError(
            f"backbones called {PREFIX}... need the package timm; "
            f"run in hrpose's folder: {install('timm')}"
        ) from error


@cache
def _known(model: str) -> tuple[Described, Facts]:
    """What timm says of a network, and what that costs; nothing is computed."""
    timm = _timm()
    architecture, dot, _ = model.partition(".")
    if not timm.is_model(architecture) or (
        dot and model not in timm.list_pretrained(f"{architecture}.*")
    ):
        names = timm.list_pretrained(f"{architecture}.*") or timm.list_models()
        close = difflib.get_close_matches(model, names, n=8, cutoff=0)
        raise UnknownName("timm model", model, [PREFIX + name for name in close])
    published = timm.models.get_pretrained_cfg(model)
    with torch.device("meta"):
        offered = _feature_network(model, None, None).feature_info.info
        levels = {level["reduction"]: i for i, level in enumerate(offered)}
        described = Described(
            model=model,
            input_size=USUAL_SIZE if published is None else tuple(published.input_size[1:]),
            fixed=published is not None and published.fixed_input_size,
            levels={stride: levels[stride] for stride in STRIDES if stride in levels},
            tensor_names=(),
        )
        if not described.levels:
            raise SpecError(
                f"{PREFIX}{model} has maps of stride {_listed(sorted(levels))}; "
                f"a backbone needs some of {_listed(STRIDES)}"
            )
        whole = TimmBackbone(described, strides=tuple(described.levels), image_size=None)
        names = (*timm.create_model(model).state_dict(), *whole.state_dict())
    size = _rounded_up(described.input_size)
    measured = profile(whole, size)
    for spec, shape in zip(whole.specs, measured.output_shapes, strict=True):
        expected = (1, spec.channels, size[0] // spec.stride, size[1] // spec.stride)
        if shape != expected:
            raise SpecError(
                f"{PREFIX}{model} gives {list(shape)} at stride {spec.stride} for an image of "
                f"{size[0]} x {size[1]}; a backbone gives {list(expected)}"
            )
    has_weights = published is not None and published.has_weights
    return replace(described, tensor_names=names), Facts(
        paper=f"see timm's model {model}",
        input_size=size,
        parameters=measured.parameters,
        multiply_adds=measured.multiply_adds,
        weights_origin=f"timm ({published.tag or 'untagged'})" if has_weights else "none published",
        weights_licence=(published.license if has_weights else None) or "unknown",
        strides=tuple(described.levels),
    )


def _feature_network(model: str, levels: Sequence[int] | None, size: Size | None) -> Any:
    """The network that answers the maps of these levels; None: those that timm chooses."""
    options: dict[str, object] = {"features_only": True}
    if levels is not None:
        options["out_indices"] = tuple(levels)
    if size is not None:
        options["img_size"] = size
    create = _timm().create_model
    try:
        network = create(model, **options)
    except TypeError as error:
        if size is None:
            raise
        raise SpecError(
            f"{PREFIX}{model} cannot be built for images of {size[0]} x {size[1]}: {error}"
        ) from error
    if not hasattr(network, "output_fmt"):  # a class of its own, which builds all stages
        with suppress(TypeError):  # the oldest of these know no other way
            network = create(model, **options, feature_cls="getter")
    return network


def _plain(name: str) -> str:
    """A tensor's name without what timm's feature networks do to it."""
    return name.removeprefix("network.").removeprefix("model.").replace(".", "_")


def _checked_size(size: Iterable[int]) -> Size:
    sides = tuple(size)
    if len(sides) != 2 or any(side < 1 or side % SIDE_MULTIPLE for side in sides):
        raise SpecError(f"image_size is (height, width), multiples of {SIDE_MULTIPLE}; got {sides}")
    return (sides[0], sides[1])


def _rounded_up(size: Size) -> Size:
    height, width = (-(-side // SIDE_MULTIPLE) * SIDE_MULTIPLE for side in size)
    return (height, width)


def _listed(strides: Iterable[int]) -> str:
    return ", ".join(map(str, strides))
