"""Networks that answer about a whole image: what it shows, and what each pixel shows."""

import numpy as np
import numpy.typing as npt

from heads.classes import class_map, likeliest
from heads.image import warp
from heads.onnx_file import OUTPUT
from heads.spec import NetworkSpec
from service.inference.answers import ClassScore, Image
from service.inference.batcher import Batcher
from service.inference.job import Job
from service.inference.pipeline import Timing


class ClassifyNetwork:
    """What a photograph shows: looks at its middle, as the network's evaluation did."""

    def __init__(self, spec: NetworkSpec, batcher: Batcher) -> None:
        self.spec = spec
        self.batcher = batcher

    def classify(self, image: Image, top_k: int, job: Job) -> tuple[list[ClassScore], Timing]:
        """The top_k likeliest classes of an RGB uint8 [H, W, 3] image."""
        view = self.spec.middle((image.shape[0], image.shape[1]))
        ran = self.batcher.run([warp(image, view)], job)
        found = likeliest(ran[0].maps[OUTPUT], top_k)
        return [ClassScore(i, self.spec.classes[i], p) for i, p in found], Timing.of(ran)


class SegmentNetwork:
    """The class of every pixel; sees the whole image."""

    def __init__(self, spec: NetworkSpec, batcher: Batcher) -> None:
        self.spec = spec
        self.batcher = batcher

    def segment(self, image: Image, job: Job) -> tuple[npt.NDArray[np.uint8], Timing]:
        """Class indices, uint8 [H, W], of an RGB uint8 [H, W, 3] image."""
        size = (image.shape[0], image.shape[1])
        view = self.spec.whole(size)
        ran = self.batcher.run([warp(image, view)], job)
        return class_map(ran[0].maps[OUTPUT], view, size), Timing.of(ran)
