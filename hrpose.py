"""The front door of hrpose: what `import hrpose` offers, and the command `hrpose`.

    import hrpose
    estimator = hrpose.load("default")
    for person in estimator.predict(hrpose.read_image(Path("photo.jpg"))):
        print(person.score, person.keypoints)          # [K, 3]: x, y, score in upright pixels

Heavy parts (torch) are imported when they are used, so that `hrpose --help` answers at once.
"""

import inspect
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from heads.image import Image, decode_image, encode_image, fits, read_image
from heads.person import Person
from heads.skeleton import COCO_17, Skeleton
from heads.spec import NetworkSpec
from models.errors import HrposeError, ShapeError, SpecError
from service.inference.answers import Box, ClassScore, PoseOptions
from service.inference.catalogue import DEFAULT, resolve_default
from service.inference.engine import DEFAULT_DETECTOR, Engine, serve_network
from service.inference.job import Job
from service.inference.pipeline import PeopleNetwork, Pipeline, PoseNetwork
from service.inference.whole import ClassifyNetwork, SegmentNetwork

if TYPE_CHECKING:
    import torch

    from models.backbone import Backbone
    from training.evaluate import Annotations, Result, Scores

__all__ = [
    "COCO_17",
    "Estimator",
    "HrposeError",
    "NetworkSpec",
    "Person",
    "Skeleton",
    "create_backbone",
    "decode_image",
    "load",
    "read_image",
]

# A pipe has no width of its own; rows are not to be cut to 80 columns there.
out = Console(width=None if sys.stdout.isatty() else 120)
errors = Console(stderr=True)

# ------------------------------------------------------------------------------------ Python API


class Estimator:
    """A network ready to answer about images. Thread-safe.

    spec: what the network is.
    network: the torch module; normalised float32 [N, 3, H, W] -> heatmaps or named maps.
    """

    def __init__(self, network: "torch.nn.Module", spec: NetworkSpec, device: str) -> None:
        self.spec = spec
        self.network = network
        self._device = device
        self._turn = threading.Lock()
        self._serving = serve_network(network, spec, device, self._turn)
        self._detector: PeopleNetwork | None = None
        self._loading = threading.Lock()

    def predict(
        self,
        image_rgb_uint8: Image,
        boxes_xywh: Sequence[Box] | None = None,
        *,
        threshold: float | None = None,
        flip_test: bool = False,
    ) -> list[Person]:
        """Everybody in an RGB uint8 [H, W, 3] image, best first; with boxes, one person a box.

        boxes_xywh: left, top, width, height in pixels. Without boxes a pose network asks the
        default detector. Raises ShapeError for another kind of image, InvalidParameter for boxes
        outside the image.
        """
        if not isinstance(self._serving, PeopleNetwork | PoseNetwork):
            raise SpecError(f"{self.spec.name} is a {self.spec.task} network; it finds no people")
        boxes = None if boxes_xywh is None else tuple(_box(box) for box in boxes_xywh)
        detector = self._default_detector() if boxes is None else None
        options = PoseOptions(boxes, threshold, flip_test=flip_test)
        return list(
            Pipeline(self._serving, detector).people(image_rgb_uint8, options, Job()).people
        )

    def classify(self, image_rgb_uint8: Image, top_k: int = 5) -> list[ClassScore]:
        """The top_k likeliest classes of an image, by a classification network."""
        if not isinstance(self._serving, ClassifyNetwork):
            raise SpecError(f"{self.spec.name} is a {self.spec.task} network; it cannot classify")
        return self._serving.classify(_checked(image_rgb_uint8), top_k, Job())[0]

    def segment(self, image_rgb_uint8: Image) -> Image:
        """The class of every pixel, uint8 [H, W] indices of `spec.classes`."""
        if not isinstance(self._serving, SegmentNetwork):
            raise SpecError(f"{self.spec.name} is a {self.spec.task} network; it cannot segment")
        return self._serving.segment(_checked(image_rgb_uint8), Job())[0]

    def _default_detector(self) -> PeopleNetwork | None:
        if isinstance(self._serving, PeopleNetwork):
            return None
        with self._loading:
            if self._detector is None:
                from heads.load import load as load_network

                network = load_network(DEFAULT_DETECTOR)
                found = serve_network(network, network.spec, self._device, self._turn)
                assert isinstance(found, PeopleNetwork)
                self._detector = found
            return self._detector


def load(name_or_file: str | Path, network: str | None = None, device: str = "cpu") -> Estimator:
    """The estimator of a name, of a checkpoint of ours, or of a public file.

    name_or_file: a name of `hrpose models`, `default`, or a file.
    network: for public files (.pth), what they hold: `<backbone>+<head>`, as in
        `hrpose.load("pose_hrnet_w48.pth", network="hrnet_w48+simple")`.
    Raises UnknownName, WeightsMissing, CheckpointError or WeightsError, all HrposeErrors.
    """
    from heads.load import load as load_network

    name = resolve_default() if str(name_or_file) == DEFAULT else name_or_file
    loaded = load_network(name, network)
    return Estimator(loaded, loaded.spec, device)


def create_backbone(
    name: str, *, strides: Sequence[int] | None = None, **options: Any
) -> "Backbone":
    """A backbone by name, with the maps of the asked strides; see `models.create_backbone`."""
    from models.backbone import create_backbone as create

    return create(name, strides=strides, **options)


def _checked(image: Image) -> Image:
    if not fits(image):
        raise ShapeError(f"an image is RGB uint8 [H, W, 3]; got {image.dtype} {image.shape}")
    return image


def _box(box: Sequence[float]) -> Box:
    left, top, width, height = (float(value) for value in box)
    return (left, top, width, height)


# --------------------------------------------------------------------------------- command line

app = typer.Typer(
    name="hrpose",
    help="Keypoints of people: serve them over HTTP, find them in photographs, measure networks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
weights_app = typer.Typer(
    help="Weights of public networks: list, get, verify.", no_args_is_help=True
)
app.add_typer(weights_app, name="weights")

ModelOption = Annotated[str, typer.Option(help="A name of `hrpose models` or a checkpoint file.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the result here.")]


def _serve(**settings: Any) -> None:
    """Start the server: POST /pose, /detect; a page at /."""
    # OpenMP threads that wait by spinning starve their neighbours; to be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    from service.app import run
    from service.settings import Settings

    given = {name: value for name, value in settings.items() if value is not None}
    try:
        chosen = Settings(**given)
    except ValidationError as error:
        problems = [f"{e['loc'][0]}: {e['msg']}" for e in error.errors(include_input=False)]
        raise typer.BadParameter("; ".join(problems)) from error
    run(chosen)


def _with_settings_as_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a flag for every field of the server's settings."""
    from service.settings import Settings

    parameters = []
    for name, field in Settings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        help_text = f"{field.description} [HRPOSE_{name.upper()}; default: {field.default}]"
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[str | None, typer.Option(flag, help=help_text)],
            )
        )
    setattr(command, "__signature__", inspect.Signature(parameters))  # noqa: B010
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


app.command("serve")(_with_settings_as_flags(_serve))


@app.command()
def predict(
    photos: Annotated[list[Path], typer.Argument(help="JPEG, PNG, WebP or BMP files.")],
    boxes: Annotated[
        str | None, typer.Option(help="JSON list of [left, top, width, height], one a person.")
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Draw pictures there.")] = None,
    model: ModelOption = DEFAULT,
    flip_test: Annotated[bool, typer.Option("--flip-test")] = False,
    json_file: JsonOption = None,
) -> None:
    """Find everybody's keypoints in photographs."""
    from service.render import draw_people

    estimator = load(model)
    given = None if boxes is None else _parse_boxes(boxes)
    answers = []
    for path in photos:
        image = read_image(path)
        people = estimator.predict(image, given, flip_test=flip_test)
        answers.append({"image": str(path), "people": [_as_json(p, estimator) for p in people]})
        out.print(f"{path}: {len(people)} people", highlight=False)
        if out_dir is not None:
            out_dir.mkdir(parents=True, exist_ok=True)
            drawn = draw_people(image, people, estimator.spec.skeleton)
            target = out_dir / f"{path.stem}.png"
            target.write_bytes(encode_image(drawn, "png"))
    _write_json(json_file, {"model": estimator.spec.name, "photos": answers})


@app.command("models")
def list_models(json_file: JsonOption = None) -> None:
    """List every network by name: what it does, its state and score; --json has all of it."""
    engine = Engine()
    table = Table(box=None)
    for column in ("name", "task", "state", "network", "input", "score"):
        table.add_column(column, no_wrap=True)
    infos = engine.models()
    for info in infos:
        size = "x".join(map(str, info.input_size or ()))
        name = f"{info.name} (default)" if info.is_default else info.name
        network = f"{info.backbone}+{info.head}"
        table.add_row(name, info.task, info.state, network, size, _short_score(info.scores))
    out.print(table)
    _write_json(json_file, {"models": [_info_json(info) for info in infos]})


def _short_score(scores: Mapping[str, float | str]) -> str:
    """The first score, and whose measurement it is; --json and the model cards have the others."""
    for value in scores.values():
        if isinstance(value, str):
            return f"{value.split(',')[0]} (published)"
        return f"AP {value:.3f} (docs/scores.md)"
    return ""


@app.command()
def profile(
    name: Annotated[str, typer.Argument(help="A backbone, or <backbone>+<head>.")],
    input_size: Annotated[str, typer.Option("--input", help="HEIGHTxWIDTH.")] = "256x192",
    layers: Annotated[bool, typer.Option(help="Show every layer.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Count parameters and multiply-adds of a backbone or a whole network."""
    from heads.network import build
    from heads.spec import default_spec
    from models.profile import profile as measure

    size = _parse_size(input_size)
    module = build(default_spec(name, input_size=size)) if "+" in name else create_backbone(name)
    result = measure(module, size)
    if layers:
        table = Table("layer", "type", "output", "parameters", "multiply-adds", box=None)
        for row in result.layers:
            shape = "x".join(map(str, row.output_shape))
            table.add_row(
                row.name, row.type, shape, f"{row.parameters:,}", f"{row.multiply_adds:,}"
            )
        out.print(table)
    out.print(
        f"{name} at {input_size}: {result.parameters:,} parameters, "
        f"{result.multiply_adds / 1e9:.3f} G multiply-adds",
        highlight=False,
    )
    _write_json(
        json_file,
        {
            "name": name,
            "input_size": size,
            "parameters": result.parameters,
            "multiply_adds": result.multiply_adds,
        },
    )


@weights_app.command("list")
def weights_list() -> None:
    """List public and embedded networks and whether their weights are here."""
    list_models()


@weights_app.command("get")
def weights_get(
    names: Annotated[list[str], typer.Argument(help="Names of public networks.")],
) -> None:
    """Download weights into the cache; an interrupted download goes on where it stopped."""
    from heads import zoo

    for name in names:
        out.print(f"{name}: {zoo.get(name, progress=True)}", highlight=False)


@weights_app.command("verify")
def weights_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="All that are here if left out.")
    ] = None,
) -> None:
    """Check the hashes of weights on this machine."""
    from heads import zoo

    statuses = {name: zoo.verify(name) for name in names or [e.name for e in zoo.entries()]}
    for name, status in statuses.items():
        out.print(f"{name}: {status}", highlight=False)
    if any(status == "damaged" for status in statuses.values()):
        raise typer.Exit(1)


@app.command()
def evaluate(
    annotations: Annotated[Path, typer.Option(help="COCO keypoint annotations (JSON).")],
    images: Annotated[Path, typer.Option(help="Folder of the images.")],
    boxes: Annotated[
        str, typer.Option(help="`gt`, `detector`, or a COCO detections file.")
    ] = "detector",
    model: Annotated[
        list[str] | None, typer.Option(help="Networks to measure; all embedded ones if left out.")
    ] = None,
    flip_test: Annotated[bool, typer.Option("--flip-test")] = False,
    results: Annotated[
        Path | None, typer.Option(help="Folder for COCO result files, one a network.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure networks by the official COCO keypoint measure, through the server's own pipeline."""
    from training.evaluate import load_annotations, score, write_results

    truth = load_annotations(annotations)
    rows = []
    for name in model or _embedded(boxes):
        estimator = load(name)
        found = _answers(estimator, truth, images, boxes, flip_test)
        used = _boxes_used(boxes, estimator.spec)
        rows.append(score(truth, found, model=estimator.spec.name, boxes=used))
        if results is not None:
            write_results(results / f"{estimator.spec.name}.{Path(boxes).stem}.json", found)
    out.print(_scores_table(rows, flip_test))
    _write_json(json_file, {"flip_test": flip_test, "scores": [row.model_dump() for row in rows]})


def _answers(
    estimator: Estimator, truth: "Annotations", images: Path, boxes: str, flip_test: bool
) -> "list[Result]":
    """What an estimator answers to every annotated photograph, shown as it goes."""
    from rich.progress import track

    from training.evaluate import BoxesFrom, predict_all

    def predict_one(image: Image, given: Sequence[Box] | None) -> list[Person]:
        return estimator.predict(image, given, threshold=0.0, flip_test=flip_test)

    def follow(entries: Sequence[Any]) -> Iterable[Any]:
        return track(entries, estimator.spec.name, console=errors, transient=True)

    source: BoxesFrom | Path
    source = "gt" if boxes == "gt" else "detector" if boxes == "detector" else Path(boxes)
    return predict_all(truth, images, predict_one, source, follow=follow)


def _embedded(boxes: str) -> list[str]:
    """Embedded networks; those that find people by themselves cannot use given boxes."""
    from heads import zoo

    names = [entry.name for entry in zoo.entries() if entry.embedded]
    if boxes == "detector":
        return names
    return [name for name in names if zoo.find(name).task == "pose"]


def _boxes_used(boxes: str, spec: NetworkSpec) -> str:
    """Which boxes people were looked for in, in words."""
    if boxes == "gt":
        return "annotated boxes"
    if boxes != "detector":
        return f"boxes of {Path(boxes).name}"
    return "its own" if spec.task == "people" else f"boxes of {DEFAULT_DETECTOR}"


def _scores_table(rows: "Sequence[Scores]", flip_test: bool) -> Table:
    figures = ("AP", "AP50", "AP75", "AP M", "AP L", "AR", "PCK@0.2")
    title = "COCO keypoints (OKS)" + (", flip test" if flip_test else "")
    table = Table("model", "boxes", *figures, "people", "answers", box=None, title=title)
    for row in rows:
        values = (row.ap, row.ap50, row.ap75, row.ap_medium, row.ap_large, row.ar, row.pck)
        shown = [f"{value:.3f}" for value in values]
        table.add_row(row.model, row.boxes, *shown, str(row.people), str(row.answers))
    return table


@app.command()
def compress(
    network: Annotated[str, typer.Argument(help="A name of `hrpose models` or a checkpoint.")],
    out_file: Annotated[Path, typer.Option("--out", help="The checkpoint to write.")],
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
        Path | None, typer.Option(help="Photographs: their folder, or what a classifier is shown.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Write a smaller file of the same network, and print what that costs in accuracy."""
    from heads.load import load as load_network
    from training import compress as methods

    chosen = {
        name: value
        for name, value in (("svd", svd), ("prune", prune), ("cluster", cluster), ("int8", int8))
        if value not in (None, False)
    }
    if len(chosen) != 1:
        raise typer.BadParameter("choose one of --svd, --prune, --cluster, --int8")
    source = resolve_default() if network == DEFAULT else network
    original, packed = load_network(source), load_network(source)
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
        "method": " ".join(f"{name} {value}" for name, value in chosen.items()),
        "bytes_float32": before,
        "bytes": after,
    }
    row |= _score_change(network, out_file, original.spec.task, annotations, images)
    out.print(
        f"{row['network']}, {row['method']}: {before / 1e6:.2f} MB as float32 -> {after / 1e6:.2f} "
        f"MB ({before / after:.1f}x smaller). {row['score']}",
        highlight=False,
    )
    _write_json(json_file, row)


def _bytes_as_float32(network: "torch.nn.Module") -> int:
    return sum(4 * tensor.numel() for tensor in network.state_dict().values())


def _score_change(
    before: str, after: Path, task: str, annotations: Path | None, images: Path | None
) -> dict[str, Any]:
    """What packing changed, measured; says so where nothing was given to measure it on."""
    if images is None or (task != "classify" and annotations is None):
        return {
            "score": "Not measured: give --annotations and --images (or --images, to classify)."
        }
    if task == "classify":
        old, new = load(before), load(after)
        photos = [read_image(path) for path in _photos(images)]
        same = sum(old.classify(p, 1)[0].index == new.classify(p, 1)[0].index for p in photos)
        return {
            "photos": len(photos),
            "same_top1": same,
            "score": f"Same first class on {same} of {len(photos)} photographs.",
        }
    from training.evaluate import load_annotations, score

    assert annotations is not None
    truth = load_annotations(annotations)
    boxes = "gt" if task == "pose" else "detector"
    ap = [
        score(truth, _answers(load(name), truth, images, boxes, False)).ap
        for name in (before, after)
    ]
    used = _boxes_used(boxes, load(after).spec)
    return {
        "ap_before": ap[0],
        "ap_after": ap[1],
        "boxes": used,
        "score": f"AP {ap[0]:.3f} -> {ap[1]:.3f} ({used}).",
    }


def _photos(folder: Path) -> list[Path]:
    kinds = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in kinds)


@app.command("backbones")
def list_backbones() -> None:
    """Print every backbone with its cost as a Markdown table (docs/backbones.md)."""
    typer.echo(backbones_page(), nl=False)


def backbones_page() -> str:
    """The page docs/backbones.md: every backbone, its paper, cost, strides and public weights."""
    from models.backbone import facts
    from models.backbone import list_backbones as names

    rows = []
    for name in names():
        known = facts(name)
        size = "x".join(map(str, known.input_size))
        strides = ", ".join(map(str, known.strides))
        weights = f"{known.weights_origin}, {known.weights_licence}"
        rows.append(
            f"| `{name}` | {known.parameters / 1e6:.2f} M | {known.multiply_adds / 1e9:.3f} G "
            f"| {size} | {strides} | {known.paper} | {weights} |"
        )
    return "\n".join(
        [
            "# Backbones",
            "",
            "Cost of each backbone without a head, all strides built, for one image of the size "
            "given; multiply-adds / 10^9. A test measures every row again. Made by `make docs`.",
            "",
            "| name | parameters | multiply-adds | input | strides | paper | public weights |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


@app.command("settings")
def list_settings() -> None:
    """Print the server's settings as a Markdown table (docs/configuration.md)."""
    typer.echo(configuration_page(), nl=False)


def configuration_page() -> str:
    """The page docs/configuration.md: every setting, its flag, variable, default and meaning."""
    from service.settings import Settings

    rows = [
        f"| `--{name.replace('_', '-')}` | `HRPOSE_{name.upper()}` | `{field.default}` "
        f"| {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(
        [
            "# Configuration",
            "",
            "Every setting of `hrpose serve`; a flag wins over its variable. Made by `make docs`.",
            "",
            "| flag | variable | default | meaning |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def _parse_boxes(text: str) -> list[Box]:
    try:
        return [_box(box) for box in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"boxes are [[left, top, width, height], ...]: {error}") from error


def _parse_size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError as error:
        raise typer.BadParameter(f"{text} is not HEIGHTxWIDTH") from error
    return height, width


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


def _info_json(info: Any) -> dict[str, Any]:
    return {
        "name": info.name,
        "task": info.task,
        "state": info.state,
        "network": f"{info.backbone}+{info.head}",
        "input_size": info.input_size,
        "scores": info.scores,
        "licence": info.licence,
        "is_default": info.is_default,
    }


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Runs the command; an error that hrpose raises on purpose is one line, not a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except HrposeError as error:
        errors.print(f"hrpose: {error}", style="red", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
