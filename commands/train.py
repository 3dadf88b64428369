"""`hrpose train`: a recipe and data in, a network that serves out."""

import time
from pathlib import Path
from typing import Annotated

import typer

from commands.console import out

NOT_YET = "stopped before an epoch was done; the same command goes on"


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe (TOML).")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder that the recipe's paths start from; else its data.root."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    change: Annotated[
        list[str] | None, typer.Option("--set", help="a.b=c: another value for a key.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Save and end after so long.")
    ] = None,
) -> None:
    """Train as a recipe says; the same command goes on with an interrupted run.

    Several GPUs: torchrun --nproc-per-node N -m training RECIPE, with the same options.
    """
    from training.loop import train as run
    from training.recipe import read_recipe

    stop_at = None if minutes is None else time.time() + 60 * minutes
    plan = read_recipe(recipe, change or ())
    best = run(plan, data or Path(plan.data.root), runs, stop_at)
    out.print(str(best) if best.is_file() else NOT_YET, highlight=False)
