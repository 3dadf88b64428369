"""Classifiers and segmentation: official outputs, and what logits mean for an image."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
from torchvision.models import ResNet

from heads.classes import (
    CITYSCAPES,
    class_map,
    count_classes,
    imagenet_1k,
    likeliest,
    palette,
    probabilities,
)
from heads.classify import ClassificationHead
from heads.geometry import Crop
from heads.image import warp
from heads.load import load_public
from heads.network import build
from heads.spec import (
    BackboneSpec,
    ClassifyHead,
    HeadSpec,
    NetworkSpec,
    Option,
    SegmentHead,
    Task,
    default_spec,
)


def reference(shared: Path, name: str) -> Any:
    cases = json.loads((shared / "checkpoints" / "parity.json").read_text())["cases"]
    return next(case for case in cases if case["id"] == name)


def keys_of(shared: Path, name: str) -> Any:
    named = json.loads((shared / "checkpoints" / "public_keys.json").read_text())["networks"]
    return named[name]["keys"]


def assert_official(fill: Any, case: Any, output: Any) -> None:
    expected = case["output"]
    assert list(output.shape) == expected["shape"]
    values = output.flatten()[fill.sample_indices(output.numel())].numpy()
    np.testing.assert_allclose(values, expected["values"], rtol=0, atol=1e-5 * expected["std"])


def test_the_hrnet_classifier_is_the_official_one(shared: Path, fill: Any, tmp_path: Path) -> None:
    case = reference(shared, "cls_hrnet_w18_small_v1_224")
    path = tmp_path / "official.pth"
    torch.save(fill.filled(keys_of(shared, "cls_hrnet_w18_small_v1"), case["gain"]), path)
    network = load_public(path, default_spec("hrnet_w18_small+classify"))
    with torch.inference_mode():
        output = network(fill.make_input(case["input_shape"], case["input_key"]))
    assert_official(fill, case, output)


@pytest.mark.parametrize("align_corners", [False, True])
def test_hrnet_segmentation_is_the_official_one(
    shared: Path, fill: Any, tmp_path: Path, align_corners: bool
) -> None:
    """As the published files are: prefixed, and with the loss's class weights beside it."""
    suffix = "_align_corners_128x128" if align_corners else "_128x128"
    case = reference(shared, f"seg_hrnet_w18_small_v2{suffix}")
    state = fill.filled(keys_of(shared, "seg_hrnet_w18_small_v2"), case["gain"])
    path = tmp_path / "official.pth"
    torch.save(
        {f"model.{n}": t for n, t in state.items()} | {"loss.criterion.weight": torch.ones(19)},
        path,
    )
    spec = default_spec("hrnet_w18_small_v2+segment")
    if align_corners:
        options: dict[str, Option] = {"upsample": "bilinear_align_corners"}
        spec = spec.model_copy(
            update={
                "backbone": BackboneSpec(name="hrnet_w18_small_v2", options=options),
                "head": SegmentHead(align_corners=True),
            }
        )
    network = load_public(path, spec)
    with torch.inference_mode():
        output = network(fill.make_input(case["input_shape"], case["input_key"]))
    assert_official(fill, case, output)


def test_scales_of_inplace_norms_are_made_positive(shared: Path, fill: Any, tmp_path: Path) -> None:
    """Files of PyTorch 0.4 have no counters, and the sign of a scale means nothing."""
    state = fill.filled(keys_of(shared, "seg_hrnet_w18_small_v1"))
    plain = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    negative = {n: -t if n == "bn1.weight" else t for n, t in plain.items()}
    path = tmp_path / "old.pth"
    torch.save({f"model.{n}": t for n, t in negative.items()}, path)
    network = load_public(path, default_spec("hrnet_w18_small+segment"))
    scale = network.state_dict()["backbone.bn1.weight"]
    torch.testing.assert_close(scale, state["bn1.weight"] + 1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvision_classifiers_load_key_for_key(tmp_path: Path, name: str) -> None:
    twin: ResNet = getattr(torchvision.models, name)(weights=None).eval()
    path = tmp_path / "twin.pth"
    torch.save(twin.state_dict(), path)
    network = load_public(path, default_spec(f"{name}+classify"))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = network(x), twin(x)
    assert isinstance(ours, torch.Tensor)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.std()


@pytest.mark.parametrize("backbone", ["hrnet_w18_small", "resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("head", ["classify", "segment", "fpn"])
def test_every_backbone_carries_every_head(backbone: str, head: str) -> None:
    network = build(default_spec(f"{backbone}+{head}")).eval()
    with torch.inference_mode():
        output = network(torch.randn(2, 3, 64, 96))
    assert isinstance(output, torch.Tensor)
    assert list(output.shape) == ([2, 1000] if head == "classify" else [2, 19, 16, 24])
    assert output.std() > 0


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax"])
def test_pooling_is_what_it_says(pool: Any) -> None:
    spec = default_spec("resnet18+classify").model_copy(update={"head": ClassifyHead(pool=pool)})
    network = build(spec).eval()
    assert isinstance(network.head, ClassificationHead)
    maps = network.backbone(torch.randn(1, 3, 64, 64))
    means, peaks = maps[-1].mean(dim=(2, 3)), maps[-1].amax(dim=(2, 3))
    pooled = {"avg": means, "max": peaks, "avgmax": torch.cat([means, peaks], dim=1)}[pool]
    torch.testing.assert_close(network.head(maps), network.head.classifier(pooled))


@pytest.mark.parametrize(
    ("task", "head", "classes", "reason"),
    [
        ("pose", ClassifyHead(), 0, "a classify head cannot pose"),
        ("segment", SegmentHead(), 257, "for 256 classes; got 257"),
        ("classify", ClassifyHead(), 0, "needs the names of its classes"),
    ],
)
def test_what_cannot_do_the_task_is_refused(
    task: Task, head: HeadSpec, classes: int, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        NetworkSpec(
            name="x",
            task=task,
            backbone=BackboneSpec(name="resnet18"),
            head=head,
            input_size=(64, 64),
            classes=tuple(map(str, range(classes))),
        )


def test_class_names_are_complete() -> None:
    assert len(imagenet_1k()) == 1000 == len(set(imagenet_1k()))
    assert imagenet_1k()[207] == "golden retriever"
    assert len(CITYSCAPES) == 19


def test_probabilities_sum_to_one_and_do_not_overflow() -> None:
    logits = np.array([1000.0, 999.0, -1000.0], np.float32)
    assert probabilities(logits).sum() == pytest.approx(1)
    (first, share), (second, _) = likeliest(logits, 2)
    assert (first, second) == (0, 1)
    assert share == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-5)


@pytest.mark.parametrize(("height", "width"), [(300, 500), (500, 300)])
def test_every_pixel_gets_the_class_of_its_place(height: int, width: int) -> None:
    """Half class 1, half class 2, divided on the border of two cells: not a pixel is wrong."""
    view = Crop.letterbox((height, width), 96, multiple=32, max_long=160)
    h, w = view.input_size[0] // 4, view.input_size[1] // 4
    for axis in (0, 1):
        half = round((height, width)[axis] / 2 * 96 / min(height, width) / 4)  # cells
        second = np.broadcast_to(np.indices((h, w))[axis] >= half, (h, w))
        logits = np.stack([np.zeros((h, w)), 5.0 * ~second, 5.0 * second]).astype(np.float32)
        found = class_map(logits, view, (height, width))
        expected = 1 + (np.indices((height, width))[axis] >= (height, width)[axis] / 2)
        np.testing.assert_array_equal(found, expected)


def test_a_class_map_is_made_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which changes nothing but what it takes; between two of them it can be ended."""
    logits = np.random.default_rng(0).normal(size=(5, 24, 40)).astype(np.float32)
    size = (300, 500)
    view = Crop.letterbox(size, 96, multiple=32, max_long=160)
    whole = class_map(logits, view, size)
    monkeypatch.setattr("heads.classes.STRIP_PIXELS", 7 * 500 + 100)
    calls: list[int] = []
    parts = class_map(logits, view, size, between=lambda: calls.append(1))
    assert len(calls) == math.ceil(300 / 7)
    assert (parts != whole).mean() < 1e-4  # a place is rounded to 1/32 of a cell from each top
    np.testing.assert_array_equal(count_classes(parts, 6), np.bincount(parts.ravel(), minlength=6))

    def stop() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        class_map(logits, view, size, between=stop)


def test_the_middle_of_an_image_is_the_usual_centre_crop() -> None:
    """Short side to 256, then the middle 224 x 224: the evaluation of ImageNet classifiers."""
    y, x = np.mgrid[0:512, 0:768]
    image = np.stack([x // 4, y // 4, x * 0], axis=2).astype(np.uint8)
    seen = warp(image, Crop.middle((512, 768), (224, 224), 0.875))
    left, right = (768 / 2 - 224) / 4, (768 / 2 + 224) / 4
    assert seen[0, 0, 0] == pytest.approx(left, abs=1)
    assert seen[0, -1, 0] == pytest.approx(right, abs=1)


def test_palette_colours_differ() -> None:
    colours = palette(256)
    assert len(set(colours)) == 256
    assert colours[:3] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
