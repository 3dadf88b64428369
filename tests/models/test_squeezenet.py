"""SqueezeNet against torchvision's, and the paper's counts."""

from typing import Any

import pytest
import torch
import torchvision.models

from heads.network import build
from heads.spec import BackboneSpec, default_spec
from models import create_backbone
from models.errors import SpecError
from models.weights import load_strict, rename


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_logits_are_torchvisions(name: str) -> None:
    twin: Any = getattr(torchvision.models, name)(weights=None).eval()
    spec = default_spec(f"{name}+classify")
    valid = BackboneSpec(name=name, options={"padding": "valid"})
    network = build(spec.model_copy(update={"backbone": valid})).eval()
    load_strict(network, rename(twin.state_dict(), "torchvision"), name)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = network(x), twin(x)
    assert isinstance(ours, torch.Tensor)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.std()


def test_it_has_a_fiftieth_of_alexnets_parameters() -> None:
    network = build(default_spec("squeezenet1_0+classify"))
    count = sum(p.numel() for p in network.parameters())
    assert count == 1_248_424  # table 1's 1.24 million
    assert 60_965_224 / count > 48  # AlexNet's, with one column's worth of groups


def test_maps_fit_the_strides() -> None:
    maps = create_backbone("squeezenet1_1")(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(128, 16, 24), (256, 8, 12), (512, 4, 6)]


def test_a_head_that_needs_stride_32_is_refused_in_words() -> None:
    with pytest.raises(
        SpecError, match=r"deconv head needs maps of stride 32.*offers strides 4, 8, 16"
    ):
        build(default_spec("squeezenet1_1+deconv"))


def test_two_pools_would_be_twice_the_classes_and_are_refused() -> None:
    spec = default_spec("squeezenet1_1+classify")
    twice = spec.head.model_copy(update={"pool": "avgmax"})
    with pytest.raises(SpecError, match="once, by avg or max"):
        build(spec.model_copy(update={"head": twice}))
