"""`hrpose predict`: photographs in, keypoints and drawn pictures out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.console import (
    DetectorOption,
    JsonOption,
    ModelOption,
    PhotosArgument,
    Refused,
    can_be_folder,
    can_be_written,
    files_of,
    look_at,
    out,
    spare_inputs,
    write_file,
    write_json,
)
from heads.image import encode_image
from heads.person import Box, Person
from heads.photo import Photo
from service.errors import InvalidParameter
from service.inference.catalogue import DEFAULT
from service.inference.engine import DEFAULT_DETECTOR
from service.inference.estimator import Estimator, as_box, load
from service.parameters import read_boxes


def predict(
    photos: PhotosArgument,
    boxes: Annotated[
        str | None, typer.Option(help="JSON list of [left, top, width, height], one a person.")
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Draw pictures there.", callback=can_be_folder)
    ] = None,
    model: ModelOption = DEFAULT,
    detector: DetectorOption = DEFAULT_DETECTOR,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out people with a lower score.")
    ] = None,
    flip_test: Annotated[bool, typer.Option("--flip-test")] = False,
    json_file: JsonOption = None,
) -> None:
    """Find everybody's keypoints in photographs."""
    from heads.draw import draw_people

    files = files_of(photos)
    spare_inputs([*files, model, detector], json_file)
    targets = {} if out_dir is None else _targets(files, out_dir)
    given = None if boxes is None else _parse_boxes(boxes)
    estimator = load(model, detector=detector)
    answers = []

    def look(path: Path, photo: Photo) -> None:
        people = estimator.predict(photo, given, threshold=threshold, flip_test=flip_test)
        answers.append({"image": str(path), "people": [_as_json(p, estimator) for p in people]})
        out.print(f"{path}: {len(people)} people", highlight=False)
        if path in targets:
            drawn = draw_people(photo.canvas(), people, estimator.spec.skeleton)
            write_file(targets[path], encode_image(drawn, "png"))

    all_read = look_at(files, look)
    write_json(json_file, {"model": estimator.spec.name, "photos": answers})
    if not all_read:
        raise typer.Exit(1)


def _targets(photos: list[Path], folder: Path) -> dict[Path, Path]:
    """Where the picture of each photograph goes.

    Refused where that is a photograph itself, or the picture of another one.
    """
    targets: dict[Path, Path] = {}
    read = {path.resolve(): path for path in photos}
    taken: dict[Path, Path] = {}
    for path in photos:
        target = targets[path] = folder / f"{path.stem}.png"
        can_be_written(target)
        if target.resolve() in read:
            raise Refused(
                f"the picture of {path} would take the place of the photograph "
                f"{read[target.resolve()]}; name another folder: --out"
            )
        first = taken.setdefault(target, path)
        if first.resolve() != path.resolve():
            raise Refused(
                f"{first} and {path} would both be drawn as {target}; "
                "rename one, or draw them into different folders"
            )
    return targets


def _parse_boxes(text: str) -> list[Box]:
    try:
        return [as_box(box) for box in read_boxes([text])]
    except (ValueError, InvalidParameter) as error:
        raise typer.BadParameter(f"boxes are [[left, top, width, height], ...]: {error}") from error


def _as_json(person: Person, estimator: Estimator) -> dict[str, Any]:
    names = estimator.spec.skeleton.keypoints
    return {
        "box": list(person.box_xywh),
        "box_score": person.box_score,
        "score": person.score,
        "keypoints": [
            {"name": name, "x": float(x), "y": float(y), "score": float(score)}
            for name, (x, y, score) in zip(names, person.keypoints, strict=True)
        ],
    }
