"""`hrpose key`: a new API key, and the line that makes a server accept it."""

from typing import Annotated

import typer


def key(
    name: Annotated[str, typer.Argument(help="Whose key it is, in one word; for the file only.")],
    scope: Annotated[
        str, typer.Option(help="infer: may ask; admin: may also change the server.")
    ] = "infer",
    rate: Annotated[
        str, typer.Option(help="How often it may ask, such as 100/minute; else the server's rate.")
    ] = "",
) -> None:
    """Make an API key: shown once, with its line for the file that --api-keys-file names."""
    from service.keys import line_of, make_key

    made = make_key()
    line = line_of(made, name, scope, rate)
    typer.echo("The key, which is shown only now:", err=True)
    typer.echo(made)
    typer.echo("Its line for the file of --api-keys-file:", err=True)
    typer.echo(line)
