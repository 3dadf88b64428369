"""The engine: names, what is missing, and each network doing only what it can."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from heads.checkpoint import save_checkpoint
from heads.classes import class_map
from heads.errors import DownloadError, WeightsMissing
from heads.image import decode_image, warp
from heads.network import build, input_tensor
from heads.spec import default_spec
from models.errors import UnknownName
from service.errors import InvalidParameter
from service.inference.answers import PoseOptions
from service.inference.engine import Engine
from service.inference.job import Job
from tests.conftest import ROOT

STREET = (ROOT / "docs" / "street.jpg").read_bytes()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of public weights."""
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def daring(cache: Path) -> Iterator[Engine]:
    """An engine that serves untrained networks."""
    del cache
    engine = Engine(allow_random=True)
    yield engine
    engine.close()


def test_an_official_hrnet_in_the_cache_becomes_the_default(cache: Path) -> None:
    assert Engine().default == "mobilenet_v2_heatmap"
    (entry,) = (m for m in Engine().models() if m.name == "hrnet_w32")
    assert entry.state == "weights-missing"
    from heads import zoo

    cache.mkdir()
    (cache / zoo.find("hrnet_w32").file).write_bytes(b"weights")
    assert Engine().default == "hrnet_w32"


def test_weights_are_asked_for_before_random_ones_are_served(cache: Path) -> None:
    del cache
    engine = Engine()
    with pytest.raises(WeightsMissing, match="hrpose weights get hrnet_w32"):
        engine.pose(STREET, "hrnet_w32+simple", PoseOptions(), Job())
    with pytest.raises(WeightsMissing, match="--allow-random"):
        engine.pose(STREET, "resnet18+deconv", PoseOptions(), Job())
    with pytest.raises(
        WeightsMissing, match=r"any segmentation network are not .* --model CHECKPOINT"
    ):
        engine.segment(STREET, None, Job())


def test_a_public_model_asked_for_at_start_is_downloaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRPOSE_OFFLINE", "1")
    engine = Engine(model="hrnet_w32")
    with pytest.raises(DownloadError, match="downloads are switched off") as caught:
        engine.start()
    assert str(cache) in str(caught.value)


def test_unknown_names_are_answered_with_those_there_are() -> None:
    for name in ("nonsense", "nonsense+", "hrnet_w32+nonsense", "nonsense+fuse"):
        with pytest.raises(UnknownName, match="movenet_thunder"):
            Engine().model(name)


def test_a_form_without_weights_is_refused_before_anything_is_built(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building a large network takes seconds and a gigabyte, and whoever asks may ask often."""
    del cache
    monkeypatch.setattr("heads.load.build", lambda _: pytest.fail("it was built"))
    with pytest.raises(WeightsMissing):
        Engine().pose(STREET, "hrnet_w64+simple", PoseOptions(), Job())


def test_a_head_that_a_backbone_has_no_maps_for_is_a_wrong_model(daring: Engine) -> None:
    with pytest.raises(InvalidParameter, match="stride") as error:
        daring.pose(STREET, "squeezenet1_0+fuse", PoseOptions(), Job())
    assert error.value.parameter == "model"


def test_a_detector_that_finds_nobody_is_refused_at_the_start() -> None:
    engine = Engine(detector="efficientnet_lite0")
    with pytest.raises(InvalidParameter, match="finds no people"):
        engine.start()
    engine.close()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="is no folder"):
        Engine(models_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("device", ["cuda:7", "nonsense"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    engine = Engine(device=device, detector="none")
    with pytest.raises(InvalidParameter, match=f"device {device} cannot be used") as error:
        engine.start()
    assert error.value.parameter == "device"
    engine.close()


def test_any_backbone_serves_any_head_by_name(daring: Engine) -> None:
    """Three backbones, three heads, one engine; answers of untrained networks say so."""
    box = PoseOptions(boxes_xywh=((326.0, 174.0, 71.0, 197.0),))
    for backbone in ("resnet18", "mobilenet_v2", "hrnet_w18_small"):
        pose = daring.pose(STREET, f"{backbone}+deconv", box, Job())
        assert pose.model == f"{backbone}+deconv (random weights)"
        assert len(pose.people) == 1
        shown = daring.classify(STREET, f"{backbone}+classify", 3, Job())
        assert shown.random_weights
        assert len(shown.classes) == 3
        regions = daring.segment(STREET, f"{backbone}+fpn", Job())
        assert regions.random_weights
        assert regions.class_map.shape == (428, 640)
        assert regions.class_map.max() < len(regions.class_names)
    assert len(daring.counters().keys() - {"movenet_multipose"}) == 9


def test_a_form_is_told_as_it_would_be_served(daring: Engine) -> None:
    careful = Engine()
    missing = careful.model("resnet18+deconv")
    assert (missing.state, missing.random_weights) == ("weights-missing", False)
    assert missing.command == "hrpose serve --allow-random"
    public = careful.model("hrnet_w32+simple")
    assert (public.state, public.command) == ("weights-missing", "hrpose weights get hrnet_w32")
    embedded = careful.model("mobilenet_v2+center")
    assert (embedded.state, embedded.random_weights) == ("available", False)
    assert embedded.scores
    random = daring.model("resnet18+deconv")
    assert (random.state, random.random_weights) == ("available", True)


def test_served_forms_are_listed_with_what_they_are(daring: Engine) -> None:
    form = "resnet18+classify"
    assert form not in {info.name for info in daring.models()}
    daring.classify(STREET, form, 3, Job())
    (info,) = (info for info in daring.models() if info.name == form)
    assert (info.state, info.task, info.random_weights) == ("loaded", "classify", True)
    assert info.parameters == 11_689_512
    assert daring.model(form) == info


def test_untrained_networks_are_the_same_at_every_start(daring: Engine) -> None:
    again = Engine(allow_random=True)
    first = daring.classify(STREET, "resnet18+classify", 3, Job())
    second = again.classify(STREET, "resnet18+classify", 3, Job())
    again.close()
    assert [c.index for c in first.classes] == [c.index for c in second.classes]


def test_a_network_does_only_what_it_can(daring: Engine) -> None:
    calls = (
        lambda: daring.pose(STREET, "resnet18+classify", PoseOptions(), Job()),
        lambda: daring.classify(STREET, "movenet_thunder", 3, Job()),
        lambda: daring.segment(STREET, "movenet_thunder", Job()),
        lambda: daring.detect(STREET, "movenet_thunder", None, 5, Job()),
    )
    for call in calls:
        with pytest.raises(InvalidParameter, match=r"cannot .*; name a") as caught:
            call()
        assert caught.value.parameter == "model"
    loaded = [info.name for info in daring.models() if info.state == "loaded"]
    assert loaded == []  # no other had to make room for what is refused


def test_nobody_is_told_to_download_what_cannot_do_it(cache: Path) -> None:
    del cache
    engine = Engine()
    calls = (
        lambda: engine.pose(STREET, "resnet50+classify", PoseOptions(), Job()),
        lambda: engine.classify(STREET, "hrnet_w32", 3, Job()),
        lambda: engine.segment(STREET, "hrnet_w32+simple", Job()),
        lambda: engine.detect(STREET, "hrnet_w32", None, 5, Job()),
    )
    for call in calls:
        with pytest.raises(InvalidParameter, match=r"cannot .*; name a"):
            call()


@pytest.mark.parametrize("task", ["classify", "fpn"])
def test_a_folders_network_or_the_default_does_what_no_network_was_named_for(
    cache: Path, tmp_path: Path, task: str
) -> None:
    """Segmentation has no embedded network: the folder's is taken. Classification has one."""
    del cache
    spec = default_spec(f"resnet18+{task}").model_copy(update={"name": "ours"})
    save_checkpoint(tmp_path / "ours.safetensors", spec, build(spec).state_dict())
    in_folder, default = (
        Engine(models_dir=tmp_path),
        Engine(model=str(tmp_path / "ours.safetensors")),
    )

    def answered(engine: Engine) -> str:
        if task == "classify":
            return engine.classify(STREET, None, 1, Job()).model
        return engine.segment(STREET, None, Job()).model

    assert answered(in_folder) == ("efficientnet_lite0" if task == "classify" else "ours")
    assert answered(default) == "ours"
    in_folder.close()
    default.close()


def test_a_checkpoint_file_is_served_under_its_name(tmp_path: Path) -> None:
    spec = default_spec("mobilenet_v2+segment").model_copy(update={"name": "mine"})
    network = build(spec).eval()
    image = decode_image(STREET)
    size = (image.shape[0], image.shape[1])
    view = spec.whole(size)
    images = torch.from_numpy(warp(image, view)[None])
    with torch.inference_mode():
        # Untrained, one class is the likeliest everywhere; without its lead there are many.
        logits = network(input_tensor(spec, images))
        assert isinstance(logits, torch.Tensor)
        lead = logits.mean(dim=(0, 2, 3))
        weights = network.state_dict()
        weights[next(name for name in reversed(weights) if weights[name].shape == (19,))] -= lead
        expected = class_map((logits[0] - lead[:, None, None]).numpy(), view, size)
    assert np.unique(expected).size > 5

    save_checkpoint(tmp_path / "x.safetensors", spec, weights)
    engine = Engine(model=str(tmp_path / "x.safetensors"))
    assert engine.default == "mine"
    engine.start()
    answer = engine.segment(STREET, None, Job())
    engine.close()
    assert answer.model == "mine"
    assert not answer.random_weights
    # Runtimes may differ where two classes are about as likely.
    assert (answer.class_map == expected).mean() > 0.99
