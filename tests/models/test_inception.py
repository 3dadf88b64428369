"""The Inception networks: the numbers of their public twins, and the claims of their papers.

Twins are torchvision's networks, timm's for the last two, and pytorchcv's `bninception` for
`inception_v2`. The larger three are compared without padding, as their twins are.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torchvision.models
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

from heads.network import build
from heads.spec import BackboneSpec, default_spec
from models import create_backbone
from models.blocks import Branches, ConvBn
from models.errors import ShapeError, SpecError
from models.inception import GOOGLENET, Row, inception
from models.inception_resnet_v2 import residual_a
from models.inception_v3 import module_7
from models.profile import profile
from models.weights import load_strict, load_weights, rename
from tests.models.twins import randomised

TOLERANCE = 1e-5  # of the standard deviation of a map


@dataclass(frozen=True)
class Twin:
    """How the twin is made, which of its layers give our four maps, and its published input."""

    make: Callable[[], Any]
    maps: tuple[str, str, str, str]
    side: int
    pads: bool = False


def pytorchcv_twin() -> Any:
    """With means of maps of any size, where it has those of 7 x 7 only."""
    twin = get_model("bninception")
    twin.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return twin


def torchvision_twin(name: str, *, aux: bool = True) -> Any:
    make = getattr(torchvision.models, name)
    return make(weights=None, aux_logits=aux, init_weights=False)


TWINS = {
    "googlenet": Twin(
        lambda: torchvision_twin("googlenet"),
        ("conv3", "inception3b", "inception4e", "inception5b"),
        224,
        pads=True,
    ),
    "inception_v2": Twin(
        pytorchcv_twin,
        ("features.init_block.conv2", "features.stage1", "features.stage2", "features.stage3"),
        224,
        pads=True,
    ),
    "inception_v3": Twin(
        lambda: torchvision_twin("inception_v3"),
        ("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"),
        299,
    ),
    "inception_v4": Twin(
        lambda: timm.create_model("inception_v4"),
        ("features.4", "features.9", "features.17", "features.21"),
        299,
    ),
    "inception_resnet_v2": Twin(
        lambda: timm.create_model("inception_resnet_v2"),
        ("conv2d_4a", "repeat", "repeat_1", "conv2d_7b"),
        299,
    ),
}
UNPADDED = [name for name, twin in TWINS.items() if not twin.pads]


def options_of(name: str) -> dict[str, Any]:
    return {} if TWINS[name].pads else {"padding": "valid"}


def meta(name: str, **options: Any) -> nn.Module:
    """A backbone that costs nothing: no numbers, only shapes."""
    with torch.device("meta"):
        return create_backbone(name, **options).eval()


def images(height: int, width: int, seed: int = 8) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def kept_outputs(twin: nn.Module, layers: tuple[str, ...]) -> list[Tensor]:
    """A list that the twin's next run fills with what these layers give."""
    outputs: list[Tensor] = []
    for layer in layers:
        twin.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output: outputs.append(output.clone())
        )
    return outputs


def relative_differences(name: str, height: int, width: int) -> list[float]:
    """Of the four maps and of the classes: the largest difference over the standard deviation."""
    twin = randomised(TWINS[name].make())
    ours = create_backbone(name, **options_of(name)).eval()
    load_weights(ours, twin.state_dict())
    spec = default_spec(f"{name}+classify")
    unpadded = BackboneSpec(name=name, options=options_of(name))
    network = build(spec.model_copy(update={"backbone": unpadded})).eval()
    load_strict(network, rename(twin.state_dict()), name)
    theirs = kept_outputs(twin, TWINS[name].maps)
    x = images(height, width)
    with torch.inference_mode():
        theirs.append(twin(x))
        maps = [*ours(x), network(x)]
    for a, b in zip(maps, theirs, strict=True):
        assert a.shape == b.shape
    return [(a - b).abs().max().item() / b.std().item() for a, b in zip(maps, theirs, strict=True)]


@pytest.mark.parametrize("name", TWINS)
def test_maps_and_logits_are_the_twins(name: str) -> None:
    assert max(relative_differences(name, 96, 128)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_maps_and_logits_are_the_twins_at_the_published_input(name: str) -> None:
    side = TWINS[name].side
    assert max(relative_differences(name, side, side)) <= TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        "googlenet",
        "inception_v2",
        "inception_v3",
        pytest.param("inception_v4", marks=pytest.mark.slow),
        pytest.param("inception_resnet_v2", marks=pytest.mark.slow),
    ],
)
def test_a_training_step_is_the_twins(name: str) -> None:
    # 64-bit: with few values a channel, batch norm would make rounding errors large.
    torchvisions = name in ("googlenet", "inception_v3")
    twin = torchvision_twin(name, aux=False) if torchvisions else TWINS[name].make()
    twin = randomised(twin).double().train()
    ours = create_backbone(name, **options_of(name)).double().train()
    load_weights(ours, twin.state_dict())
    last = kept_outputs(twin, TWINS[name].maps[-1:])
    x = images(96, 128, seed=9).double()
    twin(x)
    target = torch.randn(last[0].shape, generator=torch.Generator().manual_seed(10)).double()
    (last[0] * target).sum().backward()
    (ours(x)[-1] * target).sum().backward()
    named = {key: p.grad for key, p in twin.named_parameters() if p.grad is not None}
    expected = {key.removeprefix("backbone."): grad for key, grad in rename(named).items()}
    found = {key: p.grad for key, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    whole = max(grad.abs().max().item() for grad in expected.values())
    for key, grad in found.items():
        assert grad is not None, key
        # A bias before batch norm changes nothing: its gradient is rounding alone.
        scale = max(expected[key].abs().max().item(), 1e-6 * whole)
        torch.testing.assert_close(grad, expected[key], rtol=0, atol=1e-5 * scale, msg=key)
    statistics = rename(twin.state_dict())
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, statistics[f"backbone.{key}"], msg=key)


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("strides", [(4,), (8, 16), (32,)], ids=str)
def test_a_part_loads_the_twins_weights(name: str, strides: tuple[int, ...]) -> None:
    with torch.device("meta"):
        twin = TWINS[name].make()
    part = create_backbone(name, strides=strides)
    state = {key: torch.zeros(value.shape) for key, value in twin.state_dict().items()}
    load_weights(part, state)
    assert all(not value.any() for value in part.parameters())
    own = part.state_dict()
    load_weights(part, own)  # its own names are known too
    assert part.state_dict().keys() == own.keys()


@pytest.mark.parametrize(
    "name", ["googlenet", *(pytest.param(n, marks=pytest.mark.slow) for n in [*TWINS][1:])]
)
def test_random_weights_keep_the_signal_alive_and_all_are_used(name: str) -> None:
    backbone = create_backbone(name).train()
    maps = backbone(images(64, 96))
    for x in maps:
        assert 1e-3 < x.std().item() < 1e3
    torch.stack([x.square().mean() for x in maps]).sum().backward()
    assert [key for key, value in backbone.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("name", UNPADDED)
def test_without_padding_maps_have_the_papers_sizes(name: str) -> None:
    maps = meta(name, padding="valid")(torch.empty(1, 3, 299, 299, device="meta"))
    assert [tuple(x.shape[2:]) for x in maps] == [(71, 71), (35, 35), (17, 17), (8, 8)]
    maps = meta(name, padding="valid")(torch.empty(1, 3, 75, 75, device="meta"))
    assert tuple(maps[-1].shape[2:]) == (1, 1)


@pytest.mark.parametrize("name", UNPADDED)
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 64, 96), "needs sides of at least 75, got 64 x 96; enlarge the image"),
        ((1, 1, 96, 96), "expected images [N, 3, height, width], got [1, 1, 96, 96]"),
    ],
)
def test_without_padding_what_does_not_fit_is_refused(
    name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ShapeError, match=re.escape(message)):
        meta(name, padding="valid")(torch.empty(shape, device="meta"))


@pytest.mark.parametrize("name", UNPADDED)
def test_an_unknown_padding_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="padding is same or valid; got 'reflect'"):
        create_backbone(name, padding="reflect")


def test_a_layer_of_two_chains_runs_once() -> None:
    module = module_7(8).train()
    module(torch.randn(2, 8, 4, 4))
    counts = {int(value) for key, value in module.named_buffers() if key.endswith("tracked")}
    assert counts == {1}


def test_a_residual_module_adds_a_part_of_what_its_branches_say() -> None:
    module = residual_a().eval()
    x = torch.rand(1, 320, 4, 4)
    with torch.inference_mode():
        said = module.conv2d(Branches.forward(module, x))
        torch.testing.assert_close(module(x), (x + 0.17 * said).clamp(min=0))
        module.conv2d.weight.zero_()
        assert module.conv2d.bias is not None
        module.conv2d.bias.zero_()
        assert torch.equal(module(x), x)


def cost(layer: nn.Module, channels: int, size: int = 17) -> int:
    """Multiply-adds on a map of size x size."""
    return profile(layer, (size, size), channels=channels).multiply_adds


def seen(layers: nn.Module, channels: int) -> tuple[int, int]:
    """Height and width of what one output cell depends on."""
    x = torch.randn(1, channels, 15, 15, requires_grad=True)
    layers(x)[0, :, 7, 7].sum().backward()
    assert x.grad is not None
    touched = x.grad[0].abs().sum(dim=0) > 0
    return int(touched.any(dim=1).sum()), int(touched.any(dim=0).sum())


@pytest.mark.parametrize(
    ("large", "small", "numerator", "denominator"),
    [
        (5, (3, 3), 18, 25),  # section 3.1: 28 % less
        (7, ((1, 7), (7, 1)), 2, 7),  # section 3.2
        (3, ((1, 3), (3, 1)), 2, 3),  # section 3.2: 33 % less
    ],
)
def test_small_filters_see_what_a_large_one_sees_for_less(
    large: int, small: tuple[Any, Any], numerator: int, denominator: int
) -> None:
    """Inception v3, arXiv:1512.00567, section 3."""
    torch.manual_seed(0)
    whole = ConvBn(16, 16, large).eval()
    parts = nn.Sequential(*(ConvBn(16, 16, kernel) for kernel in small)).eval()
    assert denominator * cost(parts, 16) == numerator * cost(whole, 16)
    linear = nn.Sequential(*(part.get_submodule("conv") for part in parts))
    assert seen(linear, 16) == seen(whole.get_submodule("conv"), 16) == (large, large)


def with_5x5(in_channels: int, row: Row) -> Branches:
    """The module as the paper has it."""
    module = inception(in_channels, row)
    module.get_submodule("branch3").add_module("1", ConvBn(*row.fives, 5))
    return module


@pytest.mark.parametrize(
    ("name", "in_channels", "size", "million_operations"),
    [
        ("3a", 192, 28, 128),
        ("3b", 256, 28, 304),
        ("4a", 480, 14, 73),
        ("4b", 512, 14, 88),
        ("4c", 512, 14, 100),
        ("4d", 512, 14, 119),
        ("4e", 528, 14, 170),
        ("5a", 832, 7, 51),  # the table prints 54, which its widths do not give
        ("5b", 832, 7, 71),
    ],
)
def test_with_5x5_filters_modules_cost_what_the_paper_says(
    name: str, in_channels: int, size: int, million_operations: int
) -> None:
    """GoogLeNet, arXiv:1409.4842, table 1."""
    operations = cost(with_5x5(in_channels, GOOGLENET[name]), in_channels, size)
    assert operations / 1e6 == pytest.approx(million_operations, abs=1)


@pytest.mark.parametrize(("name", "in_channels", "share"), [("3a", 192, 0.42), ("5b", 832, 0.25)])
def test_1x1_reductions_make_a_module_cheap(name: str, in_channels: int, share: float) -> None:
    """GoogLeNet, section 4: figure 2b against 2a."""
    row = GOOGLENET[name]
    naive = Branches(
        {"branch1": ConvBn(in_channels, row.ones, 1)},
        {"branch2": ConvBn(in_channels, row.threes[1], 3)},
        {"branch3": ConvBn(in_channels, row.fives[1], 5)},
        {"branch4": nn.MaxPool2d(3, stride=1, padding=1)},
    )
    reduced = with_5x5(in_channels, row)
    assert cost(reduced, in_channels) / cost(naive, in_channels) == pytest.approx(share, abs=5e-3)
    x = torch.zeros(1, in_channels, 2, 2)
    assert reduced.eval()(x).shape[1] == row.channels
    assert naive.eval()(x).shape[1] == row.channels - row.pooled + in_channels


def test_googlenet_has_a_ninth_of_alexnets_parameters() -> None:
    """The paper says a twelfth (section 1); its own table 1 and 60 million give a ninth."""
    classifier = 1024 * 1000 + 1000
    count = profile(meta("googlenet"), (64, 64)).parameters + classifier
    assert 60_965_224 / count == pytest.approx(9.2, abs=0.1)


def test_inception_v3_has_fewer_than_25_million_parameters() -> None:
    """arXiv:1512.00567, section 7: with the classifier; at 299 its cost is 5.7 billion."""
    measured = profile(meta("inception_v3", padding="valid"), (299, 299))
    assert measured.parameters + 2048 * 1000 + 1000 < 25e6
    assert measured.multiply_adds / 1e9 == pytest.approx(5.71, abs=0.01)


def test_inception_resnet_v2_costs_about_what_inception_v4_costs() -> None:
    """arXiv:1602.07261, section 3.2."""
    residual, plain = (
        profile(meta(name, padding="valid"), (299, 299)).multiply_adds
        for name in ("inception_resnet_v2", "inception_v4")
    )
    assert residual / plain == pytest.approx(1, abs=0.1)
