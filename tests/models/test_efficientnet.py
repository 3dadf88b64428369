"""EfficientNet against torchvision's and timm's, and lite0 against the one its weights are of."""

from typing import Any

import pytest
import timm
import torch
import torchvision.models
from efficientnet_lite_pytorch.model import EfficientNet as LiteTwin
from torch import Tensor, nn

from heads.load import load_public
from heads.network import build
from heads.spec import default_spec
from heads.zoo import locate
from models import create_backbone
from models.efficientnet import STAGES, EfficientNet
from models.weights import load_weights, rename

RESOLUTION = {0: 224, 1: 240, 2: 260, 3: 300, 4: 380, 5: 456, 6: 528, 7: 600}


def randomised(twin: nn.Module) -> nn.Module:
    """Random weights, and statistics of batch norm that are not 0 and 1."""
    generator = torch.Generator().manual_seed(7)
    for layer in twin.modules():
        if isinstance(layer, nn.Conv2d):  # large enough for the signal to reach the classes
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1, generator=generator)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(std=0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(layer.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(layer.bias, std=0.1, generator=generator)
    return twin.eval()


def relative_differences(name: str, twin: nn.Module, side: int = 64) -> list[float]:
    """Of the four maps and of the classes: the largest difference over the standard deviation."""
    network = build(default_spec(f"{name}+classify")).eval()
    load_weights(network, twin.state_dict())
    backbone = network.backbone
    assert isinstance(backbone, EfficientNet)
    # timm's stem and head convolution stand beside its stages; torchvision's are features 0 and 8.
    of_timm = hasattr(twin, "blocks")
    layers = [f"blocks.{tap - 1}" if of_timm else f"features.{tap}" for tap in backbone.taps]
    if of_timm:
        layers[-1] = "bn2"
    theirs: list[Tensor] = []
    for layer in layers:
        twin.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output: theirs.append(output.clone())
        )
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(8))
    with torch.inference_mode():
        theirs.append(twin(x))
        logits = network(x)
        assert isinstance(logits, Tensor)
        ours = [*backbone(x), logits]
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
    return [(a - b).abs().max().item() / b.std().item() for a, b in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize(
    "size", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 5, 6, 7))]
)
def test_maps_and_logits_are_torchvisions(size: int) -> None:
    name = f"efficientnet_b{size}"
    twin = randomised(getattr(torchvision.models, name)(weights=None))
    assert max(relative_differences(name, twin)) <= 1e-5


@pytest.mark.parametrize(
    "size", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 4))]
)
def test_maps_and_logits_of_lite_are_timms(size: int) -> None:
    twin = randomised(timm.create_model(f"tf_efficientnet_lite{size}"))
    assert max(relative_differences(f"efficientnet_lite{size}", twin)) <= 1e-5


@pytest.mark.parametrize("name", ["efficientnet_b2", "efficientnet_lite1"])
def test_a_training_step_has_the_gradients_of_the_twin(name: str) -> None:
    # 64-bit: with few values a channel, batch norm would make rounding errors large.
    lite = "lite" in name
    twin: Any = timm.create_model(f"tf_{name}") if lite else getattr(torchvision.models, name)()
    for layer in randomised(twin).double().train().modules():
        if type(layer).__name__ in ("StochasticDepth", "DropPath", "Dropout"):
            layer.eval()  # ours drops nothing at random
    ours = create_backbone(name, head_conv=True).double().train()
    load_weights(ours, twin.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(9)).double()
    theirs: Tensor = twin.forward_features(x) if lite else twin.features(x)
    target = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(10)).double()
    (theirs * target).sum().backward()
    (ours(x)[-1] * target).sum().backward()
    named = {key: p.grad for key, p in twin.named_parameters() if p.grad is not None}
    expected = {key.removeprefix("backbone."): grad for key, grad in rename(named).items()}
    found = {key: p.grad for key, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for key, grad in found.items():
        assert grad is not None, key
        scale = expected[key].abs().max().item()
        torch.testing.assert_close(grad, expected[key], rtol=0, atol=1e-5 * scale + 1e-9)


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
