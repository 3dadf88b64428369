"""The contract of every backbone, its registry, and what it refuses."""

import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models import Backbone, FeatureSpec, create_backbone, list_backbones
from models.backbone import facts, register
from models.errors import ShapeError, SpecError, UnknownName
from models.profile import profile
from models.weights import load_weights

STRIDES = (4, 8, 16, 32)
SUBSETS = [subset for n in range(1, 5) for subset in combinations(STRIDES, n)]
SMALLEST = ("hrnet_w18_small", "mobilenet_v2", "resnet18")


def shapes_only(name: str, strides: Sequence[int] | None = None) -> Backbone:
    """A backbone that costs nothing: no numbers, only shapes."""
    with torch.device("meta"):
        return create_backbone(name, strides=strides)


def image(height: int = 64, width: int = 96, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", list_backbones())
def test_every_variant_keeps_the_contract(name: str) -> None:
    known = facts(name)
    backbone = shapes_only(name)
    assert tuple(spec.stride for spec in backbone.specs) == known.strides
    maps = backbone.eval()(torch.empty(2, 3, 64, 96, device="meta"))
    assert [tuple(x.shape) for x in maps] == [
        (2, spec.channels, 64 // spec.stride, 96 // spec.stride) for spec in backbone.specs
    ]
    measured = profile(backbone, known.input_size)
    assert (measured.parameters, measured.multiply_adds) == (
        known.parameters,
        known.multiply_adds,
    )
    assert known.paper
    assert known.weights_origin
    assert known.weights_licence


@pytest.mark.parametrize(
    ("name", "strides"),
    [(name, strides) for name in SMALLEST for strides in SUBSETS]
    + [(name, (4,)) for name in list_backbones() if name not in SMALLEST]
    + [
        pytest.param(name, (stride,), marks=pytest.mark.slow)
        for name in list_backbones()
        if name not in SMALLEST
        for stride in facts(name).strides[1:]
    ],
    ids=str,
)
def test_fewer_strides_build_a_part_of_the_whole(name: str, strides: tuple[int, ...]) -> None:
    whole, part = shapes_only(name), shapes_only(name, strides)
    left_out = {key for key in whole.state_dict() if key.startswith(part.unbuilt)}
    assert part.state_dict().keys() == whole.state_dict().keys() - left_out
    assert part.specs == tuple(spec for spec in whole.specs if spec.stride in strides)


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("strides", [(4,), (8, 16), (32,)], ids=str)
def test_fewer_strides_give_the_same_maps(name: str, strides: tuple[int, ...]) -> None:
    whole = create_backbone(name).eval()
    part = create_backbone(name, strides=strides).eval()
    load_weights(part, whole.state_dict())
    with torch.inference_mode():
        expected = dict(zip(STRIDES, whole(image()), strict=True))
        for stride, x in zip(strides, part(image()), strict=True):
            torch.testing.assert_close(x, expected[stride], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("strides", [STRIDES, (4,), (16,)], ids=str)
def test_every_parameter_that_is_built_is_used(name: str, strides: tuple[int, ...]) -> None:
    backbone = create_backbone(name, strides=strides)
    torch.stack([x.square().mean() for x in backbone(image(batch=2))]).sum().backward()
    unused = [key for key, value in backbone.named_parameters() if value.grad is None]
    assert unused == []


@pytest.mark.parametrize("name", SMALLEST)
def test_an_image_gives_the_same_maps_alone_and_in_a_batch(name: str) -> None:
    backbone = create_backbone(name).eval()
    images = image(batch=3)
    with torch.inference_mode():
        together, alone = backbone(images), backbone(images[1:2])
    for batch, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batch[1:2], single, rtol=1e-4, atol=1e-4 * single.std().item())


@pytest.mark.parametrize("name", SMALLEST)
def test_random_weights_keep_the_signal_alive(name: str) -> None:
    with torch.inference_mode():
        maps = create_backbone(name).train()(image(batch=2))
    for x in maps:
        assert 1e-3 < x.std().item() < 1e3


def test_maps_come_finest_first_in_whatever_order_they_are_asked() -> None:
    backbone = shapes_only("resnet18", [32, 4])
    assert backbone.specs == (FeatureSpec(4, 64), FeatureSpec(32, 512))


def test_list_backbones_matches_a_pattern() -> None:
    assert list_backbones("resnet[0-9]*[0-9]") == [
        "resnet101",
        "resnet152",
        "resnet18",
        "resnet34",
        "resnet50",
    ]
    assert list_backbones("hrnet_w18_small*") == ["hrnet_w18_small", "hrnet_w18_small_v2"]
    assert list_backbones("nothing*") == []


def test_weights_are_read_from_a_file(tmp_path: Path) -> None:
    saved = create_backbone("resnet18")
    save_file(saved.state_dict(), tmp_path / "saved.safetensors")
    loaded = create_backbone("resnet18", strides=(8,), weights=tmp_path / "saved.safetensors")
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[key])


def test_models_are_imported_without_torch() -> None:
    code = "import sys, models, models.errors; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_models_export_what_they_say() -> None:
    import models

    for name in models.__all__:
        assert getattr(models, name) is not None
        assert name in dir(models)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(models, "nothing")  # noqa: B009


@pytest.mark.parametrize(
    ("name", "strides", "options", "message"),
    [
        ("resnet18", (4, 64), {}, "resnet18 offers strides 4, 8, 16, 32; asked 4, 64"),
        ("resnet18", (), {}, "resnet18 offers strides 4, 8, 16, 32; asked none"),
        ("resnet18", (8, 8), {}, "asked 8, 8: one of them twice"),
        ("resnet18", None, {"width": 2}, "resnet18 has no option width; it accepts: none"),
        (
            "hrnet_w32",
            None,
            {"bilinear": True},
            "hrnet_w32 has no option bilinear; it accepts: upsample",
        ),
    ],
)
def test_what_a_backbone_does_not_have_is_refused(
    name: str, strides: Sequence[int] | None, options: dict[str, int], message: str
) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        create_backbone(name, strides=strides, **options)  # type: ignore[arg-type]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"no backbone called 'resnet19'.*resnet18") as caught:
        create_backbone("resnet19")
    assert caught.value.known == tuple(list_backbones())
    with pytest.raises(UnknownName, match="no backbone called 'resnet19'"):
        facts("resnet19")


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 64, 100), "multiples of 32, got 64 x 100; pad to 64 x 128"),
        ((1, 3, 0, 32), "multiples of 32, got 0 x 32; pad to 32 x 32"),
        ((1, 1, 64, 64), "expected images [N, 3, height, width], got [1, 1, 64, 64]"),
        ((3, 64, 64), "expected images [N, 3, height, width], got [3, 64, 64]"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(
    name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ShapeError, match=re.escape(message)):
        shapes_only(name)(torch.empty(shape, device="meta"))


def test_a_name_cannot_be_registered_twice() -> None:
    put = register(
        paper="none",
        input_size=(32, 32),
        parameters=0,
        multiply_adds=0,
        weights_origin="none",
        weights_licence="none",
    )

    def resnet18(strides: Sequence[int] = STRIDES) -> Backbone:
        return Backbone([FeatureSpec(stride, 1) for stride in strides])

    list_backbones()
    with pytest.raises(SpecError, match="two backbones are called 'resnet18'"):
        put(resnet18)


def test_a_backbone_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError):
        Backbone([FeatureSpec(4, 1)])(image())


def test_backbones_are_plain_modules() -> None:
    backbone = shapes_only("hrnet_w18_small", (4,))
    assert isinstance(nn.Sequential(backbone, nn.Identity()), nn.Module)
    assert all(not key.startswith("specs") for key in backbone.state_dict())
