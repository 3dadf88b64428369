"""`hrpose evaluate` of networks that answer about whole images: folders of classes, and masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from commands.console import errors, followed, out, write_json
from heads.photo import read_photo
from service.inference.estimator import Estimator, load
from service.inference.loading import RuntimeChoice
from service.inference.runtime import Precision

if TYPE_CHECKING:
    from training.task import Measured


def evaluate_whole(
    truth: Path,
    images: Path | None,
    models: Sequence[str],
    runtime: RuntimeChoice,
    precision: Precision,
    json_file: Path | None,
) -> None:
    """Measures classifiers by folders of photographs, others by masks of the photographs there.

    truth: a folder with a folder for each class, or where images are named, one of masks.
    """
    if not models:
        raise typer.BadParameter(f"{truth} is a folder; name the networks with --model")
    rows: dict[str, Measured] = {}
    for name in models:
        estimator = load(name, runtime=runtime, precision=precision)
        if images is None:
            rows[name] = classes_measured(estimator, truth)
        else:
            rows[name] = regions_measured(estimator, truth, images)
    table = Table("model", *next(iter(rows.values())), box=None)
    for name, measured in rows.items():
        table.add_row(name, *(f"{value:.3f}" for value in measured.values()))
    out.print(table)
    scores = [{"model": name, **measured} for name, measured in rows.items()]
    write_json(json_file, {"runtime": runtime, "precision": precision, "scores": scores})


def classes_measured(estimator: Estimator, root: Path) -> "Measured":
    """Top-1 and top-5 of a classifier, of photographs in folders that are named as its classes.

    As ImageNet's folders have numbers for names, as many as there are classes are taken in order.
    """
    from training.classify import read_folders
    from training.errors import DataError
    from training.whole_image import top_shares

    photos, folders = read_folders(root)
    classes = estimator.spec.classes
    if set(folders) <= set(classes):
        numbers = [classes.index(name) for name in folders]
    elif len(folders) == len(classes):
        numbers = list(range(len(classes)))
        errors.print(f"{root.name}: folders are taken for {estimator.spec.name}'s classes in order")
    else:
        strange = sorted(set(folders) - set(classes))[0]
        raise DataError(f"{root.name}/{strange} is no class of {estimator.spec.name}")
    ranks = []
    for path, folder in followed(photos, estimator.spec.name):
        found = [score.index for score in estimator.classify(read_photo(path), 5)]
        right = numbers[folder]
        ranks.append(found.index(right) if right in found else len(classes))
    return top_shares(ranks)


def regions_measured(estimator: Estimator, masks: Path, images: Path) -> "Measured":
    """Mean intersection over union and right pixels of a segmentation network."""
    from training.segment import read_pair, read_pairs
    from training.whole_image import Regions

    count = len(estimator.spec.classes)
    regions = Regions(count)
    for photo, mask in followed(read_pairs(masks, images), estimator.spec.name):
        image, true = read_pair(photo, mask, count)
        regions.add(true, estimator.segment(image))
    return regions.measured()
