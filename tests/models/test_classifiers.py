"""Whole classifiers against torchvision's: weights key for key, logits to 1e-5."""

from typing import Any

import pytest
import torch
import torchvision.models
from torch import nn

from heads.network import build
from heads.spec import default_spec
from models.weights import load_strict, rename

NAMES = (
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "efficientnet_b0",
    "efficientnet_b1",
)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_torchvisions(name: str) -> None:
    twin: Any = getattr(torchvision.models, name)(weights=None).eval()
    generator = torch.Generator().manual_seed(7)
    for layer in twin.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(std=0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    network = build(default_spec(f"{name}+classify")).eval()
    load_strict(network, rename(twin.state_dict(), "torchvision"), name)
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = network(x), twin(x)
    assert isinstance(ours, torch.Tensor)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.std()
