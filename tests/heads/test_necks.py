"""HRNet's necks: what they compute by hand, on any backbone, and under which heads."""

from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from heads.checkpoint import save_checkpoint
from heads.load import load
from heads.necks import NeckV1, NeckV2, NeckV2p
from heads.network import build
from heads.spec import NeckSpec, NetworkSpec, default_spec
from models.backbone import FeatureSpec
from models.errors import SpecError

SPECS = (FeatureSpec(4, 3), FeatureSpec(8, 5), FeatureSpec(16, 2))


def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, s.channels, 32 // s.stride, 64 // s.stride, generator=generator)
        for s in SPECS
    ]


def brought_together() -> Tensor:
    fine, middle, coarse = maps()
    bigger = [F.interpolate(x, size=(8, 16), mode="bilinear") for x in (middle, coarse)]
    return torch.cat([fine, *bigger], dim=1)


def test_v1_is_the_finest_map() -> None:
    neck = NeckV1(SPECS)
    assert neck.specs == (FeatureSpec(4, 3),)
    assert torch.equal(neck(maps())[0], maps()[0])
    assert list(neck.parameters()) == []


def test_v2_mixes_all_maps_at_the_finest_size() -> None:
    neck = NeckV2(SPECS, None).eval()
    assert neck.specs == (FeatureSpec(4, 10),)
    with torch.inference_mode():
        (mixed,) = neck(maps())
        weight = neck.mix[0].weight
        assert isinstance(weight, Tensor)
        expected = F.relu(torch.einsum("oc,nchw->nohw", weight[:, :, 0, 0], brought_together()))
    torch.testing.assert_close(mixed, expected / (1 + 1e-5) ** 0.5)  # a fresh batch norm


def test_v2p_averages_the_mixed_map_down() -> None:
    neck = NeckV2p(SPECS, 4)
    assert neck.specs == (FeatureSpec(4, 4), FeatureSpec(8, 4), FeatureSpec(16, 4))
    with torch.inference_mode():
        levels = neck(maps())
        finest = F.conv2d(brought_together(), neck.reduction_conv.weight, neck.reduction_conv.bias)
        for times, level, convolution in zip((1, 2, 4), levels, neck.fpn_convs, strict=True):
            small = finest.unfold(2, times, times).unfold(3, times, times).mean(dim=(4, 5))
            torch.testing.assert_close(level, convolution(small))


def spec_of(network: str, kind: Literal["v1", "v2", "v2p"]) -> NetworkSpec:
    neck = NeckSpec(kind=kind, channels=None if kind == "v1" else 16)
    return default_spec(network, input_size=(64, 64)).model_copy(update={"neck": neck})


@pytest.mark.parametrize("backbone", ["hrnet_w18_small", "resnet18", "mobilenet_v2"])
@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("v1", "simple"), ("v1", "segment"), ("v2", "simple"), ("v2", "fpn"),
        ("v2p", "fuse"), ("v2p", "deconv"), ("v2p", "pyramid"), ("v2p", "center"),
    ],
)  # fmt: skip
def test_a_neck_stands_between_any_backbone_and_a_head(
    backbone: str, kind: Literal["v1", "v2", "v2p"], head: str
) -> None:
    network = build(spec_of(f"{backbone}+{head}", kind)).eval()
    with torch.inference_mode():
        answer = network(torch.zeros(1, 3, 64, 64))
    first = answer["kpt_heatmap"] if isinstance(answer, dict) else answer
    assert first.shape[2:] == (16, 16)


def test_a_head_that_needs_more_than_the_neck_has_is_refused() -> None:
    with pytest.raises(SpecError, match=r"deconv head needs maps of stride 32; neck v2 offers 4$"):
        build(spec_of("resnet18+deconv", "v2"))
    with pytest.raises(SpecError, match=r"center head needs .* 32; neck v2p offers 4, 8, 16$"):
        build(spec_of("squeezenet1_1+center", "v2p"))
    with pytest.raises(ValueError, match="a classify head has its paper's neck"):
        NetworkSpec.model_validate(spec_of("resnet18+classify", "v2").model_dump())


def test_a_file_keeps_its_neck(tmp_path: Path) -> None:
    network = build(spec_of("mobilenet_v2+center", "v2p")).eval()
    save_checkpoint(tmp_path / "x.safetensors", network.spec, network.state_dict())
    again = load(tmp_path / "x.safetensors")
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = network(x), again(x)
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert all(torch.equal(before[name], after[name]) for name in before)
