"""ShuffleNet against pytorchcv's, and the paper's counts."""

import re

import pytest
import torch
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

from heads.network import Network, build
from heads.spec import BackboneSpec, default_spec
from models import create_backbone
from models.blocks import shuffle
from models.errors import SpecError
from models.profile import profile
from models.shufflenet_v1 import Unit
from models.weights import load_weights, rename
from tests.models.twins import randomised

GROUPS = (1, 2, 3, 4, 8)
# (groups, width) -> the twin
TWINS = {
    **{(groups, 1.0): f"shufflenet_g{groups}_w1" for groups in GROUPS},
    **{(groups, 0.75): f"shufflenet_g{groups}_w3d4" for groups in (1, 3)},
    **{(groups, 0.5): f"shufflenet_g{groups}_wd2" for groups in (1, 3)},
    **{(groups, 0.25): f"shufflenet_g{groups}_wd4" for groups in (1, 3)},
}
LAST_LAYERS = ("features.init_block", "features.stage1", "features.stage2", "features.stage3")


def classifier(groups: int, width: float = 1.0) -> Network:
    name = f"shufflenet_v1_g{groups}"
    backbone = BackboneSpec(name=name, options={"width_multiplier": width})
    spec = default_spec(f"{name}+classify")
    return build(spec.model_copy(update={"backbone": backbone})).eval()


@pytest.mark.parametrize(("groups", "width"), TWINS)
def test_maps_and_logits_are_pytorchcvs(groups: int, width: float) -> None:
    twin, ours = randomised(get_model(TWINS[groups, width])), classifier(groups, width)
    load_weights(ours, twin.state_dict())
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(8))
    theirs: list[Tensor] = []
    for layer in LAST_LAYERS:
        twin.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output: theirs.append(output.clone())
        )
    with torch.inference_mode():
        theirs.append(twin(x))
        logits = ours(x)
        assert isinstance(logits, Tensor)
        found = [*ours.backbone(x), logits]
    for a, b in zip(found, theirs, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-5 * b.std()


@pytest.mark.parametrize("groups", GROUPS)
def test_a_training_step_has_the_gradients_of_the_twin(groups: int) -> None:
    # 64-bit: with few values a channel, batch norm would make rounding errors large.
    twin = randomised(get_model(TWINS[groups, 1.0])).double().train()
    ours = create_backbone(f"shufflenet_v1_g{groups}").double().train()
    load_weights(ours, twin.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(9)).double()
    features = twin.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    theirs: Tensor = features[:-1](x)  # without the pooling
    target = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(10)).double()
    (theirs * target).sum().backward()
    (ours(x)[-1] * target).sum().backward()
    named = {key: p.grad for key, p in twin.named_parameters() if p.grad is not None}
    expected = {key.removeprefix("backbone."): grad for key, grad in rename(named).items()}
    found = {key: p.grad for key, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for key, grad in found.items():
        assert grad is not None, key
        scale = expected[key].abs().max().item()
        torch.testing.assert_close(grad, expected[key], rtol=0, atol=1e-5 * scale + 1e-9)


@pytest.mark.parametrize(
    ("groups", "mega_adds"), [(1, 143), (2, 140), (3, 137), (4, 133), (8, 137)]
)
def test_each_column_of_table_1_costs_what_it_says(groups: int, mega_adds: int) -> None:
    measured = profile(create_backbone(f"shufflenet_v1_g{groups}"), (224, 224))
    assert measured.multiply_adds / 1e6 == pytest.approx(mega_adds, abs=0.51)


@pytest.mark.parametrize("groups", [2, 3, 4, 8])
def test_groups_meet_by_the_shuffle_alone(groups: int) -> None:
    """Figure 1: which outputs of a unit's branch one group of its input can change."""
    channels = 4 * groups * groups  # so that each group sends a channel to each other one
    unit = Unit(channels, channels, 1, groups, groups).eval()
    for layer in (unit.conv1, unit.conv2, unit.conv3):
        nn.init.constant_(layer.weight, 0.1)  # so no effect is lost behind a ReLU
    size = channels // groups

    def changed(shuffled: bool) -> list[bool]:
        """For each group of the output, whether it sees group 0 of the input."""

        def branch(x: Tensor) -> Tensor:
            y = unit.conv1(x)
            y = unit.conv3(unit.conv2(shuffle(y, groups) if shuffled else y))
            assert isinstance(y, Tensor)
            return y

        x = torch.ones(1, channels, 3, 3)
        other = x.clone()
        other[:, :size] += 1
        seen = (branch(x) - branch(other)).abs().amax(dim=(0, 2, 3)) > 1e-6
        return [bool(part.any()) for part in seen.view(groups, size)]

    assert changed(shuffled=False) == [True] + [False] * (groups - 1)
    assert changed(shuffled=True) == [True] * groups


@pytest.mark.parametrize("groups", [2, 3, 8])
def test_a_shuffle_is_undone_by_the_shuffle_of_the_other_factor(groups: int) -> None:
    x = torch.randn(2, 24, 3, 2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(shuffle(shuffle(x, groups), 24 // groups), x)
    assert not torch.equal(shuffle(x, groups), x)


def test_a_unit_costs_what_section_3_2_says() -> None:
    """Hw (2cm/g + 9m) for c channels and a bottleneck of m; a ResNet's unit has hw (2cm + 9mm)."""
    c, m, groups, size = 240, 60, 3, 28
    unit = profile(Unit(c, c, 1, groups, groups), (size, size), channels=c)
    assert unit.multiply_adds == size**2 * (2 * c * m // groups + 9 * m)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("width", [0.25, 0.35, 0.5, 0.75, 1.5, 2.0])
def test_every_width_has_channels_that_the_groups_divide(groups: int, width: float) -> None:
    name = f"shufflenet_v1_g{groups}"
    with torch.device("meta"):
        published = [spec.channels for spec in create_backbone(name).specs]
        scaled = [spec.channels for spec in create_backbone(name, width_multiplier=width).specs]
    for ours, theirs in zip(scaled[1:], published[1:], strict=True):
        assert ours % (4 * groups) == 0
        assert ours == pytest.approx(theirs * width, abs=8 * groups)
    assert scaled[1] * 4 == scaled[2] * 2 == scaled[3]


def test_a_width_that_is_not_positive_is_refused() -> None:
    with pytest.raises(SpecError, match=re.escape("width_multiplier must be positive, got 0")):
        create_backbone("shufflenet_v1_g3", width_multiplier=0)
