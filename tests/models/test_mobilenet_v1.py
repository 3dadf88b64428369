"""MobileNet against pytorchcv's, and the paper's counts."""

import re

import pytest
import torch
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

from heads.network import Network, build
from heads.spec import BackboneSpec, default_spec
from models import create_backbone
from models.errors import SpecError
from models.mobilenet_v1 import DepthwiseSeparable
from models.profile import profile
from models.weights import load_weights, rename
from tests.models.twins import randomised

TWINS = {1.0: "mobilenet_w1", 0.75: "mobilenet_w3d4", 0.5: "mobilenet_wd2", 0.25: "mobilenet_wd4"}
LAST_LAYERS = ("features.stage2", "features.stage3", "features.stage4", "features.stage5")


def classifier(width: float) -> Network:
    spec = default_spec("mobilenet_v1+classify")
    backbone = BackboneSpec(name="mobilenet_v1", options={"width_multiplier": width})
    return build(spec.model_copy(update={"backbone": backbone})).eval()


@pytest.mark.parametrize("width", TWINS)
def test_maps_and_logits_are_pytorchcvs(width: float) -> None:
    twin, ours = randomised(get_model(TWINS[width])), classifier(width)
    load_weights(ours, twin.state_dict())
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(8))
    theirs: list[Tensor] = []
    for layer in LAST_LAYERS:
        twin.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output: theirs.append(output.clone())
        )
    with torch.inference_mode():
        theirs.append(twin(x))
        logits = ours(x)
        assert isinstance(logits, Tensor)
        found = [*ours.backbone(x), logits]
    for a, b in zip(found, theirs, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-5 * b.std()


def test_a_training_step_has_the_gradients_of_the_twin() -> None:
    # 64-bit: with few values a channel, batch norm would make rounding errors large.
    twin = randomised(get_model("mobilenet_wd4")).double().train()
    ours = create_backbone("mobilenet_v1", width_multiplier=0.25).double().train()
    load_weights(ours, twin.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(9)).double()
    features = twin.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    theirs: Tensor = features[:-1](x)  # without the pooling
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


@pytest.mark.parametrize(
    ("width", "millions", "mega_adds"),
    [(1.0, 4.2, 569), (0.75, 2.6, 325), (0.5, 1.3, 149), (0.25, 0.5, 41)],
)
def test_each_width_costs_what_table_6_says(width: float, millions: float, mega_adds: int) -> None:
    measured = profile(classifier(width), (224, 224))
    assert measured.parameters / 1e6 == pytest.approx(millions, abs=0.05)
    assert measured.multiply_adds / 1e6 == pytest.approx(mega_adds, abs=0.8)


@pytest.mark.parametrize(("side", "mega_adds"), [(224, 569), (192, 418), (160, 290), (128, 186)])
def test_each_resolution_costs_what_table_7_says(side: int, mega_adds: int) -> None:
    measured = profile(classifier(1.0), (side, side))
    assert measured.multiply_adds / 1e6 == pytest.approx(mega_adds, abs=0.8)


@pytest.mark.parametrize(("in_channels", "out_channels"), [(32, 64), (128, 128), (512, 1024)])
def test_a_block_costs_one_nth_plus_a_ninth_of_a_full_convolution(
    in_channels: int, out_channels: int
) -> None:
    """Section 3.1; N counts the channels that come out."""
    full = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    split = DepthwiseSeparable(in_channels, out_channels)
    costs = [profile(m, (14, 14), channels=in_channels).multiply_adds for m in (split, full)]
    assert costs[0] / costs[1] == pytest.approx(1 / out_channels + 1 / 9, rel=1e-12)


def test_nearly_all_multiply_adds_are_in_1x1_convolutions() -> None:
    """Table 2: 94.86 % of the multiply-adds and 74.59 % of the parameters."""
    network = classifier(1.0)
    pointwise = {n for n, m in network.named_modules() if getattr(m, "kernel_size", 0) == (1, 1)}
    measured = profile(network, (224, 224))
    layers = [layer for layer in measured.layers if layer.name in pointwise]
    share = sum(layer.multiply_adds for layer in layers) / measured.multiply_adds
    assert share == pytest.approx(0.9486, abs=5e-3)
    share = sum(layer.parameters for layer in layers) / measured.parameters
    assert share == pytest.approx(0.7459, abs=5e-3)


def test_a_width_that_is_not_positive_is_refused() -> None:
    with pytest.raises(SpecError, match=re.escape("width_multiplier must be positive, got 0")):
        create_backbone("mobilenet_v1", width_multiplier=0)
