"""The paper's figure 3: three blocks that look different and compute the same."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import create_backbone
from models.blocks import Bottleneck

CARDINALITY = 32


def block_and_input() -> tuple[Bottleneck, Tensor]:
    """The second block of resnext50_32x4d in 64-bit numbers: no stride, no projection."""
    generator = torch.Generator().manual_seed(0)
    block = create_backbone("resnext50_32x4d", strides=(4,)).get_submodule("layer1.1")
    assert isinstance(block, Bottleneck)
    for layer in block.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(layer.bias, std=0.1, generator=generator)
    return block.double().eval(), torch.randn(1, 256, 8, 6, generator=generator).double()


def paths(block: Bottleneck, x: Tensor) -> list[Tensor]:
    """Each of the 32 paths from 256 to 4 channels and through its own 3x3 convolution."""

    def norm(y: Tensor, layer: nn.BatchNorm2d, part: slice) -> Tensor:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        return functional.batch_norm(
            y,
            layer.running_mean[part],
            layer.running_var[part],
            layer.weight[part],
            layer.bias[part],
            eps=layer.eps,
        ).relu()

    width = block.conv2.out_channels // CARDINALITY
    out = []
    for path in range(CARDINALITY):
        part = slice(path * width, (path + 1) * width)
        narrow = norm(functional.conv2d(x, block.conv1.weight[part]), block.bn1, part)
        wide = functional.conv2d(narrow, block.conv2.weight[part], padding=1)
        out.append(norm(wide, block.bn2, part))
    return out


def test_the_three_forms_of_a_block_are_equal() -> None:
    block, x = block_and_input()
    with torch.inference_mode():
        grouped = block(x)  # (c): one grouped convolution
        every = paths(block, x)
        last = block.conv3.weight
        summed = torch.stack(  # (a): each path widens by itself, then all are added
            [
                functional.conv2d(y, w)
                for y, w in zip(every, last.chunk(CARDINALITY, 1), strict=True)
            ]
        ).sum(0)
        joined = functional.conv2d(torch.cat(every, 1), last)  # (b): concatenated, widened once
        for form in (summed, joined):
            out = (block.bn3(form) + x).relu()
            torch.testing.assert_close(out, grouped, rtol=1e-12, atol=1e-12)
