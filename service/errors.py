"""Errors of the service layer: what a server refuses, and why.

HrposeError
└── ServiceError
    ├── InvalidParameter     a value that cannot be meant: names the parameter
    ├── TooLarge             more bytes, pixels or boxes than are accepted
    ├── UnsupportedMedia     a body of a kind the service does not read
    ├── BadImageUrl          an image that cannot be fetched from where the client said
    ├── NotAcceptable        an answer of a kind the service does not write
    ├── Conflict             what is asked for cannot be done to a network as it is now
    ├── RuntimeMissing       a runtime was asked for whose package is not installed
    ├── Overloaded           no room for more work now: try again later
    │   └── Unavailable      the server loads, drains, or lost what it needs
    │       └── BeingLoaded  the network will be there soon: the dispatcher waits for it
    ├── RateExceeded         a client asks more often than it may
    ├── DeadlineExceeded     not answered in time; the work was dropped
    └── Cancelled            the client went away; the work was dropped

`service/problems.py` turns each into an RFC 9457 problem.
"""

from concurrent.futures import Future

from models.errors import HrposeError
from models.extras import install


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


class BadImageUrl(ServiceError):
    """The image at the URL that the client sent cannot be fetched."""


class NotAcceptable(ServiceError):
    """None of the media types that the client accepts can be written."""


class Conflict(ServiceError):
    """What is asked for cannot be done to a network as it is now; the message says why."""


class RuntimeMissing(ServiceError):
    """`package` is not installed; the message says how to get it.

    runtime: what needs it, and the extra that brings it.  what: in words, where it is no runtime.
    """

    def __init__(self, package: str, runtime: str, what: str = "") -> None:
        self.package = package
        self.runtime = runtime
        self.command = install(runtime)
        super().__init__(
            f"{what or f'runtime {runtime}'} needs the package {package}, which is not installed; "
            f"run in hrpose's folder: {self.command}"
        )


class Overloaded(ServiceError):
    """No room for more work now; `retry_after_s` is when it is worth another try."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Unavailable(Overloaded):
    """Whatever the room, not now: what is needed is being loaded, ended or lost."""


class BeingLoaded(Unavailable):
    """A network is not there yet; `loading` ends when it is, or says why it cannot be."""

    def __init__(self, name: str, loading: Future[None]) -> None:
        self.loading = loading
        super().__init__(f"{name} is being loaded", 5.0)


class RateExceeded(ServiceError):
    """The client used its rate up; `retry_after_s` is when the next request is taken."""

    def __init__(self, message: str, retry_after_s: float, headers: dict[str, str]) -> None:
        self.retry_after_s = retry_after_s
        self.headers = headers
        super().__init__(message)


class DeadlineExceeded(ServiceError):
    """Not answered within the time allowed; its work is dropped."""


class Cancelled(ServiceError):
    """Nobody waits for the answer any more; its work is dropped."""
