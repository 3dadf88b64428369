"""The official networks, key for key and number for number.

Weights and inputs are made by formula (fill.py of the reference material), outputs were computed by
the official code. Values agree to 1e-5 of the output's standard deviation or better; one wrong
tensor moves them by 2e-3.
"""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import create_backbone
from models.hrnet import ClassificationNeck
from models.weights import detect_source, load_weights, rename

TOLERANCE = 1e-5  # of the standard deviation of the output


class Whole(nn.Module):
    """Backbone, neck and head under the names that all our networks use."""

    def __init__(self, backbone: nn.Module, neck: nn.Module | None, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        if neck is not None:
            self.neck = neck
        self.head = head


def pose_hrnet(width: int, keypoints: int = 17) -> Whole:
    backbone = create_backbone(f"hrnet_w{width}", strides=(4,))
    return Whole(backbone, None, nn.ModuleDict({"final_layer": nn.Conv2d(width, keypoints, 1)}))


def pose_resnet(depth: int) -> Whole:
    layers: list[nn.Module] = []
    for in_channels in (2048, 256, 256):
        layers += [
            nn.ConvTranspose2d(in_channels, 256, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
        ]
    head = nn.ModuleDict(
        {"deconv_layers": nn.Sequential(*layers), "final_layer": nn.Conv2d(256, 17, 1)}
    )
    return Whole(create_backbone(f"resnet{depth}", strides=(32,)), None, head)


def classifier(name: str) -> Whole:
    backbone = create_backbone(name)
    neck = ClassificationNeck(backbone.specs)
    return Whole(backbone, neck, nn.ModuleDict({"classifier": nn.Linear(2048, 1000)}))


BUILDERS = {
    "pose_hrnet_w32": lambda: pose_hrnet(32),
    "pose_hrnet_w48": lambda: pose_hrnet(48),
    "pose_resnet_50": lambda: pose_resnet(50),
    "pose_resnet_101": lambda: pose_resnet(101),
    "pose_resnet_152": lambda: pose_resnet(152),
    "cls_hrnet_w18_small_v1": lambda: classifier("hrnet_w18_small"),
    "cls_hrnet_w18_small_v2": lambda: classifier("hrnet_w18_small_v2"),
    "cls_hrnet_w18": lambda: classifier("hrnet_w18"),
    "cls_hrnet_w32": lambda: classifier("hrnet_w32"),
    "cls_hrnet_w48": lambda: classifier("hrnet_w48"),
}


def named_shapes(keys: list[tuple[str, list[int]]]) -> dict[str, Tensor]:
    """A state dict of shapes without numbers."""
    return {name: torch.empty(shape, device="meta") for name, shape in keys}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_public_key_list_loads_strictly(name: str, public_keys: dict[str, Any]) -> None:
    published = public_keys["networks"][name]
    with torch.device("meta"):
        network = BUILDERS[name]()
    state = named_shapes(published["keys"])
    load_weights(network, state)
    assert len(network.state_dict()) == published["tensors"]
    assert sum(p.numel() for p in network.parameters()) == published["parameters"]
    assert list(network.state_dict()) == list(rename(state)), "same tensors, in another order"


@pytest.mark.parametrize("name", BUILDERS)
def test_a_backbone_alone_takes_its_part_of_a_public_file(
    name: str, public_keys: dict[str, Any]
) -> None:
    with torch.device("meta"):
        backbone = BUILDERS[name]().backbone
        load_weights(backbone, named_shapes(public_keys["networks"][name]["keys"]))


@pytest.mark.parametrize("head_prefix", ["keypoint_head.", "head."], ids=["0.x", "1.x"])
@pytest.mark.parametrize("preprocessor", [False, True])
def test_mmpose_key_lists_load_strictly(
    head_prefix: str, preprocessor: bool, public_keys: dict[str, Any]
) -> None:
    keys = public_keys["mmpose_td_hm_hrnet_w32"]["v0"]
    state = {
        name.replace("keypoint_head.", head_prefix): tensor
        for name, tensor in named_shapes(keys).items()
    }
    if preprocessor:
        state["data_preprocessor.mean"] = torch.empty(3, 1, 1, device="meta")
        state["data_preprocessor.std"] = torch.empty(3, 1, 1, device="meta")
    with torch.device("meta"):
        load_weights(pose_hrnet(32), state)
    assert detect_source(state) == (
        "mmpose" if preprocessor or head_prefix == "keypoint_head." else "hrpose"
    )


def test_the_classifiers_file_starts_a_pose_network(public_keys: dict[str, Any]) -> None:
    # It holds the neck, the classifier and exchange paths that a pose backbone does not build.
    with torch.device("meta"):
        backbone = create_backbone("hrnet_w32", strides=(4,))
        load_weights(backbone, named_shapes(public_keys["networks"]["cls_hrnet_w32"]["keys"]))


def filled(
    network: nn.Module, name: str, case: dict[str, Any], keys: dict[str, Any], fill: ModuleType
) -> Tensor:
    """Load the case's weights into the network; returns the case's input."""
    state = fill.filled(keys["networks"][name]["keys"], case["gain"])
    assert fill.state_sum(state) == pytest.approx(case["state_sum"], rel=1e-9)
    load_weights(network.eval(), state)
    x: Tensor = fill.make_input(case["input_shape"], case["input_key"])
    return x


def assert_equals_reference(output: Tensor, expected: dict[str, Any], fill: ModuleType) -> None:
    assert list(output.shape) == expected["shape"]
    values = output.flatten()[fill.sample_indices(output.numel())]
    difference = (values - torch.tensor(expected["values"])).abs().max().item()
    assert difference < TOLERANCE * expected["std"]
    assert output.std(correction=0).item() == pytest.approx(expected["std"], rel=1e-5)
    assert output.argmax().item() == expected["argmax"]


def assert_stage(output: Tensor, expected: list[Any]) -> None:
    """Expected: shape, mean, standard deviation and first value, in 7 digits."""
    shape, mean, std, first = expected
    assert list(output.shape) == shape
    found = (output.mean().item(), output.std(correction=0).item(), output.flatten()[0].item())
    assert found == pytest.approx((mean, std, first), rel=1e-5, abs=1e-5 * std)


def test_pose_hrnet_w32_gives_the_official_heatmaps(
    parity: dict[str, Any], public_keys: dict[str, Any], fill: ModuleType
) -> None:
    case = parity["pose_hrnet_w32_256x192"]
    network = pose_hrnet(32)
    x = filled(network, "pose_hrnet_w32", case, public_keys, fill)
    with torch.inference_mode():
        (finest,) = network.backbone(x)
        heatmaps = network.head.final_layer(finest)  # type: ignore[operator]
    assert_stage(finest, case["stages"]["stage4[0]"])
    assert_equals_reference(heatmaps, case["output"], fill)


def test_pose_resnet_50_gives_the_official_heatmaps(
    parity: dict[str, Any], public_keys: dict[str, Any], fill: ModuleType
) -> None:
    case = parity["pose_resnet_50_256x192"]
    network = pose_resnet(50)
    x = filled(network, "pose_resnet_50", case, public_keys, fill)
    with torch.inference_mode():
        (coarsest,) = network.backbone(x)
        deconvolved = network.head.deconv_layers(coarsest)  # type: ignore[operator]
        heatmaps = network.head.final_layer(deconvolved)  # type: ignore[operator]
    assert_stage(coarsest, case["stages"]["layer4"])
    assert_equals_reference(heatmaps, case["output"], fill)


def test_cls_hrnet_w18_small_gives_the_official_logits(
    parity: dict[str, Any], public_keys: dict[str, Any], fill: ModuleType
) -> None:
    case = parity["cls_hrnet_w18_small_v1_224"]
    network = classifier("hrnet_w18_small")
    x = filled(network, "cls_hrnet_w18_small_v1", case, public_keys, fill)
    with torch.inference_mode():
        maps = network.backbone(x)
        final = network.neck(maps)
        logits = network.head.classifier(final.mean((2, 3)))  # type: ignore[operator]
    for i, branch in enumerate(maps):
        assert_stage(branch, case["stages"][f"stage4[{i}]"])
    assert_stage(final, case["stages"]["final_layer"])
    assert_equals_reference(logits, case["output"], fill)


@pytest.mark.parametrize(
    ("case_id", "upsample"),
    [
        ("seg_hrnet_w18_small_v2_128x128", "bilinear"),
        ("seg_hrnet_w18_small_v2_align_corners_128x128", "bilinear_align_corners"),
    ],
)
def test_bilinear_exchange_gives_the_official_segmentation_maps(
    case_id: str,
    upsample: str,
    parity: dict[str, Any],
    public_keys: dict[str, Any],
    fill: ModuleType,
) -> None:
    case = parity[case_id]
    backbone = create_backbone("hrnet_w18_small_v2", upsample=upsample).eval()
    keys = public_keys["networks"]["seg_hrnet_w18_small_v2"]["keys"]
    state = fill.filled(keys, case["gain"])
    load_weights(
        backbone, {name: x for name, x in state.items() if not name.startswith("last_layer.")}
    )
    with torch.inference_mode():
        maps = backbone(fill.make_input(case["input_shape"], case["input_key"]))
    for i, branch in enumerate(maps):
        assert_stage(branch, case["stages"][f"stage4[{i}]"])


def test_a_channel_swap_of_the_input_is_noticed(
    parity: dict[str, Any], public_keys: dict[str, Any], fill: ModuleType
) -> None:
    case = parity["cls_hrnet_w18_small_v1_224"]
    network = classifier("hrnet_w18_small")
    x = filled(network, "cls_hrnet_w18_small_v1", case, public_keys, fill)
    with torch.inference_mode():
        maps, swapped = network.backbone(x), network.backbone(x.flip(1))
    assert (maps[0] - swapped[0]).abs().max().item() > 0.1 * maps[0].std().item()
