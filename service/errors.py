"""Errors of the service layer: what a server refuses, and why.

HrposeError
└── ServiceError
    ├── InvalidParameter     a value that cannot be meant: names the parameter
    ├── TooLarge             more bytes, pixels or boxes than are accepted
    ├── UnsupportedMedia     a body of a kind the service does not read
    ├── NotAcceptable        an answer of a kind the service does not write
    ├── RuntimeMissing       a runtime was asked for whose package is not installed
    ├── Overloaded           the queue is full, or the server drains: try again later
    ├── DeadlineExceeded     not answered in time; the work was dropped
    └── Cancelled            the client went away; the work was dropped

`service/problems.py` turns each into an RFC 9457 problem.
"""

from models.errors import HrposeError


class ServiceError(HrposeError):
    """Root of what the service layer refuses."""


class InvalidParameter(ServiceError):
    """The value of `parameter` cannot be meant; the message says what would be accepted."""

    def __init__(self, parameter: str, message: str) -> None:
        self.parameter = parameter
        super().__init__(message)


class TooLarge(ServiceError):
    """More than is accepted; `limit` names the setting and its value."""

    def __init__(self, message: str, limit: str) -> None:
        self.limit = limit
        super().__init__(message)


class UnsupportedMedia(ServiceError):
    """A body whose content type the service does not read."""


class NotAcceptable(ServiceError):
    """None of the media types that the client accepts can be written."""


class RuntimeMissing(ServiceError):
    """`package` is not installed; the message says how to get it."""

    def __init__(self, package: str, runtime: str) -> None:
        self.package = package
        self.runtime = runtime
        self.command = f"pip install 'hrpose[{runtime}]'"
        super().__init__(
            f"runtime {runtime} needs the package {package}, which is not installed; "
            f"run: {self.command}"
        )


class Overloaded(ServiceError):
    """No room for more work now; `retry_after_s` is when it is worth another try."""

    def __init__(self, message: str, retry_after_s: float, draining: bool = False) -> None:
        self.retry_after_s = retry_after_s
        self.draining = draining
        super().__init__(message)


class DeadlineExceeded(ServiceError):
    """Not answered within the time allowed; its work is dropped."""


class Cancelled(ServiceError):
    """Nobody waits for the answer any more; its work is dropped."""
