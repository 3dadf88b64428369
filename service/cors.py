"""Pages of other origins: which may ask this server from a browser, where any may."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""Which of them a route takes, the route says."""

SENT = (
    "Authorization",
    "X-API-Key",
    "X-Request-ID",
    "Inference-Header-Content-Length",
    "traceparent",
    "tracestate",
)
READ = (
    "Retry-After",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "WWW-Authenticate",
    "X-Request-ID",
    "Inference-Header-Content-Length",
)
"""Headers that a script may send, and those of answers that it may read beside the usual."""


def install(app: FastAPI, origins: Sequence[str]) -> None:
    """Lets pages of the origins ask; without any, browsers keep every other page away.

    To be called after every other layer is added, so that it is the outermost: refusals and faults
    then carry its headers too. Keys are sent in headers by the page itself, so cookies and other
    credentials of the browser are not allowed.
    """
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.lower() for origin in origins],  # as browsers send them
            allow_methods=METHODS,
            allow_headers=SENT,
            expose_headers=READ,
        )
