"""One request put to an ASGI application in this process: what a queue between machines carries."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

from starlette.types import ASGIApp, Message

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Sent:
    """A request as it came, its body read."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    client: tuple[str, int] | None = None


@dataclass(frozen=True)
class Answered:
    """An answer as it goes out."""

    status: int
    headers: Headers
    body: bytes


async def ask(app: ASGIApp, sent: Sent, gone: Callable[[], Awaitable[object]]) -> Answered:
    """The application's answer; gone: waits until the client goes away."""
    given = False
    status = 500
    headers: Headers = []
    parts: list[bytes] = []

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": sent.body, "more_body": False}
        await gone()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message.get("headers", ()))
        else:
            parts.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": sent.method,
        "path": sent.path,
        "raw_path": quote(sent.path).encode(),
        "root_path": "",
        "query_string": sent.query,
        "headers": sent.headers,
        "client": sent.client,
        "server": None,
    }
    await app(scope, receive, send)
    return Answered(status, headers, b"".join(parts))
