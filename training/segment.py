"""Learning the class of every pixel: photographs and masks of the same names (VOC's layout)."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from heads.classes import class_map, palette
from heads.draw import draw_classes, grid
from heads.geometry import Crop
from heads.image import Image, photographs, read_image, read_mask, warp
from heads.network import Maps, Network
from training.answers import answers
from training.augment import recoloured
from training.errors import DataError
from training.losses import IGNORED, region_loss
from training.recipe import Recipe, Views
from training.task import Measured
from training.whole_image import Regions

Mask = npt.NDArray[np.uint8]

PICTURES = 6
ZOOM = 2.0
"""A view shows the photograph at between 1 / ZOOM and ZOOM times the size at which the whole of it
fits, which is how it is looked at later; the official HRNet code scales the photograph itself."""


class SegmentTask:
    """Mean intersection over union of the classes; see `training.task.Task`."""

    measure = "miou"

    def __init__(self, recipe: Recipe, data: Path) -> None:
        where = recipe.data
        pairs = read_pairs(data / where.train, data / where.train_images)
        self._validation = read_pairs(data / where.val, data / where.val_images)
        for pair in self._validation:  # what would else end the run after its first epoch
            read_pair(*pair, len(where.classes))
        self.spec = recipe.spec(classes=where.classes)
        self.samples = MaskDataset(pairs, len(where.classes), self.spec.input_size, recipe.views)
        self.chances = np.ones(len(pairs), np.float32)
        self._kind = recipe.optimisation.region_loss

    def to(self, device: torch.device) -> None:
        """Nothing to take."""
        del device

    def prepare(self, x: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Nothing is mixed."""
        return x, targets

    def loss(self, answer: Maps, images: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Of logits [N, classes, h, w], brought to the size of the masks [N, H, W]."""
        del images
        assert isinstance(answer, Tensor)
        (masks,) = targets
        logits = F.interpolate(answer.float(), size=masks.shape[1:], mode="bilinear")
        return region_loss(self._kind, logits, masks)

    def validate(self, network: Network) -> Measured:
        """Mean over classes of intersection over union, and the share of right pixels.

        Counted over all pixels of all photographs; a class that is neither there nor said counts
        not.
        """
        count = len(self.spec.classes)
        regions = Regions(count)
        for photo, mask in self._validation:
            image, true = read_pair(photo, mask, count)
            regions.add(true, self._found(network, image))
        return regions.measured()

    def published(self, measured: Measured) -> dict[str, float]:
        """Both, rounded."""
        return {
            "mIoU": round(float(measured["miou"]), 4),
            "right pixels": round(float(measured["pixels"]), 4),
        }

    def picture(self, network: Network) -> Image:
        """Six validation photographs under the colours of the classes found."""
        colours = palette(len(self.spec.classes))
        drawn = []
        for photo, _ in self._validation[:PICTURES]:
            image = read_image(photo)
            shown = draw_classes(image, self._found(network, image), colours)
            drawn.append(np.asarray(cv2.resize(shown, (256, 256)), np.uint8))
        return grid(drawn)

    def _found(self, network: Network, image: Image) -> Mask:
        """As the server answers: the whole image at once."""
        size = (image.shape[0], image.shape[1])
        view = self.spec.whole(size)
        logits = answers(network, self.spec, warp(image, view)[None])
        assert isinstance(logits, Tensor)
        return class_map(logits[0].numpy(), view, size)


def read_pairs(masks: Path, photos: Path) -> list[tuple[Path, Path]]:
    """(photograph, mask) for every mask NAME.png; DataError where one has no photograph."""
    if not masks.is_dir() or not photos.is_dir():
        raise DataError(f"there is no folder {masks.name} of masks, or no folder {photos.name}")
    found = sorted(masks.glob("*.png"))
    own, named = {mask.resolve() for mask in found}, {mask.stem for mask in found}
    by_name: dict[str, Path] = {}
    for path in photographs(photos):
        if path.stem not in named or path.resolve() in own:
            continue  # a mask is no photograph, also where both lie in one folder
        if path.stem in by_name:
            raise DataError(f"{by_name[path.stem].name} and {path.name} would have the same mask")
        by_name[path.stem] = path
    if missing := [mask.name for mask in found if mask.stem not in by_name]:
        raise DataError(f"{len(missing)} masks have no photograph: {', '.join(missing[:5])}")
    if not found:
        raise DataError(f"{masks.name} has no masks (NAME.png, the class of each pixel)")
    return [(by_name[mask.stem], mask) for mask in found]


def _mask(path: Path, classes: int) -> Mask:
    """Class indices of a mask file, IGNORED where nobody said; DataError for any other number."""
    mask = read_mask(path)
    strange = mask[(mask >= classes) & (mask != IGNORED)]
    if strange.size:
        raise DataError(f"{path.name} has class {strange.max()}; there are {classes}")
    return mask


def read_pair(photo: Path, mask_file: Path, classes: int) -> tuple[Image, Mask]:
    """A photograph and its mask; DataError names the mask where it does not fit."""
    image, mask = read_image(photo), _mask(mask_file, classes)
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"{mask_file.name} has {mask.shape[0]} x {mask.shape[1]} pixels, its photograph "
            f"{image.shape[0]} x {image.shape[1]}"
        )
    return image, mask


class MaskDataset:
    """Random pieces of photographs and of their masks, each drawn with its own random numbers."""

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        classes: int,
        input_size: tuple[int, int],
        views: Views,
    ) -> None:
        self._pairs = pairs
        self._classes = classes
        self._size = input_size
        self._views = views

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Image uint8 [H, W, 3] and class indices int64 [H, W]."""
        index, seed = key
        image, mask = read_pair(*self._pairs[index], self._classes)
        rng = np.random.default_rng(seed)
        crop = self._view((image.shape[0], image.shape[1]), rng)
        view = recoloured(warp(image, crop), self._views.colour, rng)
        height, width = self._size
        piece = cv2.warpAffine(
            mask,
            crop.matrix,
            (width, height),
            flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(IGNORED,),
        )
        return torch.from_numpy(view), torch.from_numpy(piece.astype(np.int64))

    def _view(self, image_size: tuple[int, int], rng: np.random.Generator) -> Crop:
        """A window somewhere in the photograph, at a random scale, perhaps mirrored."""
        zoom = ZOOM ** rng.uniform(-1, 1)
        fit = min(image_size[0] / self._size[0], image_size[1] / self._size[1])
        height, width = (side * fit / zoom for side in self._size)
        top = rng.uniform(min(0.0, image_size[0] - height), max(0.0, image_size[0] - height))
        left = rng.uniform(min(0.0, image_size[1] - width), max(0.0, image_size[1] - width))
        crop = Crop.around((left, top, width, height), self._size, alignment="udp", padding=1.0)
        return crop.mirrored() if rng.random() < self._views.flip else crop
