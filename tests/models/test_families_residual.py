"""The families after ResNet: the same random weights give the same maps and classes as the twin's.

The twin is torchvision's network of the same name, or timm's under the name given here.
"""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from models import create_backbone
from models.weights import load_weights, rename
from tests.models.twins import randomised

TOLERANCE = 1e-5  # of the standard deviation of a map

TORCHVISION = ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2")
TIMM = {
    "se_resnet50": "legacy_seresnet50",
    "se_resnet101": "legacy_seresnet101",
    "se_resnet152": "legacy_seresnet152",
    "se_resnext50_32x4d": "legacy_seresnext50_32x4d",
    "se_resnext101_32x4d": "legacy_seresnext101_32x4d",
    "senet154": "legacy_senet154",
    "res2net50_26w_4s": "res2net50_26w_4s",
    "res2net50_26w_6s": "res2net50_26w_6s",
    "res2net50_26w_8s": "res2net50_26w_8s",
    "res2net50_48w_2s": "res2net50_48w_2s",
    "res2net50_14w_8s": "res2net50_14w_8s",
    "res2net101_26w_4s": "res2net101_26w_4s",
    "resnest14d": "resnest14d",
    "resnest26d": "resnest26d",
    "resnest50d": "resnest50d",
    "resnest101e": "resnest101e",
    "resnest200e": "resnest200e",
    "resnest269e": "resnest269e",
    "resnest50d_1s4x24d": "resnest50d_1s4x24d",
    "resnest50d_4s2x40d": "resnest50d_4s2x40d",
    "resnet50c": "resnet50c",
    "resnet101c": "resnet101c",
    "resnet152c": "resnet152c",
    "resnet18d": "resnet18d",
    "resnet34d": "resnet34d",
    "resnet50d": "resnet50d",
    "resnet101d": "resnet101d",
    "resnet152d": "resnet152d",
    "resnetv2_18": "resnetv2_18",
    "resnetv2_34": "resnetv2_34",
    "resnetv2_50": "resnetv2_50",
    "resnetv2_101": "resnetv2_101",
    "resnetv2_152": "resnetv2_152",
}
FAST = (
    "resnext50_32x4d",
    "wide_resnet50_2",
    "se_resnet50",
    "se_resnext50_32x4d",
    "res2net50_26w_4s",
    "resnest14d",
    "resnest50d_1s4x24d",
    "resnest50d_4s2x40d",
    "resnet50c",
    "resnet18d",
    "resnet50d",
    "resnetv2_18",
    "resnetv2_50",
)
MAPS = ("layer1", "layer2", "layer3", "layer4")
MAPS_OF_V2 = ("stages.0", "stages.1", "stages.2", "norm")


def twin_of(name: str) -> nn.Module:
    twin: nn.Module
    if name in TORCHVISION:
        twin = getattr(torchvision.models, name)(weights=None)
    else:
        twin = timm.create_model(TIMM[name])
    return randomised(twin)


def relative_differences(name: str) -> list[float]:
    """Of the four maps and of the classes: the largest difference over the standard deviation."""
    twin, ours = twin_of(name), create_backbone(name).eval()
    load_weights(ours, twin.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(8))
    theirs: list[Tensor] = []
    for layer in MAPS_OF_V2 if name.startswith("resnetv2") else MAPS:
        twin.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output: theirs.append(output.clone())
        )
    renamed = rename(twin.state_dict())
    weight, bias = renamed["head.classifier.weight"], renamed["head.classifier.bias"]
    with torch.inference_mode():
        theirs.append(twin(x))
        maps = ours(x)
        maps.append(nn.functional.linear(maps[-1].mean(dim=(2, 3)), weight, bias))
    for a, b in zip(maps, theirs, strict=True):
        assert a.shape == b.shape
    return [(a - b).abs().max().item() / b.std().item() for a, b in zip(maps, theirs, strict=True)]


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in (*TORCHVISION, *TIMM)
    ],
)
def test_a_family_equals_its_twin(name: str) -> None:
    assert max(relative_differences(name)) <= TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        "resnext50_32x4d",
        "se_resnet50",
        "res2net50_26w_4s",
        "resnest14d",
        "resnet18d",
        "resnetv2_18",
    ],
)
def test_a_training_step_has_the_gradients_of_the_twin(name: str) -> None:
    # 64-bit: with few values a channel, batch norm would make rounding errors large.
    twin, ours = twin_of(name).double().train(), create_backbone(name).double().train()
    load_weights(ours, twin.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(9)).double()
    theirs: list[Tensor] = []
    last = "norm" if name.startswith("resnetv2") else "layer4"
    twin.get_submodule(last).register_forward_hook(
        lambda _module, _inputs, output: theirs.append(output)
    )
    twin(x)
    target = torch.randn(theirs[0].shape, generator=torch.Generator().manual_seed(10)).double()
    (theirs[0] * target).sum().backward()
    (ours(x)[-1] * target).sum().backward()
    named = {key: p.grad for key, p in twin.named_parameters() if p.grad is not None}
    expected = {key.removeprefix("backbone."): grad for key, grad in rename(named).items()}
    found = {key: p.grad for key, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for key, grad in found.items():
        assert grad is not None, key
        scale = expected[key].abs().max().item()
        torch.testing.assert_close(grad, expected[key], rtol=0, atol=1e-5 * scale + 1e-9)
