"""What the commands share: where they print, options that mean the same, JSON files."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

# A pipe has no width of its own; rows are not to be cut to 80 columns there.
out = Console(width=None if sys.stdout.isatty() else 160)
errors = Console(stderr=True)

ModelOption = Annotated[str, typer.Option(help="A name of `hrpose models` or a checkpoint file.")]
DetectorOption = Annotated[
    str, typer.Option(help="The network that finds boxes, by name or file; `none`: whole images.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the result here.")]


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """The result of a command as a file, where one is asked for."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parse_size(text: str) -> tuple[int, int]:
    """`256x192` -> (256, 192), height first."""
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError as error:
        raise typer.BadParameter(f"{text} is not HEIGHTxWIDTH") from error
    return height, width
