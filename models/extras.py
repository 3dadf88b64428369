"""Which extra of hrpose brings a package that is not installed."""

import contextlib
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
    "pycocotools": "train",
    "yaml": "train",
}
"""Extra by what is imported; pyproject.toml lists the packages of each."""


class PackageMissing(HrposeError):
    """`package` is not installed; the message says how to get it."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.command = f"pip install 'hrpose[{EXTRAS[package]}]'"
        super().__init__(f"this needs {package}, which is not installed; run: {self.command}")


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
