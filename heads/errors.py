"""Errors of the heads layer: images, network files and downloads.

HrposeError
├── ImageError             bytes that are not one readable image
│   └── TooManyPixels      an image larger than the caller allows, refused by its header
├── ExportError            a network that cannot be written for another runtime
└── CheckpointError        a damaged, truncated or foreign network file
    ├── WeightsMissing     a known network whose weights are not on this machine
    └── DownloadError      weights that could not be fetched, or came with a wrong hash
"""

from models.errors import HrposeError


class ImageError(HrposeError):
    """The bytes are not one readable JPEG, PNG, WebP or BMP image; the message says why."""


class TooManyPixels(ImageError):
    """The header promises more pixels than the caller allows; nothing was decoded."""

    def __init__(self, width: int, height: int, max_pixels: int) -> None:
        self.width = width
        self.height = height
        self.max_pixels = max_pixels
        super().__init__(
            f"the image has {width} x {height} = {width * height / 1e6:.1f} megapixels; "
            f"at most {max_pixels / 1e6:.1f} are accepted"
        )


class ExportError(HrposeError):
    """The network cannot be written for a runtime other than torch; the message says why."""


class CheckpointError(HrposeError):
    """A file that is no whole hrpose checkpoint; the message has its name and the reason."""


class WeightsMissing(CheckpointError):
    """The network is known, its weights are not here; `command` gets them."""

    def __init__(self, name: str, command: str, message: str | None = None) -> None:
        self.name = name
        self.command = command
        super().__init__(
            message or f"the weights of {name} are not on this machine; run: {command}"
        )


class DownloadError(CheckpointError):
    """Weights could not be fetched, or what came has another hash; no file counts as whole."""
