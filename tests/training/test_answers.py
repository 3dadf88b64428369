"""Views in slices, and all of them in the answer."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heads.network import build
from heads.spec import default_spec
from training.answers import answers


@pytest.mark.parametrize("form", ["mobilenet_v2+fuse", "mobilenet_v2+center"])
def test_a_crowd_is_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    spec = default_spec(form, input_size=(64, 64))
    network = build(spec)
    views = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    expected = answers(network, spec, views)
    sizes = []

    def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
        sizes.append(len(inputs[0]))

    monkeypatch.setattr("training.answers.LOOKED_AT", 2)
    network.register_forward_pre_hook(note)
    torch.testing.assert_close(answers(network, spec, views), expected)
    assert sizes == [2, 2, 1]
