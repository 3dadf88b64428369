"""Learning to find everybody in a photograph in one pass: center maps, and a detector's boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heads.draw import draw_people, grid
from heads.geometry import Crop, Size, clip_box, flip_points
from heads.image import Image, read_image, warp
from heads.network import Maps, Network
from heads.person import Person
from heads.skeleton import Skeleton
from heads.spec import NetworkSpec
from training.annotations import is_of
from training.answers import answers
from training.augment import recoloured
from training.data import read_keypoints, read_labelled, read_together
from training.errors import DataError
from training.evaluate import predict_all, score
from training.findings import Sound
from training.losses import center_loss
from training.pose import read_validation
from training.recipe import Recipe, Views
from training.task import Measured

FloatArray = npt.NDArray[np.float32]

PICTURES = 6
NAMES = (
    "center", "center_weight", "kpt_heatmap", "kpt_heatmap_weight", "kpt_regress",
    "kpt_regress_weight", "kpt_offset", "kpt_offset_weight", "box_scale", "box_offset",
    "box_weight",
)  # fmt: skip
"""The targets of a sample, in order."""


@dataclass(frozen=True)
class Photo:
    """A photograph and everybody in it.

    size: (height, width) that the labels are of.
    points: [P, K, 2] pixels.  weights: [P, K], 0 not labelled to 1 sure.  boxes_xyxy: [P, 4].
    crowds_xyxy: [Q, 4], where people are that nobody counted.
    """

    path: Path
    size: Size
    points: FloatArray
    weights: FloatArray
    boxes_xyxy: FloatArray
    crowds_xyxy: FloatArray


class PeopleTask:
    """COCO keypoint files in, AP without given boxes out; see `training.task.Task`."""

    measure = "ap"

    def __init__(self, recipe: Recipe, data: Path) -> None:
        where = recipe.data
        files = where.keypoint_files(data)
        photos, skeleton = read_together(files, read_photos, where.skip_bad)
        self._images = data / where.val_images
        self._truth = read_validation(data / where.val, self._images, skeleton, where.skip_bad)
        self.spec = recipe.spec(skeleton=skeleton)
        self.samples = PeopleDataset(photos, self.spec, recipe.views)
        self.chances = np.ones(len(photos), np.float32)

    def to(self, device: torch.device) -> None:
        """Nothing to take."""
        del device

    def prepare(self, x: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Nothing is mixed."""
        return x, targets

    def loss(self, answer: Maps, images: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Of all maps; see `center_loss`."""
        del images
        assert isinstance(answer, dict)
        maps = {name: tensor.float() for name, tensor in answer.items()}
        return center_loss(maps, dict(zip(NAMES, targets, strict=True)))

    def validate(self, network: Network) -> Measured:
        """AP of what the network finds by itself."""

        def predict(image: Image, _boxes: Any) -> list[Person]:
            return found(network, self.spec, image)

        results = predict_all(self._truth, self._images, predict, "detector")
        scores = score(self._truth, results, model=self.spec.name, boxes="its own")
        return scores.noted

    def published(self, measured: Measured) -> dict[str, float]:
        """AP, rounded."""
        return {"AP, its own boxes": round(float(measured["ap"]), 4)}

    def picture(self, network: Network) -> Image:
        """Six validation photographs with everybody found."""
        height, width = self.spec.input_size
        drawn = []
        for entry in self._truth.images[:PICTURES]:
            image = read_image(self._images / entry["file_name"])
            people = [p for p in found(network, self.spec, image) if p.score >= self.spec.threshold]
            shown = draw_people(image, people, self.spec.skeleton)
            size = (shown.shape[0], shown.shape[1])
            view = Crop.around((0, 0, size[1], size[0]), (height, width), padding=1.0)
            drawn.append(warp(shown, view))
        return grid(drawn)


def found(network: Network, spec: NetworkSpec, image: Image) -> list[Person]:
    """Everybody whom the network finds in an RGB uint8 [H, W, 3] image, whatever their score."""
    view = spec.whole((image.shape[0], image.shape[1]))
    answer = answers(network, spec, warp(image, view)[None])
    assert isinstance(answer, dict)
    maps = {name: tensor.numpy() for name, tensor in answer.items()}
    (people,) = spec.center_codec().decode_people(maps)
    return people.people(view, (image.shape[0], image.shape[1]))


def read_photos(
    annotations: Path, images: Path, sound: Sound | None = None
) -> tuple[list[Photo], Skeleton]:
    """Photographs of a COCO keypoint file, each with everybody in it; DataError names the entry.

    Who has no labelled keypoint still has a box to be found by.
    sound: what of the file is read; None: everything.
    """
    content, category, skeleton = read_keypoints(annotations, sound)
    try:
        entries: dict[Any, list[Mapping[str, Any]]] = {i["id"]: [] for i in content["images"]}
        for entry in content["annotations"]:
            if is_of(entry, category.get("id")):
                entries[entry["image_id"]].append(entry)
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{annotations.name}: an entry cannot be read: {error!r}") from error
    count = len(skeleton.keypoints)
    photos = [
        _photo(annotations.name, image, entries[image["id"]], images, count)
        for image in content["images"]
    ]
    missing = sorted(p.path.name for p in photos if not p.path.is_file())
    if missing:
        raise DataError(f"{len(missing)} photographs are missing: {', '.join(missing[:5])}")
    return photos, skeleton


def _photo(
    name: str,
    image: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    images: Path,
    count: int,
) -> Photo:
    points, weights, boxes, crowds = [], [], [], []
    for entry in entries:
        try:
            left, top, width, height = clip_box(entry["bbox"], (image["height"], image["width"]))
            box = (left, top, left + width, top + height)
            labelled = entry.get("keypoints") or [0.0] * (3 * count)
            keypoints = np.array(labelled, np.float32).reshape(count, 3)
            sure = np.array(entry.get("scores", [1.0] * count), np.float32).reshape(count)
            numbers = np.array([*box, *keypoints.ravel(), *sure])
        except (KeyError, TypeError, ValueError) as error:
            where = f"{name}, annotation {entry.get('id')}"
            raise DataError(f"{where} cannot be read: {error!r}") from error
        if not np.isfinite(numbers).all():
            raise DataError(f"{name}, annotation {entry.get('id')} needs finite numbers")
        if entry.get("iscrowd"):
            crowds.append(box)
        elif width > 1 and height > 1:
            boxes.append(box)
            points.append(keypoints[:, :2])
            weights.append(sure.clip(0, 1) * (keypoints[:, 2] > 0))
    return Photo(
        images / image["file_name"],
        (image["height"], image["width"]),
        np.array(points, np.float32).reshape(-1, count, 2),
        np.array(weights, np.float32).reshape(-1, count),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(crowds, np.float32).reshape(-1, 4),
    )


class PeopleDataset:
    """Random views of whole photographs and their center maps, each with its own random numbers."""

    def __init__(self, photos: Sequence[Photo], spec: NetworkSpec, views: Views) -> None:
        self._photos = photos
        self._spec = spec
        self._views = views
        self._codec = spec.center_codec()

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """Image uint8 [H, W, 3], then the targets of `NAMES`, float32 [., h, w]."""
        index, seed = key
        photo, rng = self._photos[index], np.random.default_rng(seed)
        image = read_labelled(photo.path, photo.size)
        size = self._spec.input_size
        crop = self._view((image.shape[0], image.shape[1]), rng)
        mirrored = rng.random() < self._views.flip
        view = warp(image, crop.mirrored() if mirrored else crop)
        view = recoloured(view, self._views.colour, rng)
        points, weights = crop.to_input(photo.points).astype(np.float32), photo.weights
        boxes, crowds = (_around(crop, b) for b in (photo.boxes_xyxy, photo.crowds_xyxy))
        if mirrored:
            order = list(self._spec.skeleton.flip_order)
            points = flip_points(points, size[1], order).astype(np.float32)
            weights = weights[:, order]
            boxes, crowds = (_mirrored(b, size[1]) for b in (boxes, crowds))
        inside = (points >= 0).all(axis=2) & (points < size[::-1]).all(axis=2)
        cells = self._spec.heatmap_size
        maps = self._codec.encode(points, weights * inside, boxes, cells)
        known = np.ones((1, *cells), np.float32)
        for box in np.floor(self._codec.to_cells(crowds)).astype(int):
            x0, y0 = box[:2].clip(0)
            x1, y1 = (box[2:] + 1).clip(0)  # 0 for a crowd left of the view or above it
            known[:, y0:y1, x0:x1] = 0
        maps["center_weight"] = known
        # Nobody labelled the keypoints of a crowd.
        maps["kpt_heatmap_weight"] = maps["kpt_heatmap_weight"] * known
        return torch.from_numpy(view), *(torch.from_numpy(maps[name]) for name in NAMES)

    def _view(self, image_size: tuple[int, int], rng: np.random.Generator) -> Crop:
        """A window somewhere in the photograph, about at the scale at which it is looked at later.

        About: times a random number. Where it is larger than the photograph it shows all of it.
        """
        views, size = self._views, self._spec.input_size
        zoom = 1 + views.scale * float(np.clip(rng.normal(), -1, 1))
        scale = self._spec.whole(image_size).scale / zoom
        height, width = (side / scale for side in size)
        top, left = (
            rng.uniform(min(0.0, whole - shown), max(0.0, whole - shown))
            + views.shift * shown * rng.uniform(-1, 1)
            for whole, shown in zip(image_size, (height, width), strict=True)
        )
        turn = float(np.clip(rng.normal() / 2, -1, 1)) * views.rotation_deg
        box = (left, top, width, height)
        return Crop.around(box, size, alignment="udp", padding=1.0, rotation_deg=turn)


def _around(crop: Crop, boxes_xyxy: FloatArray) -> FloatArray:
    """Upright boxes in the view round what boxes of the image have become."""
    x0, y0, x1, y1 = boxes_xyxy.T
    corners = np.stack([np.stack([x, y], axis=1) for x in (x0, x1) for y in (y0, y1)], axis=1)
    moved = crop.to_input(corners)
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1).astype(np.float32)


def _mirrored(boxes_xyxy: FloatArray, width: int) -> FloatArray:
    x0, y0, x1, y1 = boxes_xyxy.T
    return np.stack([width - 1 - x1, y0, width - 1 - x0, y1], axis=1)
