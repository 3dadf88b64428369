"""`hrpose data`: keypoint data sets looked through before hours are spent; converted; labelled."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from commands.console import (
    JsonOption,
    ModelOption,
    can_be_folder,
    can_be_written,
    errors,
    followed,
    out,
    spare_inputs,
    write_file,
    write_json,
)
from heads.image import Image, encode_image
from heads.person import Box, Person
from service.inference.catalogue import DEFAULT
from service.inference.estimator import load

if TYPE_CHECKING:
    from training.doctor import Report
    from training.labelling import Photograph

ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]

app = typer.Typer(
    help="Keypoint data sets: check, convert, label; masks of COCO's outlines.",
    no_args_is_help=True,
)


@app.command("check")
def check(
    annotations: Annotated[
        Path, typer.Argument(help="COCO keypoint annotations (JSON), or a YOLO-pose data.yaml.")
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images; that of the file if left out.")
    ] = None,
    json_file: JsonOption = None,
    sheet_file: Annotated[
        Path | None,
        typer.Option(
            "--sheet", help="Draw people here (PNG), the worst first.", callback=can_be_written
        ),
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="So many findings of each kind.")] = 10,
    against: Annotated[
        Path | None,
        typer.Option(help="Annotations to validate on: find photographs that stand in both."),
    ] = None,
    against_images: Annotated[
        Path | None, typer.Option(help="Folder of their images; that of the file if left out.")
    ] = None,
) -> None:
    """Find what is wrong with a keypoint data set; exit code 1 where training would suffer."""
    from training.contact_sheet import sheet
    from training.doctor import examine
    from training.overlap import with_shared

    if against_images is not None and against is None:
        raise typer.BadParameter("--against-images belongs to --against")
    spare_inputs([annotations, against], json_file, sheet_file)
    data = examine(annotations, images)
    if against is not None:
        data = with_shared(data, against, against_images)
    _print_findings(data.report, show)
    _print_counts(data.report)
    write_json(json_file, data.report.model_dump(mode="json"))
    if sheet_file is not None:
        write_file(sheet_file, encode_image(sheet(data), "png"))
    if data.report.errors:
        raise typer.Exit(1)


@app.command("convert")
def convert(
    data: Annotated[Path, typer.Argument(help="data.yaml of a YOLO-pose folder.")],
    out_file: Annotated[
        Path,
        typer.Option("--out", help="The COCO file (JSON) to write.", callback=can_be_written),
    ],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    force: ForceOption = False,
) -> None:
    """Write a YOLO-pose folder's labels as a COCO keypoint file."""
    from training.formats import read_yolo

    spare_inputs([data], out_file)
    _refuse_to_replace(out_file, force)
    content, folder = read_yolo(data, (split,))
    write_file(out_file, (json.dumps(content) + "\n").encode())
    images, people = len(content["images"]), len(content["annotations"])
    out.print(
        f"{out_file}: {images} images, {people} annotations; images in {folder}", highlight=False
    )


@app.command("masks")
def masks(
    annotations: Annotated[
        Path, typer.Argument(help="COCO file (JSON) of outlines: polygons or runs.")
    ],
    out_folder: Annotated[
        Path,
        typer.Option("--out", help="Folder for the masks, NAME.png.", callback=can_be_folder),
    ],
    classes: Annotated[
        str,
        typer.Option(help="Categories to tell apart, by name and comma; all if left out."),
    ] = "",
    force: ForceOption = False,
) -> None:
    """Write COCO's outlines as masks to train segmentation on."""
    from training.masks import write_masks

    named = tuple(part.strip() for part in classes.split(",") if part.strip())
    found, count = write_masks(annotations, out_folder, named, force=force)
    out.print(f"{out_folder}: {count} masks", highlight=False)
    out.print(f"data.classes = {json.dumps(found)}", highlight=False, soft_wrap=True)


@app.command("label")
def label(
    photos: Annotated[
        Path, typer.Argument(help="Folder of photographs.", exists=True, file_okay=False)
    ],
    out_file: Annotated[
        Path,
        typer.Option("--out", help="The COCO keypoint file to write.", callback=can_be_written),
    ],
    boxes: Annotated[
        Path | None,
        typer.Option(help="COCO file (JSON) of boxes to label; everybody found if left out."),
    ] = None,
    model: ModelOption = DEFAULT,
    flip_test: Annotated[
        bool, typer.Option(help="Look at each person twice, once in a mirror.")
    ] = True,
    least: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out people with a lower mean score.")
    ] = 0.3,
    force: ForceOption = False,
) -> None:
    """Label photographs by a network, to correct or to train on; exit code 1 where nobody was."""
    from training import labelling

    _refuse_to_replace(out_file, force)
    estimator = load(model)
    spec = estimator.spec
    photographs = (
        labelling.find_photographs(photos) if boxes is None else labelling.read_boxes(boxes, spec)
    )

    def predict(image: Image, given: Sequence[Box] | None) -> Sequence[Person]:
        return estimator.predict(image, given, flip_test=flip_test)

    def follow(entries: "Sequence[Photograph]") -> "Iterable[Photograph]":
        return followed(entries, spec.name)

    labels = labelling.label(photographs, photos, predict, spec, least=least, follow=follow)
    for reason in labels.unreadable:
        errors.print(f"left out: {reason}", style="yellow", highlight=False, markup=False)
    people = len(labels.content["annotations"])
    if people:
        write_file(out_file, (json.dumps(labels.content) + "\n").encode())
    images = len(labels.content["images"])
    out.print(
        f"{out_file if people else 'nothing written'}: {images} images, {people} people "
        f"labelled by {spec.name}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for what, count in labels.left_out.items():
        out.print(f"left out, {what}: {count}", highlight=False, markup=False)
    if not people:
        raise typer.Exit(1)


def _refuse_to_replace(path: Path, force: bool) -> None:
    if path.is_file() and not force:
        raise typer.BadParameter(f"{path} is there already; --force replaces it")


def _print_findings(report: "Report", show: int) -> None:
    printed: Counter[tuple[str, str]] = Counter()
    for finding in report.findings:
        key = (finding.level, finding.kind)
        printed[key] += 1
        if printed[key] > show:
            continue
        out.print(
            f"{finding.level}: {finding} [{finding.kind}]",
            style="red" if finding.level == "error" else "yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    for (level, kind), count in printed.items():
        if count > show:
            out.print(f"{level}: {count - show} more [{kind}]", markup=False, highlight=False)


def _print_counts(report: "Report") -> None:
    table = Table("keypoint", "labelled", "visible", "hidden", "sigma", "sigma from", box=None)
    for k in report.keypoints:
        row = (k.labelled, k.visible, k.hidden, f"{k.sigma:.3f}", k.sigma_from)
        table.add_row(k.name, *map(str, row))
    out.print(table, highlight=False)
    pairs = ", ".join(f"{a}/{b}" for a, b in report.flip_pairs) or "-"
    fields = json.dumps(report.category)[1:-1]
    lines = (
        f"flip pairs: {pairs} ({report.flip_pairs_from})",
        *([f"training uses others; write into the category: {fields}"] if fields else []),
        f"{report.data}: {report.images} images ({report.images_without} show nobody), "
        f"{report.people} people, {report.unlabelled} without labels, {report.crowds} crowds",
        f"{len(report.errors)} errors, {len(report.warnings)} warnings",
    )
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)
