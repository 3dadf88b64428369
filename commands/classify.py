"""`hrpose classify`: photographs in, what they show out."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from commands.console import (
    JsonOption,
    PhotosArgument,
    files_of,
    look_at,
    out,
    spare_inputs,
    write_json,
)
from heads.photo import Photo
from service.inference.catalogue import DEFAULT_CLASSIFIER
from service.inference.estimator import load


def classify(
    photos: PhotosArgument,
    model: Annotated[
        str, typer.Option(help="A classification network of `hrpose models`, or a checkpoint.")
    ] = DEFAULT_CLASSIFIER,
    top_k: Annotated[int, typer.Option(min=1, help="So many classes, likeliest first.")] = 3,
    json_file: JsonOption = None,
) -> None:
    """Say what photographs show, of ImageNet's 1000 classes."""
    files = files_of(photos)
    spare_inputs([*files, model], json_file)
    estimator = load(model)
    table = Table("photo", f"likeliest {top_k}", box=None)
    answers = []

    def look(path: Path, photo: Photo) -> None:
        found = estimator.classify(photo, top_k)
        table.add_row(path.name, ", ".join(f"{c.name} {c.probability:.2f}" for c in found))
        classes = [{"name": c.name, "index": c.index, "probability": c.probability} for c in found]
        answers.append({"image": str(path), "classes": classes})

    all_read = look_at(files, look)
    if answers:
        out.print(table, highlight=False)
    write_json(json_file, {"model": estimator.spec.name, "photos": answers})
    if not all_read:
        raise typer.Exit(1)
