"""How far keypoints decoded inside an exported graph are from those of the codec."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heads.onnx_file import OUTPUT
from service.inference.parity import SURE, crops_of
from service.inference.runtime import OnnxRuntime, TorchRuntime

if TYPE_CHECKING:
    from heads.network import Network


@dataclass(frozen=True)
class DecodedParity:
    """A graph that decodes, held against torch and HeatmapCodec on the same crops.

    pixels: the largest distance of a keypoint, in input pixels; sure_pixels: among those found.
    score: the largest difference of a score.  noise: as in `Parity`.
    """

    crops: int
    keypoints: int
    pixels: float
    sure_pixels: float | None
    score: float
    noise: bool


def measure_decoded(network: "Network", file: Path, photos: Sequence[Path]) -> DecodedParity:
    """The file, run by ONNX Runtime, against torch and the codec, on what `measure` takes."""
    codec = network.spec.heatmap_codec()
    reference = TorchRuntime(network, network.spec, fold=False)
    runtime = OnnxRuntime(file)
    distances, scores = [], []
    batches, noise = crops_of(network, photos)
    for batch in batches:
        points, heights = codec.decode(reference.run(batch)[OUTPUT])
        found = runtime.run(batch)["keypoints"]
        distances.append(np.linalg.norm(found[..., :2] - points, axis=2).ravel())
        scores.append(np.stack([found[..., 2].ravel(), heights.ravel()], axis=1))
    away, both = np.concatenate(distances), np.concatenate(scores)
    sure = away[both[:, 1] >= SURE]
    return DecodedParity(
        crops=len(away) // len(network.spec.skeleton.keypoints),
        keypoints=len(away),
        pixels=float(away.max()),
        sure_pixels=float(sure.max()) if sure.size else None,
        score=float(np.abs(both[:, 0] - both[:, 1]).max()),
        noise=noise,
    )
