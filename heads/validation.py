"""What the forms that pydantic checks have in common: settings, recipes, files and requests."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError

_DEVICE = re.compile(r"cpu|cuda(:\d+)?", re.ASCII)


def reason_of(finding: Mapping[str, Any]) -> str:
    """Why a value was refused, from one of `ValidationError.errors()`; without its place.

    Pydantic puts "Value error, " before what a validator of ours says.
    """
    return str(finding["msg"]).removeprefix("Value error, ")


def first_reason(error: ValidationError) -> str:
    """The first of what is wrong in one line: its place, where it has one, and why."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return ": ".join([*([place] if place else []), reason_of(first)])


def _check_device(name: str) -> str:
    if not _DEVICE.fullmatch(name):
        raise ValueError(f"a device is cpu, cuda or cuda:N; got {name!r:.40}")
    return name


DeviceName = Annotated[str, AfterValidator(_check_device)]
"""Where networks run, in torch's words."""
