"""Which extra of hrpose brings a package that is not installed."""

import contextlib
import sys
from collections.abc import Iterator

from models.errors import HrposeError

EXTRAS = {
    "torch": "torch",
    "torchvision": "torch",
    "onnx": "torch",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "ray": "ray",
    "nncf": "int8",
    "pycocotools": "train",
    "yaml": "train",
}
"""Extra by what is imported; pyproject.toml lists the packages of each."""


def install(extra: str) -> str:
    """The command that installs an extra, in the folder of hrpose's pyproject.toml.

    By its name it could not be had: it is on no index.
    """
    return f"pip install '.[{extra}]'"


class PackageMissing(HrposeError):
    """`package` is not installed; the message says how to get it."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.command = install(EXTRAS[package])
        super().__init__(
            f"this needs {package}, which is not installed; run in hrpose's folder: {self.command}"
        )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns a failed import of what an extra brings into PackageMissing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise PackageMissing(package) from error


def without_telemetry() -> None:
    """Keeps OpenVINO and its tools from telling their makers that they are used.

    They do so by a package of that name, and do without where it is not to be had. To be called
    before they are imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
