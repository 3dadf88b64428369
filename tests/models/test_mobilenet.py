"""MobileNetV2's widths, taps, and the form that MoveNet needs."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models import FeatureSpec, create_backbone
from models.blocks import scaled_channels
from models.errors import SpecError
from models.weights import load_weights

MOVENET_TAPS = (3, 6, 10, 18)


@pytest.mark.parametrize(
    ("channels", "multiplier", "scaled"),
    [
        (32, 1.75, 56),
        (16, 1.75, 32),  # 28 lies half way and goes up
        (24, 1.75, 40),  # 42
        (24, 1.5, 40),  # 36
        (24, 0.35, 8),  # 8.4
        (32, 0.35, 16),  # 11.2: 8 would lose more than 10 %
        (16, 0.1, 8),  # never below 8
        (1280, 1.4, 1792),
    ],
)
def test_channels_are_scaled_to_multiples_of_8(
    channels: int, multiplier: float, scaled: int
) -> None:
    assert scaled_channels(channels, multiplier) == scaled


def test_strides_are_the_deepest_blocks_unless_other_taps_are_asked() -> None:
    with torch.device("meta"):
        plain = create_backbone("mobilenet_v2")
        head = create_backbone("mobilenet_v2", head_conv=True)
        movenet = create_backbone(
            "mobilenet_v2", width_multiplier=1.75, taps=MOVENET_TAPS, last_channels=1280
        )
    assert [spec.channels for spec in plain.specs] == [24, 32, 96, 320]
    assert [spec.channels for spec in head.specs] == [24, 32, 96, 1280]
    assert movenet.specs == (
        FeatureSpec(4, 40),
        FeatureSpec(8, 56),
        FeatureSpec(16, 112),
        FeatureSpec(32, 1280),
    )


@pytest.mark.parametrize(
    ("multiplier", "channels"), [(0.5, 1280), (1.0, 1280), (1.4, 1792), (1.75, 2240)]
)
def test_the_head_convolution_is_widened_but_not_narrowed(multiplier: float, channels: int) -> None:
    with torch.device("meta"):
        backbone = create_backbone(
            "mobilenet_v2", strides=(32,), head_conv=True, width_multiplier=multiplier
        )
    assert backbone.specs == (FeatureSpec(32, channels),)


def test_blocks_behind_the_last_tap_are_not_built() -> None:
    with torch.device("meta"):
        backbone = create_backbone("mobilenet_v2", strides=(4, 8))
    assert {int(name.split(".")[1]) for name in backbone.state_dict()} == set(range(7))


@pytest.mark.parametrize("network", ["movenet_thunder", "movenet_multipose"])
def test_the_folded_form_has_movenets_tensors(network: str, weights_folder: Path) -> None:
    state = load_file(weights_folder / f"{network}.safetensors")
    backbone = create_backbone(
        "mobilenet_v2",
        width_multiplier={"movenet_thunder": 1.75, "movenet_multipose": 1.5}[network],
        same_padding=True,
        norm=False,
        taps=MOVENET_TAPS,
        last_channels=1280,
    )
    load_weights(backbone, state)  # strict; neck and heads are left out by name
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[f"backbone.{name}"].float())


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that does the work of both."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


@pytest.mark.parametrize("same_padding", [False, True])
def test_folding_batch_norm_into_biases_keeps_the_maps(same_padding: bool) -> None:
    torch.manual_seed(0)
    normed = create_backbone("mobilenet_v2", same_padding=same_padding).eval()
    for layer in normed.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.normal_(layer.bias, std=0.1)
    state: dict[str, Tensor] = {}
    convolutions = [(n, m) for n, m in normed.named_modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in normed.modules() if isinstance(m, nn.BatchNorm2d)]
    for (name, conv), norm in zip(convolutions, norms, strict=True):
        state[f"{name}.weight"], state[f"{name}.bias"] = folded(conv, norm)
    plain = create_backbone("mobilenet_v2", same_padding=same_padding, norm=False).eval()
    load_weights(plain, state)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for a, b in zip(normed(x), plain(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * a.std().item())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taps": (3, 6, 10)}, "one block for each of the strides [4, 8, 16, 32]"),
        ({"taps": (3, 6, 7, 13)}, "blocks [3, 6, 7, 13] have strides [4, 8, 16, 16]"),
        ({"taps": (1, 6, 10, 18)}, "blocks [1, 6, 10, 18] have strides [None, 8, 16, 32]"),
        ({"taps": (3, 6, 10, 19)}, "have strides [4, 8, 16, None]"),
        ({"taps": (3, 6, 10, 17), "head_conv": True}, "leave out the head convolution, block 18"),
        ({"width_multiplier": 0}, "width_multiplier must be positive, got 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)), torch.device("meta"):
        create_backbone("mobilenet_v2", **options)  # type: ignore[arg-type]


def test_the_head_convolution_needs_stride_32() -> None:
    with pytest.raises(SpecError, match="stride 32, which was not asked for"):
        create_backbone("mobilenet_v2", strides=(4,), head_conv=True)
