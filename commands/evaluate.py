"""`hrpose evaluate`: networks held against annotated photographs, by the official measure."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from commands.console import (
    DetectorOption,
    JsonOption,
    can_be_folder,
    followed,
    out,
    spare_inputs,
    write_json,
)
from commands.evaluate_whole import evaluate_whole
from heads.person import Box, Person
from heads.photo import Photo, read_photo
from heads.spec import NetworkSpec
from service.inference.engine import DEFAULT_DETECTOR, NO_DETECTOR
from service.inference.estimator import Estimator, load
from service.inference.loading import DEFAULT_PRECISION, RuntimeChoice
from service.inference.runtime import Precision

if TYPE_CHECKING:
    from training.annotations import Annotations
    from training.evaluate import Result, Scores


def evaluate(
    annotations: Annotated[
        Path,
        typer.Option(
            help="COCO keypoint annotations (JSON); a folder of masks; for classifiers a folder "
            "with a folder of photographs for each class."
        ),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, but for folders of classes.")
    ] = None,
    boxes: Annotated[
        str,
        typer.Option(help="`gt`, `detector`, or a COCO detections file, scored as officially."),
    ] = "detector",
    detector: DetectorOption = DEFAULT_DETECTOR,
    model: Annotated[
        list[str] | None, typer.Option(help="Networks to measure; all embedded ones if left out.")
    ] = None,
    flip_test: Annotated[bool, typer.Option("--flip-test")] = False,
    runtime: Annotated[
        RuntimeChoice, typer.Option(help="What runs the networks, as for `hrpose serve`.")
    ] = "torch",
    precision: Annotated[
        Precision, typer.Option(help="`fast`: bfloat16, where OpenVINO has it.")
    ] = DEFAULT_PRECISION,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder for COCO result files, one a network.", callback=can_be_folder),
    ] = None,
    by_keypoint: Annotated[
        bool,
        typer.Option("--by-keypoint", help="Also PCKh, AUC, EPE, and PCK of each keypoint."),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Measure networks through the server's own pipeline: keypoints by COCO's official measure.

    Masks by mean intersection over union, classes by top-1 and top-5.
    """
    from training.annotations import load_annotations
    from training.evaluate import score, write_results

    spare_inputs([annotations, boxes, detector, *(model or [])], json_file)
    if annotations.is_dir():
        if flip_test or by_keypoint or results is not None:
            raise typer.BadParameter(
                "--flip-test, --by-keypoint and --results are of keypoints, which a folder has not"
            )
        evaluate_whole(annotations, images, model or (), runtime, precision, json_file)
        return
    if images is None:
        raise typer.BadParameter("--images is missing: the folder of the images")
    if boxes not in ("gt", "detector") and not Path(boxes).is_file():
        raise typer.BadParameter(f"there is no file {boxes}", param_hint="--boxes")
    truth = load_annotations(annotations)
    rows: list[Scores] = []
    for name in model or _embedded(boxes):
        estimator = load(name, runtime=runtime, precision=precision, detector=detector)
        # Two files of one recipe have one name.
        called = estimator.spec.name
        called = name if called in [row.model for row in rows] else called
        if results is not None:
            spare_inputs([annotations, boxes], results / results_name(called, boxes))
        found = answers(estimator, truth, images, boxes, flip_test)
        used = boxes_used(boxes, estimator.spec, detector)
        rows.append(score(truth, found, model=called, boxes=used))
        if results is not None:
            write_results(results / results_name(called, boxes), found)
    out.print(_scores_table(rows, flip_test))
    if by_keypoint:
        out.print(_keypoint_table(rows))
    scores = [row.model_dump() for row in rows]
    write_json(
        json_file,
        {"flip_test": flip_test, "runtime": runtime, "precision": precision, "scores": scores},
    )


def results_name(network: str, boxes: str) -> str:
    """A file's name for a network, whose own may come from a foreign file and look like a path."""
    plain = network.replace("/", "_").replace("\\", "_")
    return f"{plain}.{Path(boxes).stem}.json"


def answers(
    estimator: Estimator, truth: "Annotations", images: Path, boxes: str, flip_test: bool
) -> "list[Result]":
    """What an estimator answers to every annotated photograph, shown as it goes."""
    from training.errors import AnnotationError
    from training.evaluate import BoxesFrom, predict_all

    annotated, answered = truth.skeleton.keypoints, estimator.spec.skeleton.keypoints
    if estimator.spec.task in ("pose", "people") and len(annotated) != len(answered):
        raise AnnotationError(
            f"{truth.name} has {len(annotated)} keypoints, {estimator.spec.name} finds "
            f"{len(answered)}; --model names a network of the same ones"
        )

    def predict_one(photo: Photo, given: Sequence[Box] | None) -> list[Person]:
        return estimator.predict(photo, given, threshold=0.0, flip_test=flip_test)

    def follow(entries: Sequence[Any]) -> Iterable[Any]:
        return followed(entries, estimator.spec.name)

    source: BoxesFrom | Path
    source = "gt" if boxes == "gt" else "detector" if boxes == "detector" else Path(boxes)
    return predict_all(truth, images, predict_one, source, follow=follow, read=read_photo)


def _embedded(boxes: str) -> list[str]:
    """Embedded networks; those that find people by themselves cannot use given boxes."""
    from heads import zoo

    names = [entry.name for entry in zoo.entries() if entry.embedded]
    if boxes == "detector":
        return names
    return [name for name in names if zoo.find(name).task == "pose"]


def boxes_used(boxes: str, spec: NetworkSpec, detector: str = DEFAULT_DETECTOR) -> str:
    """Which boxes people were looked for in, in words."""
    if boxes == "gt":
        return "annotated boxes"
    if boxes != "detector":
        return f"boxes of {Path(boxes).name}"
    if spec.task == "people":
        return "its own"
    return "whole images" if detector == NO_DETECTOR else f"boxes of {Path(detector).name}"


def _scores_table(rows: "Sequence[Scores]", flip_test: bool) -> Table:
    figures = ("AP", "AP50", "AP75", "AP M", "AP L", "AR", "PCK@0.2")
    title = "COCO keypoints (OKS)" + (", flip test" if flip_test else "")
    table = Table("model", "boxes", *figures, "people", "answers", box=None, title=title)
    for row in rows:
        values = (row.ap, row.ap50, row.ap75, row.ap_medium, row.ap_large, row.ar, row.pck)
        shown = map(_shown, values)
        table.add_row(row.model, row.boxes, *shown, str(row.people), str(row.answers))
    return table


def _keypoint_table(rows: "Sequence[Scores]") -> Table:
    """A column for each network; the last rows are of all keypoints."""
    reference = rows[0].pck_reference
    names = (row.model for row in rows)
    table = Table("keypoint", *names, box=None, title=f"PCK@0.2 ({reference})")
    for name in rows[0].pck_by_keypoint:
        table.add_row(name, *(_shown(row.pck_by_keypoint.get(name)) for row in rows))
    table.add_section()
    figures: dict[str, Callable[[Any], float | None]] = {
        "all": lambda row: row.pck,
        "PCKh@0.5": lambda row: row.pckh,
        "AUC": lambda row: row.auc,
        "EPE, pixels": lambda row: row.epe_px,
    }
    for name, of in figures.items():
        table.add_row(name, *(_shown(of(row)) for row in rows))
    return table


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
