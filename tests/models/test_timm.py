"""Networks of timm under our contract: timm's own maps, and refusals in words."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from heads.network import build
from heads.spec import BackboneSpec, default_spec
from models import FeatureSpec, create_backbone, list_backbones
from models.backbone import facts
from models.errors import HrposeError, ShapeError, SpecError, UnknownName, WeightsError
from models.profile import profile
from models.weights import load_weights

# Small ones of each way in which timm finds maps: a list of stages, a class of its own, plain ViT.
MODELS = {
    "test_resnet": (4, 8, 16, 32),
    "test_convnext": (4, 8, 16, 32),
    "test_efficientnet": (4, 8, 16, 32),
    "test_vit": (16,),
    "mobilenetv3_small_050": (4, 8, 16, 32),
    "efficientvit_m0": (16, 32),
}
SWIN = "swin_tiny_patch4_window7_224"  # answers [N, H, W, C] and reads one size


def image(height: int = 224, width: int = 224) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model", [*MODELS, SWIN])
def test_maps_are_those_of_timms_own_feature_network(model: str) -> None:
    twin: Any = timm.create_model(model, features_only=True).eval()
    torch.manual_seed(0)
    full = timm.create_model(model)
    backbone = create_backbone(f"timm/{model}").eval()
    state = full.state_dict()
    load_weights(backbone, state)
    plain = {key.removeprefix("model.").replace(".", "_"): key for key in twin.state_dict()}
    twin.load_state_dict(
        {plain[k.replace(".", "_")]: v for k, v in state.items() if k.replace(".", "_") in plain}
    )
    height, width = facts(f"timm/{model}").input_size
    with torch.inference_mode():
        found, theirs = backbone(image(height, width)), twin(image(height, width))
    deepest = dict(zip(twin.feature_info.reduction(), theirs, strict=True))
    assert tuple(spec.stride for spec in backbone.specs) == MODELS.get(model, (4, 8, 16, 32))
    for spec, x in zip(backbone.specs, found, strict=True):
        expected = deepest[spec.stride]
        if model == SWIN:
            expected = expected.permute(0, 3, 1, 2)
        assert x.shape == (1, spec.channels, height // spec.stride, width // spec.stride)
        assert (x - expected).abs().max() <= 1e-6 * expected.std()


@pytest.mark.parametrize("model", MODELS)
def test_a_file_of_timm_is_loaded_strictly(model: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    full = timm.create_model(model)
    save_file(full.state_dict(), tmp_path / "model.safetensors")
    stride = MODELS[model][0]
    backbone = create_backbone(
        f"timm/{model}", strides=(stride,), weights=tmp_path / "model.safetensors"
    )
    values = {name.replace(".", "_"): tensor for name, tensor in full.state_dict().items()}
    for name, tensor in backbone.state_dict().items():
        plain = name.removeprefix("network.").removeprefix("model.").replace(".", "_")
        assert torch.equal(tensor, values[plain])
    short = dict(full.state_dict())
    del short[next(iter(short))]
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(WeightsError, match=r"short\.safetensors does not fit.*1 missing"):
        create_backbone(f"timm/{model}", weights=tmp_path / "short.safetensors")
    save_file({**full.state_dict(), "more": torch.ones(1)}, tmp_path / "more.safetensors")
    with pytest.raises(WeightsError, match=r"1 unexpected \(more\)"):
        create_backbone(f"timm/{model}", weights=tmp_path / "more.safetensors")


@pytest.mark.parametrize("model", MODELS)
def test_own_weights_come_back_whole_or_in_part(model: str, tmp_path: Path) -> None:
    saved = create_backbone(f"timm/{model}")
    save_file(saved.state_dict(), tmp_path / "saved.safetensors")
    for strides in (None, MODELS[model][:1]):
        loaded = create_backbone(
            f"timm/{model}", strides=strides, weights=tmp_path / "saved.safetensors"
        )
        for key, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, saved.state_dict()[key])


@pytest.mark.parametrize("model", MODELS)
def test_only_what_the_asked_strides_need_is_built(model: str) -> None:
    name = f"timm/{model}"
    stride = MODELS[model][0]
    whole, part = create_backbone(name), create_backbone(name, strides=(stride,))
    assert part.specs == whole.specs[:1]
    if len(MODELS[model]) > 1:
        assert len(part.state_dict()) < len(whole.state_dict())
    maps = part.train()(image(*facts(name).input_size).expand(2, -1, -1, -1))
    maps[0].square().mean().backward()
    assert [key for key, value in part.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("model", MODELS)
def test_facts_are_measured(model: str) -> None:
    known = facts(f"timm/{model}")
    assert known.strides == MODELS[model]
    measured = profile(create_backbone(f"timm/{model}"), known.input_size)
    assert (measured.parameters, measured.multiply_adds) == (
        known.parameters,
        known.multiply_adds,
    )
    assert model in known.paper
    assert known.weights_licence
    assert known.weights_origin


def test_a_name_may_say_which_weights_it_means() -> None:
    plain, tagged = facts("timm/resnet18"), facts("timm/resnet18.tv_in1k")
    assert tagged.parameters == plain.parameters == facts("resnet18").parameters
    assert tagged.weights_origin == "timm (tv_in1k)"
    assert tagged.weights_licence == "bsd-3-clause"


def test_a_network_with_a_head_has_a_gradient_everywhere() -> None:
    network = build(default_spec("timm/resnet18+simple"))
    assert [spec.stride for spec in network.backbone.specs] == [4]
    heatmaps = network(torch.randn(2, 3, 256, 192))
    assert isinstance(heatmaps, Tensor)
    assert heatmaps.shape == (2, 17, 64, 48)
    heatmaps.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_whole_network_comes_back_from_its_own_file(tmp_path: Path) -> None:
    saved, loaded = (build(default_spec("timm/test_convnext+simple")) for _ in range(2))
    save_file(saved.state_dict(), tmp_path / "network.safetensors")
    load_weights(loaded, tmp_path / "network.safetensors")
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[key])


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        ("timm/test_convnext+fuse", (17, 64, 48)),
        ("timm/test_convnext+deconv", (17, 64, 48)),
        ("timm/test_resnet+fpn", (19, 64, 48)),
        ("timm/efficientvit_m0+classify", (1000,)),
    ],
)
def test_other_heads_fit_too(network: str, shape: tuple[int, ...]) -> None:
    built = build(default_spec(network)).eval()
    with torch.inference_mode():
        answer = built(image() if "classify" in network else image(256, 192))
    assert isinstance(answer, Tensor)
    assert answer.shape == (1, *shape)


def test_a_network_of_one_size_is_built_for_another() -> None:
    spec = default_spec(f"timm/{SWIN}+simple")
    options: dict[str, tuple[int, ...]] = {"image_size": (256, 192)}
    resized = BackboneSpec(name=spec.backbone.name, options={**options})
    network = build(spec.model_copy(update={"backbone": resized})).eval()
    with torch.inference_mode():
        heatmaps = network(image(256, 192))
    assert isinstance(heatmaps, Tensor)
    assert heatmaps.shape == (1, 17, 64, 48)
    plain = create_backbone(spec.backbone.name, strides=(4,))
    with pytest.raises(ShapeError, match=r"reads 224 x 224 only, got 256 x 192; .*image_size"):
        plain(image(256, 192))


def test_list_backbones_names_none_of_them() -> None:
    assert list_backbones("timm*") == []
    assert facts("timm/resnet18")
    assert list_backbones("timm*") == []


@pytest.mark.parametrize("name", ["timm/resnet19", "timm/resnet18.nobody", "timm/", "timm/a/b"])
def test_a_model_that_timm_lacks_is_refused_with_its_neighbours(name: str) -> None:
    with pytest.raises(UnknownName, match="there is no timm model called") as caught:
        facts(name)
    assert 0 < len(caught.value.known) <= 8
    for known in caught.value.known:
        assert timm.is_model(known.removeprefix("timm/").partition(".")[0])


@pytest.mark.parametrize(
    ("name", "strides", "options", "message"),
    [
        ("timm/resnet18", (2, 4), {}, "timm/resnet18 offers strides 4, 8, 16, 32; asked 2, 4"),
        ("timm/test_vit", (4, 16), {}, "offers strides 16; asked 4, 16"),
        ("timm/resnet18", (4,), {"width": 1}, "has no option width; it accepts: image_size"),
        ("timm/resnet18", (4,), {"image_size": (256, 192)}, "cannot be built for images of 256 x"),
        (f"timm/{SWIN}", (4,), {"image_size": (250, 192)}, "multiples of 32"),
        ("timm/vit_small_patch14_dinov2", None, {}, "has maps of stride 14; a backbone needs some"),
        ("timm/inception_v3", None, {}, "gives [1, 192, 76, 76] at stride 4"),
    ],
)
def test_what_a_model_does_not_have_is_refused(
    name: str, strides: tuple[int, ...] | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        create_backbone(name, strides=strides, **options)


def test_a_head_that_needs_other_strides_is_refused_in_words() -> None:
    with pytest.raises(SpecError, match=r"simple head needs maps of stride 4: .*offers strides 16"):
        build(default_spec("timm/test_vit+simple"))


def test_inputs_are_checked_as_everywhere() -> None:
    with pytest.raises(ShapeError, match="pad to 64 x 128"):
        create_backbone("timm/resnet18")(image(64, 100))


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for ask in (facts, create_backbone):
        with pytest.raises(HrposeError, match=re.escape("pip install '.[timm]'")):
            ask("timm/resnet18")
    assert create_backbone("resnet18", strides=(4,)).specs == (FeatureSpec(4, 64),)
