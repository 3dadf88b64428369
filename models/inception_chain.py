"""The trunk of all Inception networks: named parts one after the other, with maps along the way.

Their authors place a map's last block anywhere, and pad some layers or none; what they share is
that nothing runs beside the chain. So a network is a list of parts, each with the stride and the
channels of what it gives, and the map of a stride is what the last part of that stride gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec
from models.blocks import initialise
from models.errors import ShapeError, SpecError

STRIDES = (4, 8, 16, 32)
SMALLEST_VALID_SIDE = 75
Padding = Literal["same", "valid"]


@dataclass(frozen=True)
class Part:
    """A layer or block of the chain, not yet made: what it is called, and what it gives."""

    name: str
    stride: int
    channels: int
    build: Callable[[], nn.Module]


class InceptionChain(Backbone):
    """Parts in order, as many as the coarsest asked stride needs.

    inside: the submodule that holds them; empty: the backbone itself.
    padding: "valid" says that the parts shrink their maps: these are then smaller than the input
        over the stride, and any input of at least 75 x 75 will do.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        strides: Sequence[int],
        *,
        inside: str = "",
        padding: Padding = "same",
    ) -> None:
        last_of = {part.stride: part for part in parts}
        taps = [last_of[stride] for stride in strides]
        built = max(parts.index(part) for part in taps) + 1
        prefix = f"{inside}." if inside else ""
        super().__init__(
            specs=[FeatureSpec(part.stride, part.channels) for part in taps],
            unbuilt=[f"{prefix}{part.name}." for part in parts[built:]],
        )
        if inside:
            self.add_module(inside, nn.Sequential())
        for part in parts[:built]:
            self.get_submodule(inside).add_module(part.name, part.build())
        self.inside = inside
        self.padding = padding
        self.taps = tuple(part.name for part in taps)
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first."""
        self.check_input(x)
        maps = []
        for name, part in self.get_submodule(self.inside).named_children():
            x = part(x)
            if name in self.taps:
                maps.append(x)
        return maps

    def check_input(self, x: Tensor) -> None:
        """Refuse what does not fit: without padding only what would shrink to nothing."""
        if self.padding == "same" or x.ndim != 4 or x.shape[1] != 3:
            super().check_input(x)
        elif min(x.shape[2:]) < SMALLEST_VALID_SIDE:
            height, width = x.shape[2:]
            raise ShapeError(
                f"padding 'valid' needs sides of at least {SMALLEST_VALID_SIDE}, got "
                f"{height} x {width}; enlarge the image or take padding 'same'"
            )


def is_same(padding: Padding) -> bool:
    """Whether layers are padded; raises SpecError for a word that is neither."""
    if padding not in get_args(Padding):
        raise SpecError(f"padding is {' or '.join(get_args(Padding))}; got {padding!r}")
    return padding == "same"


def halving_pool(padded: bool) -> nn.MaxPool2d:
    """3x3 maxima at every second cell: exactly half the size if padded."""
    return nn.MaxPool2d(3, stride=2, padding=1 if padded else 0)
