"""`hrpose models` and `hrpose weights`: what there is by name, and its files."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from commands.console import JsonOption, out, write_json
from service.inference.engine import Engine


def list_models(
    every: Annotated[
        bool, typer.Option("--all", help="Also every backbone under each kind of head.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """List every network by name: what it does, its state and score; --json has all of it."""
    engine = Engine()
    table = Table(box=None)
    for column in ("name", "task", "state", "network", "input", "score"):
        table.add_column(column, no_wrap=True)
    infos = engine.models()
    if every:
        infos += [engine.model(form) for form in _forms()]
    for info in infos:
        size = "x".join(map(str, info.input_size or ()))
        name = f"{info.name} (default)" if info.is_default else info.name
        network = f"{info.backbone}+{info.head}"
        table.add_row(name, info.task, info.state, network, size, _short_score(info.scores))
    out.print(table)
    if not every:
        out.print(
            "Also any <backbone>+<head>: a checkpoint of it, or random weights where the server "
            "allows them; `hrpose models --all` lists them.",
            highlight=False,
        )
    write_json(json_file, {"models": [_info_json(info) for info in infos]})


def _forms() -> list[str]:
    """Every backbone under the usual head of each task."""
    from commands.profile import usual_head
    from models.backbone import list_backbones

    return [
        f"{backbone}+{usual_head(backbone, task)}"
        for backbone in list_backbones()
        for task in ("pose", "classify", "segment")
    ]


def _short_score(scores: Mapping[str, float | str]) -> str:
    """The first score, and whose measurement it is; --json and the model cards have the others."""
    for value in scores.values():
        if isinstance(value, str):
            return f"{value.split(',')[0]} (published)"
        return f"AP {value:.3f} (docs/scores.md)"
    return ""


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


def weights_list() -> None:
    """List public and embedded networks and whether their weights are here."""
    list_models()


def weights_get(
    names: Annotated[list[str], typer.Argument(help="Names of public networks.")],
) -> None:
    """Download weights into the cache; an interrupted download goes on where it stopped."""
    from heads import zoo

    for name in names:
        out.print(f"{name}: {zoo.get(name, progress=True)}", highlight=False)


def weights_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="All that are here if left out.")
    ] = None,
) -> None:
    """Check the hashes of weights; fails for one that is damaged, or named and not here."""
    from heads import zoo

    statuses = {name: zoo.verify(name) for name in names or zoo.names()}
    if not names:
        statuses = {name: status for name, status in statuses.items() if status != "missing"}
    for name, status in statuses.items():
        out.print(f"{name}: {status}", highlight=False)
    if {"damaged", "missing"} & set(statuses.values()):
        raise typer.Exit(1)
