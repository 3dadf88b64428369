"""`hrpose data`: look through keypoint data sets before hours are spent on them; convert them."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from commands.console import JsonOption, out, write_json
from heads.image import encode_image

if TYPE_CHECKING:
    from training.doctor import Report

app = typer.Typer(help="Keypoint data sets: check, convert.", no_args_is_help=True)


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
        Path | None, typer.Option("--sheet", help="Draw people here (PNG), the worst first.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="So many findings of each kind.")] = 10,
) -> None:
    """Find what is wrong with a keypoint data set; exit code 1 where training would suffer."""
    from training.contact_sheet import sheet
    from training.doctor import examine

    data = examine(annotations, images)
    _print_findings(data.report, show)
    _print_counts(data.report)
    write_json(json_file, data.report.model_dump(mode="json"))
    if sheet_file is not None:
        sheet_file.write_bytes(encode_image(sheet(data), "png"))
    if data.report.errors:
        raise typer.Exit(1)


@app.command("convert")
def convert(
    data: Annotated[Path, typer.Argument(help="data.yaml of a YOLO-pose folder.")],
    out_file: Annotated[Path, typer.Option("--out", help="The COCO file (JSON) to write.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
) -> None:
    """Write a YOLO-pose folder's labels as a COCO keypoint file."""
    from training.formats import read_yolo

    content, folder = read_yolo(data, (split,))
    out_file.write_text(json.dumps(content) + "\n", encoding="utf-8")
    images, people = len(content["images"]), len(content["annotations"])
    out.print(
        f"{out_file}: {images} images, {people} annotations; images in {folder}", highlight=False
    )


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
