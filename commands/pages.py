"""Pages of the documentation that are made from the code: `hrpose backbones`, `hrpose settings`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from commands.console import Refused


def list_backbones(
    parity: Annotated[
        Path | None, typer.Option(help="docs/parity.json of the repository: adds its columns.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="What GET /backbones answers (service/backbones.json).")
    ] = False,
) -> None:
    """Print every backbone with its cost as a Markdown table (docs/backbones.md)."""
    typer.echo(backbones_json() if as_json else backbones_page(parity), nl=False)


def backbones_json() -> str:
    """The file service/backbones.json: what GET /backbones answers where torch is not installed."""
    from models.backbone import facts
    from models.backbone import list_backbones as names
    from service.schemas import BackboneAnswer, BackbonesResponse

    answer = BackbonesResponse(backbones=[BackboneAnswer.of(n, facts(n)) for n in names()])
    return answer.model_dump_json(indent=1) + "\n"


def _differences(parity: Path, names: Sequence[str]) -> dict[str, Any]:
    try:
        measured = json.loads(parity.read_text(encoding="utf-8"))
        return {name: {key: measured[name][key] for key in _TWIN} for name in names}
    except (ValueError, LookupError, TypeError) as error:
        raise Refused(f"{parity} is no file of `tests/models/twins.py`: {error!r}") from error


_TWIN = ("score", "twin", "difference")


def backbones_page(parity: Path | None = None) -> str:
    """The page docs/backbones.md: every backbone, its paper, cost, strides and public weights.

    parity: measured differences to public twins, by backbone (`tests/models/twins.py`).
    """
    from models.backbone import facts
    from models.backbone import list_backbones as names

    measured = {} if parity is None else _differences(parity, names())
    columns = ["name", "parameters", "multiply-adds", "input", "strides", "paper", "public weights"]
    if measured:
        columns += ["as published", "twin", "largest difference"]
    rows = []
    for name in names():
        known = facts(name)
        row = [
            f"`{name}`",
            f"{known.parameters / 1e6:.2f} M",
            f"{known.multiply_adds / 1e9:.3f} G",
            "x".join(map(str, known.input_size)),
            ", ".join(map(str, known.strides)),
            known.paper,
            f"{known.weights_origin}, {known.weights_licence}",
        ]
        if measured:
            twin = measured[name]
            row += [twin["score"], f"`{twin['twin']}`", f"{twin['difference']:.1e}"]
        rows.append(row)
    return "\n".join(
        [
            "# Backbones",
            "",
            "Cost of each backbone without a head, all strides built, for one image of the size "
            "given; multiply-adds / 10^9. A test measures every row again. Made by `make docs`.",
            *(_ABOUT_PARITY if measured else []),
            "",
            *_markdown(columns, rows),
            "",
        ]
    )


_ABOUT_PARITY = (
    "",
    "Twin: a public classifier whose random weights, under our names, give the same classes; the "
    "largest difference is over the standard deviation of the classes, in evaluation mode "
    "(`make parity`). As published: percent on ImageNet's validation set, of the public weights "
    "under the twin's name, as torchvision's own description, timm's table of results (top-1) and "
    "pytorchcv's table of files (top-5) say it.",
)


def _markdown(columns: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]


def list_settings() -> None:
    """Print the server's settings as a Markdown table (docs/configuration.md)."""
    typer.echo(configuration_page(), nl=False)


def configuration_page() -> str:
    """The page docs/configuration.md: every setting, its flag, variable, default and meaning."""
    from service.settings import Settings

    rows = [
        [
            f"`--{name.replace('_', '-')}`",
            f"`HRPOSE_{name.upper()}`",
            f"`{field.default}`",
            field.description or "",
        ]
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(
        [
            "# Configuration",
            "",
            "Every setting of `hrpose serve`; a flag wins over its variable. Made by `make docs`.",
            "",
            *_markdown(["flag", "variable", "default", "meaning"], rows),
            "",
            "Every command heeds two variables more: `HRPOSE_CACHE`, the folder of downloaded "
            "weights and exports (`~/.cache/hrpose`, or `hrpose` in `$XDG_CACHE_HOME`), and "
            "`HRPOSE_OFFLINE=1`, which forbids downloads. A public network, as in "
            "`HRPOSE_MODEL=hrnet_w48`, is downloaded when the server first starts; it needs torch.",
            "",
        ]
    )
