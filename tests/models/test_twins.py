"""The same random weights in torchvision's and timm's networks and in ours give the same maps."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import mobilenetv2, resnet

from models import Backbone, create_backbone
from models.hrnet import ClassificationNeck
from models.weights import load_weights
from tests.models.twins import randomised

TOLERANCE = 1e-5  # of the standard deviation of a map


def image(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(8))


def outputs_of(twin: nn.Module, names: list[str], x: Tensor) -> list[Tensor]:
    """What the named parts of a network returned when it saw x."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen[name] = output.clone()

        return hook

    handles = [twin.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    with torch.inference_mode():
        twin(x)
    for handle in handles:
        handle.remove()
    return [seen[name] for name in names]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max().item() <= TOLERANCE * b.std().item()


def assert_twins(backbone: Backbone, twin: nn.Module, names: list[str]) -> None:
    twin = randomised(twin)
    load_weights(backbone.eval(), twin.state_dict())
    with torch.inference_mode():
        maps = backbone(image())
    assert_same(maps, outputs_of(twin, names, image()))


SLOW_RESNETS = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet101", "resnet152")]
LAYERS = ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", *SLOW_RESNETS])
def test_resnet_equals_torchvision(name: str) -> None:
    twin = getattr(resnet, name)(weights=None)
    assert_twins(create_backbone(name), twin, LAYERS)


@pytest.mark.parametrize(
    "name",
    ["resnet18", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet34", "resnet50"))],
)
def test_resnet_equals_timm(name: str) -> None:
    assert_twins(create_backbone(name), timm.create_model(name), LAYERS)


@pytest.mark.parametrize("multiplier", [1.0, 0.35, 1.4])
def test_mobilenet_v2_equals_torchvision(multiplier: float) -> None:
    twin = mobilenetv2.mobilenet_v2(weights=None, width_mult=multiplier)
    names = ["features.3", "features.6", "features.13", "features.18"]
    ours = create_backbone("mobilenet_v2", width_multiplier=multiplier, head_conv=True)
    assert_twins(ours, twin, names)


@pytest.mark.parametrize(
    ("name", "multiplier"),
    [
        ("mobilenetv2_100", 1.0),
        pytest.param("mobilenetv2_050", 0.5, marks=pytest.mark.slow),
        pytest.param("mobilenetv2_140", 1.4, marks=pytest.mark.slow),
    ],
)
def test_mobilenet_v2_equals_timm(name: str, multiplier: float) -> None:
    ours = create_backbone("mobilenet_v2", width_multiplier=multiplier)
    names = ["blocks.1", "blocks.2", "blocks.4", "blocks.6"]
    assert_twins(ours, timm.create_model(name), names)


def test_mobilenet_v2_head_convolution_equals_timm() -> None:
    ours = create_backbone("mobilenet_v2", strides=(32,), head_conv=True)
    assert_twins(ours, timm.create_model("mobilenetv2_100"), ["bn2"])  # timm's bn2 has the ReLU6


class Classifier(nn.Module):
    """HRNet for classification under our names."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = create_backbone(name)
        self.neck = ClassificationNeck(self.backbone.specs)
        self.head = nn.ModuleDict({"classifier": nn.Linear(2048, 1000)})


@pytest.mark.parametrize(
    "name",
    [
        "hrnet_w18_small",
        "hrnet_w18_small_v2",
        *(
            pytest.param(f"hrnet_w{width}", marks=pytest.mark.slow)
            for width in (18, 30, 32, 40, 44, 48, 64)
        ),
    ],
)
def test_hrnet_and_its_classification_neck_equal_timm(name: str) -> None:
    twin: Any = randomised(timm.create_model(name))
    ours = Classifier(name).eval()
    load_weights(ours, twin.state_dict(), source="timm")  # strict, to the last tensor
    with torch.inference_mode():
        maps = ours.backbone(image())
        final = ours.neck(maps)
    branches: list[Tensor] = []
    twin.stage4.register_forward_hook(lambda _module, _inputs, output: branches.extend(output))
    with torch.inference_mode():
        expected = twin.forward_features(image())
    assert_same(maps, branches)
    assert_same([final], [expected])
