"""Learning heatmaps of keypoints on crops of one person."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heads.draw import draw_people, grid
from heads.geometry import Crop, antialiased, flip_heatmaps
from heads.image import Image, read_image, warp
from heads.network import Maps, Network
from heads.person import Person, person_score
from heads.skeleton import Skeleton
from heads.spec import NetworkSpec
from training.annotations import Annotations, Box, load_annotations
from training.answers import answers
from training.augment import Augmentation
from training.data import (
    PoseDataset,
    chances_of,
    check_images,
    look_through,
    read_samples,
    read_together,
)
from training.errors import DataError
from training.evaluate import Scores, predict_all, score
from training.losses import heatmap_loss
from training.precision import arithmetic
from training.recipe import Recipe
from training.task import Measured
from training.teacher import Teacher

PICTURES = 12


class PoseTask:
    """COCO keypoint files in, AP of annotated boxes out; see `training.task.Task`."""

    measure = "ap"

    def __init__(self, recipe: Recipe, data: Path) -> None:
        where = recipe.data
        files = where.keypoint_files(data)
        people, skeleton = read_together(files, read_samples, where.skip_bad)
        check_images(people)
        self._images = data / where.val_images
        self._truth = read_validation(data / where.val, self._images, skeleton, where.skip_bad)
        self.spec = recipe.spec(skeleton=skeleton)
        views = Augmentation(
            skeleton, self.spec.input_size, self.spec.alignment, **recipe.views.model_dump()
        )
        self.samples = PoseDataset(people, self.spec.heatmap_codec(), views)
        self.chances = chances_of(people, where.weights)
        self._how, self._teaching = recipe.optimisation, recipe.teacher
        self._teacher: Teacher | None = None

    def to(self, device: torch.device) -> None:
        """Loads the teacher there, where the recipe names one."""
        if self._teaching is not None:
            kind = arithmetic(self._how.precision, device)
            self._teacher = Teacher(self._teaching.network, self.spec, device, kind)

    def prepare(self, x: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Nothing is mixed: two people in one crop are two answers."""
        return x, targets

    def loss(self, answer: Maps, images: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Of heatmaps [N, K, h, w] against those of the labels, and of the teacher."""
        assert isinstance(answer, Tensor)
        predicted, (heatmaps, weights) = answer.float(), targets
        how = self._how
        loss = heatmap_loss(how.loss, predicted, heatmaps, weights, how.foreground, how.hardest)
        if self._teacher is None or self._teaching is None:
            return loss
        # Both of one kind: squares are so much smaller than weighted distances that a teacher
        # measured by them would teach nothing.
        soft = self._teacher.heatmaps(images).clamp(0, 1)
        everywhere = torch.ones_like(weights)
        taught = heatmap_loss(how.loss, predicted, soft, everywhere, how.foreground, how.hardest)
        return (1 - self._teaching.weight) * loss + self._teaching.weight * taught

    def validate(self, network: Network) -> Measured:
        """AP and PCK with annotated boxes and flip test."""
        return validate(network, self.spec, self._truth, self._images).noted

    def published(self, measured: Measured) -> dict[str, float]:
        """AP and PCK, rounded."""
        names = {"ap": "AP, annotated boxes, flip test", "pck": "PCK@0.2"}
        return {n: round(float(measured[key]), 4) for key, n in names.items() if key in measured}

    def picture(self, network: Network) -> Image:
        """Twelve people of the validation data, each on its crop with the keypoints found."""
        truth = self._truth
        files = {image["id"]: self._images / image["file_name"] for image in truth.images}
        people = [p for image in truth.images for p in truth.people(image["id"])]
        chosen = people[:: max(1, len(people) // PICTURES)][:PICTURES]
        crops = [self.spec.crop(tuple(person["bbox"])) for person in chosen]
        views = np.stack(
            [
                _view(self.spec, read_image(files[person["image_id"]]), crop)
                for person, crop in zip(chosen, crops, strict=True)
            ]
        )
        points, scores = _found(network, self.spec, views)
        height, width = self.spec.input_size
        drawn = [
            draw_people(view, [_person(p, s, (0.0, 0.0, width, height))], self.spec.skeleton)
            for view, p, s in zip(views, points, scores, strict=True)
        ]
        return grid(drawn)


def validate(network: Network, spec: NetworkSpec, truth: Annotations, images: Path) -> Scores:
    """AP and PCK with annotated boxes, each crop looked at twice (flip test)."""

    def predict(image: Image, boxes: Any) -> list[Person]:
        crops = [spec.crop(box) for box in boxes]
        found = _found(network, spec, np.stack([_view(spec, image, crop) for crop in crops]))
        return [
            _person(crop.to_image(p), s, b)
            for crop, p, s, b in zip(crops, *found, boxes, strict=True)
        ]

    results = predict_all(truth, images, predict, "gt")
    return score(truth, results, model=spec.name, boxes="annotated boxes, flip test")


def _view(spec: NetworkSpec, image: Image, crop: Crop) -> Image:
    """What the network is fed with for a crop when it serves."""
    return warp(image, crop, antialias=antialiased(spec.alignment))


def _found(network: Network, spec: NetworkSpec, views: Image) -> tuple[Any, Any]:
    """Keypoints [N, K, 2] in crops [N, H, W, 3], and scores [N, K], with the flip test."""
    maps = answers(network, spec, np.concatenate([views, views[:, :, ::-1]]))
    assert isinstance(maps, Tensor)
    heatmaps = maps.numpy()
    back = flip_heatmaps(heatmaps[len(views) :], spec.skeleton.flip_order, spec.alignment)
    mean = np.asarray((heatmaps[: len(views)] + back) / 2, np.float32)
    return spec.heatmap_codec().decode(mean)


def _person(points: Any, scores: Any, box: Box) -> Person:
    keypoints = np.column_stack([points, scores.clip(0, 1)]).astype(np.float32)
    return Person(keypoints, person_score(keypoints, None), box)


def read_validation(
    annotations: Path, images: Path, skeleton: Skeleton, skip_bad: bool
) -> Annotations:
    """Validation data for a training file's skeleton, whose sigmas it is measured by.

    Finds before the first step what would else end the run after its first epoch, all but
    photographs that cannot be read. Raises DataError or AnnotationError.
    skip_bad: see `look_through`.
    """
    sound = look_through(annotations, images, skip_bad)
    truth = load_annotations(annotations, sound=sound)
    if truth.skeleton.keypoints != skeleton.keypoints:
        raise DataError(f"{annotations.name} has other keypoints than the training data")
    if truth.skeleton.sigmas != skeleton.sigmas:
        raise DataError(f"{annotations.name} has other sigmas than the training data")
    return replace(truth, skeleton=skeleton)
