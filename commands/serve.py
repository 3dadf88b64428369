"""`hrpose serve`: every setting of the server is a flag."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import ValidationError


def _serve(**settings: Any) -> None:
    """Start the server: POST /pose, /detect, /classify, /segment; a page at /."""
    from heads.validation import reason_of
    from service.app import run
    from service.settings import Settings

    given = {name: value for name, value in settings.items() if value is not None}
    try:
        chosen = Settings(**given)
    except ValidationError as error:
        found = error.errors(include_input=False)
        problems = [": ".join([*map(str, e["loc"][:1]), reason_of(e)]) for e in found]
        raise typer.BadParameter("; ".join(problems)) from error
    if status := run(chosen):
        raise typer.Exit(status)


def _with_settings_as_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a flag for every field of the server's settings."""
    from service.settings import Settings

    parameters = []
    for name, field in Settings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        kind: type = str
        if field.annotation is bool:  # said, not given a value
            flag, kind = f"{flag}/--no-{flag[2:]}", bool
        help_text = f"{field.description} [HRPOSE_{name.upper()}; default: {field.default}]"
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, typer.Option(flag, help=help_text)],
            )
        )
    setattr(command, "__signature__", inspect.Signature(parameters))  # noqa: B010
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


serve = _with_settings_as_flags(_serve)
