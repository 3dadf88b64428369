"""Heads on backbones: the official networks exactly, every fitting pair, words where none fits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from heads.load import load, load_public
from heads.network import build, input_tensor
from heads.spec import (
    BackboneSpec,
    CodecSpec,
    NetworkSpec,
    Normalisation,
    PyramidHead,
    SimpleHead,
    default_spec,
    parse_network_name,
)
from models.errors import ShapeError, SpecError, WeightsError
from models.profile import profile
from models.weights import load_strict


@pytest.mark.parametrize(
    ("network", "parameters", "multiply_adds"),
    [
        # public_keys.json of the official repositories; GFLOPs there are these divided by 2**30
        ("hrnet_w32+simple", 28_536_113, 7_645_003_776),
        ("hrnet_w48+simple", 63_595_745, 15_691_825_152),
        ("resnet50+deconv", 33_999_697, 5_426_380_800),
    ],
)
def test_the_official_networks_cost_what_is_published(
    network: str, parameters: int, multiply_adds: int
) -> None:
    with torch.device("meta"):
        made = build(default_spec(network))
    measured = profile(made, (256, 192))
    assert measured.parameters == parameters
    assert measured.multiply_adds == multiply_adds


@pytest.mark.parametrize("backbone", ["hrnet_w18_small", "resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("head", ["simple", "fuse", "deconv", "pyramid"])
def test_every_heatmap_head_works_on_every_backbone(backbone: str, head: str) -> None:
    network = build(default_spec(f"{backbone}+{head}", input_size=(64, 96))).eval()
    maps = network(torch.randn(2, 3, 64, 96))
    assert isinstance(maps, torch.Tensor)
    assert maps.shape == (2, 17, 16, 24)
    assert maps.std() > 0


def reference_case(shared: Path, name: str) -> Any:
    cases = json.loads((shared / "checkpoints" / "parity.json").read_text())["cases"]
    return next(case for case in cases if case["id"] == name)


@pytest.mark.parametrize(
    ("case_name", "keys", "network"),
    [
        ("pose_hrnet_w32_256x192", "pose_hrnet_w32", "hrnet_w32+simple"),
        ("pose_resnet_50_256x192", "pose_resnet_50", "resnet50+deconv"),
    ],
)
def test_a_public_file_gives_the_official_outputs(
    shared: Path, fill: Any, tmp_path: Path, case_name: str, keys: str, network: str
) -> None:
    """The whole way of a user: an official .pth file, `load`, the outputs of the official code."""
    case = reference_case(shared, case_name)
    named = json.loads((shared / "checkpoints" / "public_keys.json").read_text())["networks"]
    path = tmp_path / "official.pth"
    torch.save(fill.filled(named[keys]["keys"], case["gain"]), path)
    loaded = load(path, network)
    with torch.inference_mode():
        output = loaded(fill.make_input(case["input_shape"], case["input_key"]))
    assert isinstance(output, torch.Tensor)
    expected = case["output"]
    assert list(output.shape) == expected["shape"]
    values = output.flatten()[fill.sample_indices(output.numel())].numpy()
    np.testing.assert_allclose(values, expected["values"], rtol=0, atol=1e-5 * expected["std"])


def test_a_file_of_another_network_is_refused(shared: Path, fill: Any, tmp_path: Path) -> None:
    named = json.loads((shared / "checkpoints" / "public_keys.json").read_text())["networks"]
    path = tmp_path / "w32.pth"
    torch.save(fill.filled(named["pose_hrnet_w32"]["keys"]), path)
    with pytest.raises(WeightsError, match=r"w32\.pth"):
        load_public(path, default_spec("hrnet_w48+simple"))


@pytest.mark.parametrize("name", ["hrnet_w32", "hrnet_w32+", "+simple", "hrnet_w32+u-net"])
def test_names_are_backbone_plus_head(name: str) -> None:
    with pytest.raises(SpecError, match=r"not <backbone>\+<head>"):
        parse_network_name(name)


def test_what_does_not_fit_is_refused_when_built() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        default_spec("resnet18+simple", input_size=(192, 144))


def test_input_is_normalised_in_the_networks_own_channel_order() -> None:
    spec = NetworkSpec(
        name="x",
        task="pose",
        backbone=BackboneSpec(name="resnet18"),
        head=SimpleHead(),
        input_size=(32, 32),
    )
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[..., 0] = 255  # red
    x = input_tensor(spec, torch.from_numpy(image))
    assert x.shape == (1, 3, 32, 32)
    np.testing.assert_allclose(
        x[0, :, 0, 0], [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-5
    )
    bgr = spec.model_copy(update={"normalisation": Normalisation(channel_order="bgr")})
    y = input_tensor(bgr, torch.from_numpy(image))
    np.testing.assert_allclose(
        y[0, :, 0, 0], [-0.485 / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225], rtol=1e-5
    )


def test_other_inputs_are_refused() -> None:
    network = build(default_spec("mobilenet_v2+fuse", input_size=(64, 64)))
    with pytest.raises(ShapeError, match=r"\[N, 3, H, W\]; got \(3, 64, 64\)"):
        network(torch.zeros(3, 64, 64))
    with pytest.raises(ShapeError, match="RGB uint8"):
        input_tensor(network.spec, torch.zeros(1, 64, 64, 3))


def test_a_pyramid_head_answers_movenets_heatmaps() -> None:
    movenet = load("movenet_thunder")
    head = PyramidHead(sigmoid=True)
    alone = build(movenet.spec.model_copy(update={"head": head})).eval()
    others = ("head.center.", "head.kpt_regress.", "head.kpt_offset.")
    state = movenet.state_dict()
    load_strict(alone, {n: t for n, t in state.items() if not n.startswith(others)}, "thunder")
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        heatmaps, maps = alone(x), movenet.eval()(x)
    assert isinstance(heatmaps, torch.Tensor)
    assert isinstance(maps, dict)
    assert torch.equal(heatmaps, maps["kpt_heatmap"].sigmoid())


def test_an_option_of_another_kind_is_refused_in_words() -> None:
    spec = default_spec("mobilenet_v2+deconv")
    backbone = spec.backbone.model_copy(update={"options": {"width_multiplier": "wide"}})
    with pytest.raises(SpecError, match=r"mobilenet_v2 cannot be built with .*'wide'"):
        build(spec.model_copy(update={"backbone": backbone}))


def test_a_blur_without_a_middle_is_refused() -> None:
    with pytest.raises(ValidationError, match="a blur's side is odd; got 10"):
        CodecSpec(blur_kernel=10)


@pytest.mark.parametrize("name", ["squeezenet1_1+simple", "inception_v3+segment"])
def test_maps_that_shrink_are_for_classes_only(name: str) -> None:
    spec = default_spec(name)
    backbone = spec.backbone.model_copy(update={"options": {"padding": "valid"}})
    with pytest.raises(SpecError, match="padding 'valid' shrinks maps"):
        build(spec.model_copy(update={"backbone": backbone}))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v2", {"last_channels": -5, "head_conv": True}),
        ("mobilenet_v2", {"width_multiplier": 1e308}),
        ("shufflenet_v1_g8", {"width_multiplier": 1e308}),
        ("mobilenet_v2", {"width_multiplier": "1"}),
    ],
)
def test_numbers_that_make_no_network_are_refused(name: str, options: dict[str, Any]) -> None:
    spec = default_spec(f"{name}+classify")
    backbone = spec.backbone.model_copy(update={"options": options})
    with pytest.raises(SpecError):
        build(spec.model_copy(update={"backbone": backbone}))
