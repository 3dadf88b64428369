"""`python -m training RECIPE --data FOLDER`: starts a run, or goes on with it."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from models.errors import HrposeError
from models.memory import keep_freed
from models.threads import let_waiting_threads_sleep


def main(
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
    """Train as a recipe says; the same command resumes an interrupted run."""
    let_waiting_threads_sleep()
    keep_freed()
    from training.loop import train
    from training.recipe import read_recipe

    stop_at = None if minutes is None else time.time() + 60 * minutes
    try:
        plan = read_recipe(recipe, change or ())
    except HrposeError as error:  # names the recipe itself
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    try:
        best = train(plan, data or Path(plan.data.root), runs, stop_at)
    except HrposeError as error:
        typer.echo(f"{recipe.name}: {error}", err=True)
        raise typer.Exit(1) from error
    if os.environ.get("RANK", "0") != "0":  # torchrun's first process says it
        return
    typer.echo(
        best if best.is_file() else "stopped before an epoch was done; goes on when called again"
    )


if __name__ == "__main__":
    typer.run(main)
