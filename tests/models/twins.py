"""Every backbone and its public twin: the same random weights, and how far their classes differ.

    python -m tests.models.twins docs/parity.json      # `make parity`; some minutes

The twin is a classifier of torchvision, timm or pytorchcv. Its random weights go through our rename
table into `<backbone>+classify`, strictly; both see the same images. `docs/backbones.md` shows the
differences, `tests/models/test_twins.py` and its neighbours compare maps and gradients as well.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torchvision
from pytorchcv.model_provider import get_model
from rich.progress import track
from torch import Tensor, nn

from heads.network import Network, build
from heads.spec import BackboneSpec, Option, default_spec
from models.weights import load_strict, rename

Library = Literal["torchvision", "timm", "pytorchcv"]


@dataclass(frozen=True)
class Twin:
    """A public network that computes what ours does.

    name: in its library.  score: of its public weights, as their library says it.
    options: of our backbone, where its usual ones are for maps of exact sizes.
    side: of the square images that both see.
    """

    library: Library
    name: str
    score: str
    options: dict[str, Option] = field(default_factory=dict)
    side: int = 64


def twins() -> dict[str, Twin]:
    """By the name of our backbone."""
    return _torchvision() | _timm() | _pytorchcv()


def _torchvision() -> dict[str, Twin]:
    """Backbones with torchvision's names; scores are those of its first weights."""
    models: Any = torchvision.models
    names = [
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
        *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
        *(f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")),
        *("squeezenet1_0", "squeezenet1_1", "googlenet", "inception_v3"),
        *(f"efficientnet_b{size}" for size in range(8)),
    ]
    found = {}
    for name in names:
        meta = models.get_model_weights(name)["IMAGENET1K_V1"].value.meta
        top1 = meta["_metrics"]["ImageNet-1K"]["acc@1"]
        unpadded: dict[str, Option] = {"padding": "valid"}
        options = unpadded if name in ("squeezenet1_0", "squeezenet1_1", "inception_v3") else {}
        side = 128 if name == "inception_v3" else 64
        found[name] = Twin("torchvision", name, f"top-1 {top1:.1f}", options, side)
    return found


# Ours: timm's name with the tag of the weights, and their top-1 from timm's
# results/results-imagenet.csv (commit aa4b5850) at the size they were published for.
_TIMM = {
    "hrnet_w18_small": ("hrnet_w18_small.ms_in1k", 72.34),
    "hrnet_w18_small_v2": ("hrnet_w18_small_v2.ms_in1k", 75.094),
    "hrnet_w18": ("hrnet_w18.ms_in1k", 76.77),
    "hrnet_w30": ("hrnet_w30.ms_in1k", 78.202),
    "hrnet_w32": ("hrnet_w32.ms_in1k", 78.452),
    "hrnet_w40": ("hrnet_w40.ms_in1k", 78.928),
    "hrnet_w44": ("hrnet_w44.ms_in1k", 78.89),
    "hrnet_w48": ("hrnet_w48.ms_in1k", 79.328),
    "hrnet_w64": ("hrnet_w64.ms_in1k", 79.458),
    "resnet50c": ("resnet50c.gluon_in1k", 78.016),
    "resnet101c": ("resnet101c.gluon_in1k", 79.542),
    "resnet152c": ("resnet152c.gluon_in1k", 79.904),
    "resnet18d": ("resnet18d.ra2_in1k", 72.296),
    "resnet34d": ("resnet34d.ra2_in1k", 77.108),
    "resnet50d": ("resnet50d.gluon_in1k", 79.08),
    "resnet101d": ("resnet101d.gluon_in1k", 80.466),
    "resnet152d": ("resnet152d.gluon_in1k", 80.476),
    "resnetv2_18": ("resnetv2_18.ra4_e3600_r224_in1k", 73.572),
    "resnetv2_34": ("resnetv2_34.ra4_e3600_r224_in1k", 77.626),
    "resnetv2_50": ("resnetv2_50.a1h_in1k", 80.41),
    "resnetv2_101": ("resnetv2_101.a1h_in1k", 82.042),
    "resnetv2_152": ("resnetv2_152", None),
    "se_resnet50": ("legacy_seresnet50.in1k", 77.65),
    "se_resnet101": ("legacy_seresnet101.in1k", 78.37),
    "se_resnet152": ("legacy_seresnet152.in1k", 78.662),
    "se_resnext50_32x4d": ("legacy_seresnext50_32x4d.in1k", 79.08),
    "se_resnext101_32x4d": ("legacy_seresnext101_32x4d.in1k", 80.274),
    "senet154": ("legacy_senet154.in1k", 81.32),
    "res2net50_26w_4s": ("res2net50_26w_4s.in1k", 77.994),
    "res2net50_26w_6s": ("res2net50_26w_6s.in1k", 78.586),
    "res2net50_26w_8s": ("res2net50_26w_8s.in1k", 78.95),
    "res2net50_48w_2s": ("res2net50_48w_2s.in1k", 77.528),
    "res2net50_14w_8s": ("res2net50_14w_8s.in1k", 78.142),
    "res2net101_26w_4s": ("res2net101_26w_4s.in1k", 79.192),
    "resnest14d": ("resnest14d.gluon_in1k", 75.516),
    "resnest26d": ("resnest26d.gluon_in1k", 78.476),
    "resnest50d": ("resnest50d.in1k", 80.958),
    "resnest101e": ("resnest101e.in1k", 82.916),
    "resnest200e": ("resnest200e.in1k", 83.88),
    "resnest269e": ("resnest269e.in1k", 84.542),
    "resnest50d_1s4x24d": ("resnest50d_1s4x24d.in1k", 81.024),
    "resnest50d_4s2x40d": ("resnest50d_4s2x40d.in1k", 81.146),
    "inception_v4": ("inception_v4.tf_in1k", 80.144),
    "inception_resnet_v2": ("inception_resnet_v2.tf_in1k", 80.434),
    "efficientnet_lite0": ("tf_efficientnet_lite0.in1k", 74.846),
    "efficientnet_lite1": ("tf_efficientnet_lite1.in1k", 76.674),
    "efficientnet_lite2": ("tf_efficientnet_lite2.in1k", 77.47),
    "efficientnet_lite3": ("tf_efficientnet_lite3.in1k", 79.808),
    "efficientnet_lite4": ("tf_efficientnet_lite4.in1k", 81.54),
}


def _timm() -> dict[str, Twin]:
    found = {}
    for ours, (name, top1) in _TIMM.items():
        inception = ours.startswith("inception")
        options: dict[str, Option] = {"padding": "valid"} if inception else {}
        score = "no weights published" if top1 is None else f"top-1 {top1:.1f}"
        found[ours] = Twin("timm", name, score, options, 128 if inception else 64)
    return found


# Ours: pytorchcv's name, and the top-5 error of its weights in hundredths of a percent, as its
# own table of files says it.
_PYTORCHCV = {
    "mobilenet_v1": ("mobilenet_w1", 895),
    "shufflenet_v1_g1": ("shufflenet_g1_w1", 1389),
    "shufflenet_v1_g2": ("shufflenet_g2_w1", 1363),
    "shufflenet_v1_g3": ("shufflenet_g3_w1", 1348),
    "shufflenet_v1_g4": ("shufflenet_g4_w1", 1335),
    "shufflenet_v1_g8": ("shufflenet_g8_w1", 1342),
    "inception_v2": ("bninception", 774),
}


def _pytorchcv() -> dict[str, Twin]:
    return {
        # Its pooling is of 7 x 7 cells, so it reads images of 224 x 224 only.
        ours: Twin("pytorchcv", name, f"top-5 {100 - error / 100:.1f}", side=224)
        for ours, (name, error) in _PYTORCHCV.items()
    }


def create(twin: Twin) -> nn.Module:
    """The public network with random weights, and batch norms that do something."""
    network: nn.Module
    if twin.library == "torchvision":
        options = {"init_weights": False} if twin.name in ("googlenet", "inception_v3") else {}
        models: Any = torchvision.models
        network = getattr(models, twin.name)(weights=None, **options)
    elif twin.library == "timm":
        network = timm.create_model(twin.name)
    else:
        network = get_model(twin.name, pretrained=False)
    return randomised(network)


def randomised(network: nn.Module) -> nn.Module:
    """Random weights, and statistics of batch norm that are not 0 and 1; in evaluation mode."""
    generator = torch.Generator().manual_seed(7)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1, generator=generator)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(std=0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(layer.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(layer.bias, std=0.1, generator=generator)
    return network.eval()


def network_of(name: str, twin: Twin) -> Network:
    """Our classifier over that backbone, with fresh weights."""
    spec = default_spec(f"{name}+classify")
    backbone = BackboneSpec(name=name, options=twin.options)
    return build(spec.model_copy(update={"backbone": backbone}))


def relative_difference(name: str, twin: Twin) -> float:
    """Of the classes of two images: the largest difference over their standard deviation."""
    theirs, ours = create(twin), network_of(name, twin).eval()
    load_strict(ours, rename(theirs.state_dict()), twin.name)
    shape = (2, 3, twin.side, twin.side)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(8))
    with torch.inference_mode():
        a, b = ours(x), theirs(x)
    assert isinstance(a, Tensor)
    return float((a - b).abs().max() / b.std())


def main(target: Path) -> None:
    """Measures every pair, one after the other, and writes the table."""
    torch.set_num_threads(1)
    rows = {}
    for name, twin in track(sorted(twins().items()), "twins"):
        rows[name] = {
            "twin": f"{twin.library} {twin.name}",
            "difference": float(f"{relative_difference(name, twin):.1e}"),
            "score": twin.score,
        }
    target.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
