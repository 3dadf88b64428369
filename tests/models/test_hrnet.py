"""HRNet against the published counts, and its options."""

import pytest
import torch
from torch import nn

from models import create_backbone
from models.backbone import FeatureSpec
from models.errors import SpecError
from models.hrnet import ClassificationNeck, HRNet
from models.profile import profile
from models.weights import load_weights

CLASSES = 1000


class Classifier(nn.Module):
    """The official classification network, with the names our networks have."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = create_backbone(name)
        self.neck = ClassificationNeck(self.backbone.specs)
        self.head = nn.ModuleDict({"classifier": nn.Linear(self.neck.out_channels, CLASSES)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> logits [N, CLASSES]."""
        logits: torch.Tensor = self.head["classifier"](self.neck(self.backbone(x)).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("name", "input_size", "parameters", "multiply_adds"),
    [
        ("hrnet_w32", (256, 192), 28_536_113, 7_645_003_776),
        ("hrnet_w32", (384, 288), 28_536_113, 17_201_258_496),
        ("hrnet_w48", (256, 192), 63_595_745, 15_691_825_152),
        ("hrnet_w48", (384, 288), 63_595_745, 35_306_606_592),
    ],
)
def test_the_pose_network_costs_what_is_published(
    name: str, input_size: tuple[int, int], parameters: int, multiply_adds: int
) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name, strides=(4,))
        final_layer = nn.Conv2d(backbone.specs[0].channels, 17, 1)
    body = profile(backbone, input_size)
    height, width = input_size
    head = profile(final_layer, (height // 4, width // 4), channels=backbone.specs[0].channels)
    assert body.parameters + head.parameters == parameters
    assert body.multiply_adds + head.multiply_adds == multiply_adds


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    [
        ("hrnet_w18_small", 13_187_464, 1_601_508_352),
        ("hrnet_w18_small_v2", 15_597_464, 2_595_712_864),
        ("hrnet_w18", 21_299_004, 4_283_537_072),
        ("hrnet_w30", 37_712_220, 8_105_781_680),
        ("hrnet_w32", 41_232_680, 8_921_133_056),
        ("hrnet_w40", 57_557_160, 12_691_997_440),
        ("hrnet_w44", 67_064_984, 14_883_104_960),
        ("hrnet_w48", 77_469_864, 17_277_996_032),
        ("hrnet_w64", 128_059_944, 28_895_395_840),
    ],
)
def test_the_classifier_costs_what_is_published(
    name: str, parameters: int, multiply_adds: int
) -> None:
    with torch.device("meta"):
        measured = profile(Classifier(name), (224, 224))
    assert (measured.parameters, measured.multiply_adds) == (parameters, multiply_adds)
    assert measured.output_shapes == ((1, CLASSES),)


def test_exchange_paths_lead_only_to_the_asked_maps() -> None:
    with torch.device("meta"):
        names = create_backbone("hrnet_w18", strides=(8, 32)).state_dict()
    last = {name.split(".")[3] for name in names if name.startswith("stage4.2.fuse_layers.")}
    before = {name.split(".")[3] for name in names if name.startswith("stage4.1.fuse_layers.")}
    assert last == {"1", "3"}
    assert before == {"0", "1", "2", "3"}


def test_each_way_of_upsampling_gives_other_maps_from_the_same_weights() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    first = create_backbone("hrnet_w18_small", strides=(4,)).eval()
    with torch.inference_mode():
        maps = [first(x)[0]]
        for upsample in ("bilinear", "bilinear_align_corners"):
            other = create_backbone("hrnet_w18_small", strides=(4,), upsample=upsample).eval()
            load_weights(other, first.state_dict())
            maps.append(other(x)[0])
    scale = maps[0].std().item()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (maps[a] - maps[b]).abs().max().item() > 0.05 * scale


def test_another_way_of_upsampling_is_refused() -> None:
    with pytest.raises(SpecError, match=r"HRNet upsamples nearest, bilinear.*asked 'cubic'"):
        create_backbone("hrnet_w18_small", upsample="cubic")


def test_the_classification_neck_needs_all_four_maps() -> None:
    specs = [FeatureSpec(4, 16), FeatureSpec(8, 32)]
    with pytest.raises(SpecError, match="needs strides 4, 8, 16, 32; offered: 4, 8"):
        ClassificationNeck(specs)


def test_any_width_and_depth_can_be_built() -> None:
    tiny = HRNet(4, layer1=(8, 1), modules=(1, 2, 1), blocks=1, strides=(4, 32)).eval()
    assert tiny.specs == (FeatureSpec(4, 4), FeatureSpec(32, 32))
    maps = tiny(torch.zeros(1, 3, 32, 64))
    assert [tuple(x.shape) for x in maps] == [(1, 4, 8, 16), (1, 32, 1, 2)]
