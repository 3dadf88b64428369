"""Connections: how many may be open, and how long a client may take to ask and to listen.

uvicorn waits for ever for the head of a request, and for a client to take its answer. Here both
have a time, without a thread or a task a connection: a timer of the event loop.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from service.settings import Settings

if TYPE_CHECKING:
    # The same attributes as the other implementation's, as far as they are used here.
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _Protocol
else:
    _Protocol = AutoHTTPProtocol


@dataclass(frozen=True)
class Patience:
    """Bounds of connections.

    header_s: from the start of a connection, or the first byte after an answer, until a request's
    head is whole.  send_s: until the client has taken an answer.  max_connections: open at once.
    """

    header_s: float
    send_s: float
    max_connections: int


def protocol_of(settings: Settings) -> type[asyncio.Protocol]:
    """The `http` of uvicorn's Config."""

    class Protocol(PatientProtocol):
        patience = Patience(
            settings.header_timeout_s, settings.send_timeout_s, settings.max_connections
        )

    return Protocol


class PatientProtocol(_Protocol):
    """uvicorn's protocol, whichever is installed, with bounds."""

    patience: Patience

    _waiting_for_head: asyncio.TimerHandle | None = None
    _waiting_for_reader: asyncio.TimerHandle | None = None
    _is_new = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came; it is sent away where too many are there."""
        super().connection_made(transport)
        if len(self.connections) > self.patience.max_connections:
            self._refuse(503, "overloaded", "Not serving now", "too many connections are open")
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """A client sent something: perhaps the rest of a request's head."""
        if self.transport.is_closing():
            return
        self._is_new = False
        if self._waiting_for_head is None and not self._is_at_work:
            self._wait_for_head()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._head_is_whole()

    def handle_websocket_upgrade(self, *event: object) -> None:
        """The connection is no longer one of requests."""
        self._head_is_whole()
        super().handle_websocket_upgrade(*event)

    def on_response_complete(self) -> None:
        """An answer was written, though perhaps not yet taken."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._wait_for_reader()
        else:
            self._reader_is_done()

    def pause_writing(self) -> None:
        """The client does not take its answer as fast as it is written."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """The client took most of its answer."""
        super().resume_writing()
        self._reader_is_done()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever wanted it."""
        self._head_is_whole()
        self._reader_is_done()
        super().connection_lost(exc)

    @property
    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._waiting_for_head = self.loop.call_later(self.patience.header_s, self._head_is_late)

    def _head_is_whole(self) -> None:
        if self._waiting_for_head is not None:
            self._waiting_for_head.cancel()
            self._waiting_for_head = None

    def _head_is_late(self) -> None:
        self._waiting_for_head = None
        if self._is_new:
            self._close()
        else:
            self._refuse(408, "timeout", "Asked too slowly", "the head of a request did not come")

    def _wait_for_reader(self) -> None:
        if self._waiting_for_reader is None:
            self._waiting_for_reader = self.loop.call_later(
                self.patience.send_s, self._reader_is_late
            )

    def _reader_is_done(self) -> None:
        # A connection that closes waits for its last bytes to be taken, so its timer goes on.
        if self._waiting_for_reader is not None and not self.transport.get_write_buffer_size():
            self._waiting_for_reader.cancel()
            self._waiting_for_reader = None

    def _reader_is_late(self) -> None:
        self._waiting_for_reader = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _refuse(self, status: int, kind: str, title: str, detail: str) -> None:
        """Says why, as a problem, and closes: below the application there is nobody else to."""
        content = {"type": f"/problems/{kind}", "title": title, "status": status, "detail": detail}
        body = json.dumps(content)
        self.transport.write(
            f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\n"
            f"Retry-After: 1\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            f"{body}".encode()
        )
        self._close()

    def _close(self) -> None:
        self._unset_keepalive_if_required()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._wait_for_reader()
