"""Learning what photographs show: a folder for each class (ImageNet's layout)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2 as torchvision_v2

from heads.draw import grid, label
from heads.errors import ImageError
from heads.image import SUFFIXES, Image, photographs, read_image, warp
from heads.network import Maps, Network
from training.answers import answers
from training.errors import DataError
from training.recipe import ImageViews, Recipe
from training.task import Measured
from training.whole_image import top_shares

BATCH = 32

v2: Any = torchvision_v2  # its names are not all exported, types say
PICTURES = 12


class ClassifyTask:
    """Top-1 accuracy of the middle of each validation photograph; see `training.task.Task`."""

    measure = "top1"

    def __init__(self, recipe: Recipe, data: Path) -> None:
        photos, classes = read_folders(data / recipe.data.train)
        self._validation, others = read_folders(data / recipe.data.val)
        if others != classes:
            odd = sorted(set(others) ^ set(classes))
            raise DataError(f"{recipe.data.train} and {recipe.data.val} differ in {odd[:5]}")
        self.spec = recipe.spec(classes=classes)
        views = recipe.image_views
        self.samples = PhotoDataset(photos, self.spec.input_size, views)
        self.chances = np.ones(len(photos), np.float32)
        self._smoothing = recipe.optimisation.label_smoothing
        kinds = ((v2.MixUp, views.mixup), (v2.CutMix, views.cutmix))
        self._mixes = [kind(alpha=a, num_classes=len(classes)) for kind, a in kinds if a]

    def to(self, device: torch.device) -> None:
        """Nothing to take."""
        del device

    def prepare(self, x: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """MixUp or CutMix, one of those that the recipe names, for the whole batch."""
        if not self._mixes:
            return x, targets
        chosen = self._mixes[int(torch.randint(len(self._mixes), ()).item())]
        mixed, shares = chosen(x, targets[0])
        return mixed, [shares]

    def loss(self, answer: Maps, images: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Cross entropy of logits [N, classes] with classes [N], or their shares [N, classes]."""
        del images
        assert isinstance(answer, Tensor)
        return F.cross_entropy(answer.float(), targets[0], label_smoothing=self._smoothing)

    def validate(self, network: Network) -> Measured:
        """Share of photographs whose class is the likeliest, or among the five likeliest."""
        ranks: list[int] = []
        for start in range(0, len(self._validation), BATCH):
            batch = self._validation[start : start + BATCH]
            logits = self._logits(network, [path for path, _ in batch])
            right = logits[torch.arange(len(batch)), [index for _, index in batch]]
            ranks += ((logits >= right[:, None]).sum(dim=1) - 1).tolist()  # ties against it
        return top_shares(ranks)

    def published(self, measured: Measured) -> dict[str, float]:
        """Both shares, rounded."""
        return {f"{name}, one crop": round(float(measured[name]), 4) for name in measured}

    def picture(self, network: Network) -> Image:
        """Twelve validation photographs, each with the class that the network says."""
        chosen = self._validation[:: max(1, len(self._validation) // PICTURES)][:PICTURES]
        paths = [path for path, _ in chosen]
        likeliest = self._logits(network, paths).argmax(dim=1).tolist()
        return grid(
            [
                label(self._middle(path), self.spec.classes[found])
                for path, found in zip(paths, likeliest, strict=True)
            ]
        )

    def _logits(self, network: Network, paths: Sequence[Path]) -> Tensor:
        logits = answers(network, self.spec, np.stack([self._middle(path) for path in paths]))
        assert isinstance(logits, Tensor)
        return logits

    def _middle(self, path: Path) -> Image:
        image = _read(path)
        return warp(image, self.spec.middle((image.shape[0], image.shape[1])))


def read_folders(root: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Photographs and the numbers of their classes, which are the folders' names, sorted."""
    if not root.is_dir():
        raise DataError(f"there is no folder {root.name} with a folder for each class")
    classes = tuple(sorted(entry.name for entry in root.iterdir() if _is_class(entry)))
    photos = []
    for index, name in enumerate(classes):
        found = photographs(root / name)
        if not found:
            raise DataError(f"{root.name}/{name} has no photographs ({', '.join(SUFFIXES)})")
        photos += [(path, index) for path in found]
    if len(classes) < 2:
        raise DataError(f"{root.name} needs folders of two or more classes; it has {len(classes)}")
    return photos, classes


def _is_class(folder: Path) -> bool:
    """Systems and notebooks leave folders of their own: .ipynb_checkpoints, __MACOSX."""
    return folder.is_dir() and not folder.name.startswith((".", "__"))


def _read(path: Path) -> Image:
    """A photograph; errors name its folder too, for each class may have a 1.jpg."""
    try:
        return read_image(path)
    except ImageError as error:
        raise ImageError(f"{path.parent.name}/{error}") from error


ERASED = [124.0, 116.0, 104.0]
"""The mean colour of ImageNet: what is erased is 0 once normalised, as in torchvision."""


class PhotoDataset:
    """Random pieces of photographs and their classes, each drawn with its own random numbers."""

    def __init__(
        self, photos: Sequence[tuple[Path, int]], input_size: tuple[int, int], views: ImageViews
    ) -> None:
        self._photos = photos
        policies: dict[str, list[Any]] = {
            "none": [],
            "trivial": [v2.TrivialAugmentWide()],
            "auto": [v2.AutoAugment()],
        }
        self._views = v2.Compose(
            [
                v2.RandomResizedCrop(input_size, scale=(views.smallest, 1.0), antialias=True),
                v2.RandomHorizontalFlip(views.flip),
                *policies[views.policy],
                v2.RandomErasing(views.erasing, value=ERASED),
            ]
        )

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Image uint8 [H, W, 3] and the number of its class."""
        index, seed = key
        path, number = self._photos[index]
        image = torch.from_numpy(_read(path)).permute(2, 0, 1)
        with torch.random.fork_rng(devices=()):  # torchvision draws from torch's own numbers
            torch.manual_seed(seed)
            view = self._views(image)
        return view.permute(1, 2, 0).contiguous(), torch.tensor(number)
