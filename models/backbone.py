"""What every backbone promises, and the one table of those there are.

A backbone turns images [N, 3, H, W] into a list of feature maps, one for each asked stride,
finest first; `specs` says what comes out, which is all that a head needs to know. A family's file
registers its variants with `@register(...)`; `create_backbone` builds one by name.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from models.errors import ShapeError, SpecError, UnknownName

FAMILIES = (
    "efficientnet",
    "hrnet",
    "inception",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "mobilenet",
    "mobilenet_v1",
    "mobilenet_v3",
    "res2net",
    "resnest",
    "resnet",
    "resnetd",
    "resnetv2",
    "resnext",
    "senet",
    "shufflenet",
    "shufflenet_v1",
    "squeezenet",
)

SIDE_MULTIPLE = 32


@dataclass(frozen=True)
class FeatureSpec:
    """One feature map: an input of [H, W] gives [channels, H / stride, W / stride]."""

    stride: int
    channels: int


@dataclass(frozen=True)
class Facts:
    """What is known of a variant built with its default options.

    parameters counts learnable numbers, multiply_adds those of one image of input_size
    (height, width), both without any head. strides are those it can be asked for.
    weights_origin and weights_licence are about the weights its authors published.
    classification_options are those under which it builds what the paper's classifier needs,
    segmentation_options those of its segmentation network.
    """

    paper: str
    input_size: tuple[int, int]
    parameters: int
    multiply_adds: int
    weights_origin: str
    weights_licence: str
    strides: tuple[int, ...] = (4, 8, 16, 32)
    classification_options: Mapping[str, object] = field(default_factory=dict)
    segmentation_options: Mapping[str, object] = field(default_factory=dict)


class Backbone(nn.Module):
    """Feature maps of an image, one for each asked stride, finest first.

    specs: what `forward` returns, map for map.
    unbuilt: how the names of those tensors start which the paper's network has and this one was
        not asked for; a public file may hold them.
    classification_strides: the maps that the paper's classifier reads.
    may_have_idle_layers: some may lead to none of the asked maps, and get no gradient.
    """

    classification_strides: tuple[int, ...] = (32,)
    may_have_idle_layers = False

    def __init__(self, specs: Sequence[FeatureSpec], unbuilt: Sequence[str] = ()) -> None:
        super().__init__()
        self.specs = tuple(specs)
        self.unbuilt = tuple(unbuilt)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W], sides multiples of 32 -> maps [N, channels, H / stride, W / stride]."""
        raise NotImplementedError

    def classification_neck(self, classes: int) -> nn.Module | None:
        """What the paper's classifier has between the maps and the pooling; None: nothing.

        A module from the list of maps of `classification_strides` to [N, C, h, w], which has the
        attribute `out_channels` = C. classes: for papers that classify before they pool.
        """
        del classes
        return None

    def classification_layers(self, channels: int, classes: int) -> nn.Module:
        """What the paper's classifier has behind the pooling: [N, channels] -> [N, classes]."""
        return nn.Linear(channels, classes)

    def own_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """A public file's tensors under this backbone's names; None: the tables of `weights`."""
        del state
        return None

    def check_input(self, x: Tensor) -> None:
        """Refuse what is not [N, 3, H, W] with sides that are multiples of 32."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ShapeError(f"expected images [N, 3, height, width], got {list(x.shape)}")
        height, width = x.shape[2:]
        if height == 0 or width == 0 or height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
            fitting = [max(SIDE_MULTIPLE, _rounded_up(side)) for side in (height, width)]
            raise ShapeError(
                f"height and width must be multiples of {SIDE_MULTIPLE}, got {height} x {width}; "
                f"pad to {fitting[0]} x {fitting[1]}"
            )


def _rounded_up(side: int) -> int:
    return -(-side // SIDE_MULTIPLE) * SIDE_MULTIPLE


@dataclass(frozen=True)
class Variant:
    """A registered function and its facts."""

    build: Callable[..., Backbone]
    facts: Facts


Build = TypeVar("Build", bound=Callable[..., Backbone])

_variants: dict[str, Variant] = {}


def register(
    *,
    paper: str,
    input_size: tuple[int, int],
    parameters: int,
    multiply_adds: int,
    weights_origin: str,
    weights_licence: str,
    strides: tuple[int, ...] = (4, 8, 16, 32),
    classification_options: Mapping[str, object] | None = None,
    segmentation_options: Mapping[str, object] | None = None,
) -> Callable[[Build], Build]:
    """Put the decorated function into the table under its own name, with its `Facts`.

    The function takes `strides` and its options as keywords, all with defaults.
    """
    facts = Facts(
        paper,
        input_size,
        parameters,
        multiply_adds,
        weights_origin,
        weights_licence,
        strides,
        classification_options or {},
        segmentation_options or {},
    )

    def put(build: Build) -> Build:
        name = build.__name__
        if name in _variants:
            raise SpecError(f"two backbones are called {name!r}")
        _variants[name] = Variant(build, facts)
        return build

    return put


def create_backbone(
    name: str,
    *,
    strides: Sequence[int] | None = None,
    weights: str | Path | None = None,
    **variant: object,
) -> Backbone:
    """The backbone of that name, with maps at the asked strides only.

    name: one of `list_backbones()`, or `timm/<model>` for any model of that package.
    strides: any of those in `facts(name).strides`; None: all.
    weights: a file of public or own weights, loaded strictly; None: random weights.
    variant: options of the family's function, such as `width_multiplier`.
    Raises UnknownName, SpecError for strides or options that it does not have, WeightsError.
    """
    found = _find(name)
    _check_options(name, found.build, variant)
    asked = found.facts.strides if strides is None else strides
    backbone = found.build(strides=_checked_strides(name, asked, found.facts.strides), **variant)
    if weights is not None:
        from models.weights import load_weights

        load_weights(backbone, weights)
    return backbone


def list_backbones(pattern: str = "*") -> list[str]:
    """Names of all backbones that match a shell pattern, sorted."""
    return sorted(name for name in _registered() if fnmatchcase(name, pattern))


def facts(name: str) -> Facts:
    """Paper, cost and origin of a backbone; raises UnknownName."""
    return _find(name).facts


def _registered() -> dict[str, Variant]:
    for family in FAMILIES:
        import_module(f"models.{family}")
    return _variants


def _find(name: str) -> Variant:
    if name.startswith("timm/"):
        from models.timm import variant

        return variant(name)
    variants = _registered()
    if name not in variants:
        raise UnknownName("backbone", name, variants)
    return variants[name]


def _check_options(name: str, build: Callable[..., Backbone], given: dict[str, object]) -> None:
    accepted = [option for option in inspect.signature(build).parameters if option != "strides"]
    unknown = sorted(given.keys() - set(accepted))
    if unknown:
        raise SpecError(
            f"{name} has no option {', '.join(unknown)}; "
            f"it accepts: {', '.join(accepted) or 'none'}"
        )


def _checked_strides(name: str, asked: Sequence[int], offered: Sequence[int]) -> tuple[int, ...]:
    said = f"{name} offers strides {_listed(offered)}; asked {_listed(asked) or 'none'}"
    if not asked or not set(asked) <= set(offered):
        raise SpecError(said)
    if len(set(asked)) != len(asked):
        raise SpecError(f"{said}: one of them twice")
    return tuple(sorted(asked))


def _listed(strides: Sequence[int]) -> str:
    return ", ".join(str(stride) for stride in strides)
