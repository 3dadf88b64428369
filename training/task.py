"""What a run learns: the samples, the loss, the measure. The loop knows no more than this.

The head of a recipe's network decides: heatmaps of one person (pose), everybody in one pass
(people), classes of an image (classify), classes of every pixel (segment).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heads.image import Image
from heads.network import Maps, Network
from heads.spec import NetworkSpec
from training.recipe import Recipe

Measured = dict[str, float | str]


class Samples(Protocol):
    """Samples by (index, seed): tensors, the first RGB uint8 [H, W, 3]."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """The same for the same key, whichever process asks."""
        ...


class Task(Protocol):
    """spec: the network that is made.  samples, chances: what it sees, each how likely.

    measure: the name in `validate`'s answer that chooses the best epoch; higher is better.
    """

    spec: NetworkSpec
    samples: Samples
    chances: npt.NDArray[np.float32]
    measure: str

    def to(self, device: torch.device) -> None:
        """Takes what the loss needs to where the network is."""
        ...

    def prepare(self, x: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Mixes normalised images [N, 3, H, W] and their targets, where the recipe says so."""
        ...

    def loss(self, answer: Maps, images: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """How wrong an answer is; images are RGB uint8 [N, H, W, 3] as drawn."""
        ...

    def validate(self, network: Network) -> Measured:
        """Figures by name, of the validation data."""
        ...

    def published(self, measured: Measured) -> dict[str, float]:
        """Those figures that a checkpoint carries, by names that say how they were measured."""
        ...

    def picture(self, network: Network) -> Image:
        """Validation samples with what the network makes of them."""
        ...


def make_task(recipe: Recipe, data: Path) -> Task:
    """The task of a recipe; reads and checks its data. Raises DataError, AnnotationError."""
    kind: Any
    if recipe.task == "classify":
        from training.classify import ClassifyTask

        kind = ClassifyTask
    elif recipe.task == "people":
        from training.people import PeopleTask

        kind = PeopleTask
    elif recipe.task == "segment":
        from training.segment import SegmentTask

        kind = SegmentTask
    else:
        from training.pose import PoseTask

        kind = PoseTask
    task: Task = kind(recipe, data)
    return task
