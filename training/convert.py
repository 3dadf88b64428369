"""Makes the checkpoints in heads/pretrained from the files they come from.

    python -m training.convert SOURCE_FOLDER [OUTPUT_FOLDER]

SOURCE_FOLDER holds movenet_multipose.safetensors, movenet_thunder.safetensors (MoveNet's published
tensors in PyTorch order, float16). The specs below say
what the files themselves do not; every tensor must find its place.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from heads.checkpoint import save_checkpoint
from heads.network import build
from heads.spec import (
    BackboneSpec,
    CenterHead,
    Glance,
    NetworkSpec,
    Normalisation,
    Provenance,
    View,
)
from models.weights import load_strict, read_state

# The published graphs compute value * 0.007843017578125 - 1 (1/127.5 in float16).
_HALF = 1 / (255 * 0.007843017578125)
_MOVENET_INPUT = Normalisation(mean=(_HALF,) * 3, std=(_HALF,) * 3)

# Scores are OKS AP on 51 COCO val2017 photographs (160 people), measured by `hrpose evaluate`;
# docs/scores.md has the whole table and the commands.
_GT = "AP, annotated boxes"
_GT_FLIP = "AP, annotated boxes, flip test"
_DETECTED = "AP, boxes of movenet_multipose"

# Blocks whose outputs the feature pyramid reads; stride 16 is not its deepest block.
_MOVENET_TAPS = (3, 6, 10, 18)


def movenet_backbone(width_multiplier: float) -> BackboneSpec:
    """MobileNetV2 as MoveNet has it: TensorFlow's padding, batch norms folded."""
    return BackboneSpec(
        name="mobilenet_v2",
        options={
            "width_multiplier": width_multiplier,
            "same_padding": True,
            "norm": False,
            "taps": _MOVENET_TAPS,
            "last_channels": 1280,
        },
    )


MOVENET_MULTIPOSE = NetworkSpec(
    name="movenet_multipose",
    task="people",
    backbone=movenet_backbone(1.5),
    # The published graph answers 6 people; its maps show more.
    head=CenterHead(boxes=True, shift_px=-0.25, max_people=30),
    input_size=(256, 256),
    normalisation=_MOVENET_INPUT,
    # Chosen by the boxes of photographs that are for training; docs/scores.md has the figures.
    view=View(glance=Glance(short_side=192, score=0.2, height=0.35)),
    threshold=0.08,
    provenance=Provenance(
        origin="MoveNet MultiPose Lightning v1, Google (TensorFlow Hub), converted",
        licence="Apache-2.0",
        data="COCO keypoints and Google's internal Active set (as published)",
        recipe="python -m training.convert",
        scores={"AP, its own boxes": 0.389},
    ),
)

MOVENET_THUNDER = NetworkSpec(
    name="movenet_thunder",
    task="pose",
    backbone=movenet_backbone(1.75),
    head=CenterHead(boxes=False, shift_px=-0.35),
    input_size=(256, 256),
    normalisation=_MOVENET_INPUT,
    threshold=0.08,
    provenance=Provenance(
        origin="MoveNet SinglePose Thunder v4, Google (TensorFlow Hub), converted",
        licence="Apache-2.0",
        data="COCO keypoints and Google's internal Active set (as published)",
        recipe="python -m training.convert",
        scores={_DETECTED: 0.454, _GT: 0.466, _GT_FLIP: 0.480},
    ),
)


@dataclass(frozen=True)
class Source:
    """A file and the network it becomes."""

    file: str
    spec: NetworkSpec


SOURCES = (
    Source("movenet_multipose.safetensors", MOVENET_MULTIPOSE),
    Source("movenet_thunder.safetensors", MOVENET_THUNDER),
)


def convert(source: Source, folder: Path, out: Path) -> Path:
    """Writes one checkpoint; WeightsError unless every tensor finds its place."""
    state: dict[str, Tensor] = read_state(folder / source.file)
    network = build(source.spec)
    load_strict(
        network,
        {n: t.to(torch.float32) if t.is_floating_point() else t for n, t in state.items()},
        source.file,
    )
    parameters = sum(p.numel() for p in network.parameters())
    provenance = source.spec.provenance.model_copy(update={"parameters": parameters})
    spec = source.spec.model_copy(update={"provenance": provenance})
    path = out / f"{spec.name}.safetensors"
    save_checkpoint(path, spec, network.state_dict(), half=True)
    return path


def main(arguments: list[str]) -> None:
    """Converts every source; see the module's docstring."""
    folder = Path(arguments[0])
    out = Path(arguments[1]) if len(arguments) > 1 else Path("heads/pretrained")
    for source in SOURCES:
        convert(source, folder, out)


if __name__ == "__main__":
    main(sys.argv[1:])
