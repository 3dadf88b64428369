"""`hrpose compress`: a smaller file of the same network, and what that costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.console import (
    JsonOption,
    Refused,
    can_be_written,
    files_of,
    out,
    spare_inputs,
    write_json,
)
from commands.evaluate import answers, boxes_used
from heads.image import read_image
from heads.photo import read_photo
from heads.spec import NetworkSpec
from service.inference.catalogue import DEFAULT, resolve_default
from service.inference.estimator import load

if TYPE_CHECKING:
    import torch

    from training.annotations import Annotations


def compress(
    network: Annotated[str, typer.Argument(help="A name of `hrpose models` or a checkpoint.")],
    out_file: Annotated[
        Path, typer.Option("--out", help="The checkpoint to write.", callback=can_be_written)
    ],
    svd: Annotated[int | None, typer.Option(help="Low rank of every weight.")] = None,
    prune: Annotated[float | None, typer.Option(help="Share of weights set to 0.")] = None,
    cluster: Annotated[
        int | None, typer.Option(help="Values a weight may have, up to 256.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8 bits a weight.")] = False,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO annotations: measures a pose network's AP.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the photographs, or of what a classifier is shown."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Write a smaller file of the same network, and print what that costs in accuracy."""
    from heads.load import load as load_network
    from training import compress as methods

    chosen = {
        name: value
        for name, value in (("svd", svd), ("prune", prune), ("cluster", cluster))
        if value is not None
    }
    if int8:
        chosen["int8"] = True
    if len(chosen) != 1:
        raise typer.BadParameter("choose one of --svd, --prune, --cluster, --int8")
    if out_file.suffix != ".safetensors":
        raise typer.BadParameter(f"--out is a .safetensors file; got {out_file.name}")
    source = resolve_default() if network == DEFAULT else network
    spare_inputs([source, annotations], out_file, json_file)
    truth = None
    if annotations is not None:
        from training.annotations import load_annotations

        truth = load_annotations(annotations)
    original, packed = load_network(source), load_network(source)
    photos = _photographs(original.spec, images, truth)  # before there is work to lose
    if prune is not None:
        methods.prune_smallest(packed, prune)
    pack = (
        methods.low_rank(svd) if svd is not None
        else methods.sparse if prune is not None
        else methods.clusters(cluster) if cluster is not None
        else methods.eight_bits
    )  # fmt: skip
    methods.save_packed(out_file, packed, pack)
    before, after = (_bytes_as_float32(original), out_file.stat().st_size)
    row: dict[str, Any] = {
        "network": original.spec.name,
        "method": "int8" if int8 else " ".join(f"{name} {value}" for name, value in chosen.items()),
        "bytes_float32": before,
        "bytes": after,
    }
    row |= _score_change(network, out_file, original.spec, truth, images, photos)
    out.print(
        f"{row['network']}, {row['method']}: {before / 1e6:.2f} MB as float32 -> {after / 1e6:.2f} "
        f"MB ({before / after:.1f}x smaller). {row['score']}",
        highlight=False,
    )
    write_json(json_file, row)


def _bytes_as_float32(network: "torch.nn.Module") -> int:
    return sum(4 * tensor.numel() for tensor in network.state_dict().values())


def _photographs(spec: NetworkSpec, images: Path | None, truth: "Annotations | None") -> list[Path]:
    """What a classifier is shown; Refused, or ImageError, where nothing can be measured so."""
    if spec.task == "segment" and truth is not None:
        raise Refused(f"{spec.name} is a segment network; keypoints do not measure it")
    if images is None:
        return []
    if spec.task != "classify":
        if not images.is_dir():
            raise Refused(f"{images} is no folder of photographs")
        return []
    files = files_of([images])
    for path in files:
        read_photo(path)
    return files


def _score_change(
    before: str,
    after: Path,
    spec: NetworkSpec,
    truth: "Annotations | None",
    images: Path | None,
    photos: Sequence[Path],
) -> dict[str, Any]:
    """What packing changed, measured; says so where nothing was given to measure it on."""
    if images is None or (spec.task != "classify" and truth is None):
        return {
            "score": "Not measured: give --annotations and --images (or --images, to classify)."
        }
    if spec.task == "classify":
        old, new = load(before), load(after)
        same = sum(
            old.classify(image, 1)[0].index == new.classify(image, 1)[0].index
            for image in map(read_image, photos)
        )
        return {
            "photos": len(photos),
            "same_top1": same,
            "score": f"Same first class on {same} of {len(photos)} photographs.",
        }
    from training.evaluate import score

    assert truth is not None
    boxes = "gt" if spec.task == "pose" else "detector"
    ap = [
        score(truth, answers(load(name), truth, images, boxes, False)).ap
        for name in (before, after)
    ]
    used = boxes_used(boxes, spec)
    return {
        "ap_before": ap[0],
        "ap_after": ap[1],
        "boxes": used,
        "score": f"AP {ap[0]:.3f} -> {ap[1]:.3f} ({used}).",
    }
