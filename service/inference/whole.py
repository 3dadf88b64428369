"""Networks that answer about a whole image: what it shows, and what each pixel shows."""

import numpy as np
import numpy.typing as npt

from heads.classes import class_map, likeliest
from heads.onnx_file import OUTPUT
from heads.photo import Photo
from heads.spec import NetworkSpec
from service.inference.answers import ClassScore
from service.inference.batcher import Batcher
from service.inference.job import Job
from service.inference.pipeline import Timing


class ClassifyNetwork:
    """What a photograph shows: looks at its middle, as the network's evaluation did."""

    def __init__(self, spec: NetworkSpec, batcher: Batcher) -> None:
        self.spec = spec
        self.batcher = batcher

    def classify(self, photo: Photo, top_k: int, job: Job) -> tuple[list[ClassScore], Timing]:
        """The top_k likeliest classes of a photograph."""
        view = self.spec.middle(photo.size)
        ran = self.batcher.run(photo.views([view]), job)
        found = likeliest(ran[0].maps[OUTPUT], top_k)
        return [ClassScore(i, self.spec.classes[i], p) for i, p in found], Timing.of(ran)


class SegmentNetwork:
    """The class of every pixel; sees the whole image."""

    def __init__(self, spec: NetworkSpec, batcher: Batcher) -> None:
        self.spec = spec
        self.batcher = batcher

    def segment(self, photo: Photo, job: Job) -> tuple[npt.NDArray[np.uint8], Timing]:
        """Class indices, uint8 [H, W], of a photograph."""
        view = self.spec.whole(photo.size)
        ran = self.batcher.run(photo.views([view]), job)
        photo.forget()
        found = class_map(ran[0].maps[OUTPUT], view, photo.size, between=job.check)
        return found, Timing.of(ran)
