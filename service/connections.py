"""Connections: how many may be open, and how long a client may take to ask and to listen.

uvicorn waits for ever for the head of a request, however long it grows, and for a client to take
its answer. Here all have bounds, without a thread or a task a connection: timers of the event loop.
"""

import asyncio
import json
import re
import time
from dataclasses import dataclass

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers, and of trailers after a body; what comes in one piece may have
what one read takes."""

RESERVE = 64
"""So many connections beyond the most are heard out: who asks whether the server lives is answered,
and who sends before it reads is told that there are too many."""

LINGER_S = 5.0
"""So long may one that is sent away go on sending; what it was told may be lost after that."""

_UPGRADE = re.compile(rb"(?i)(?<=\n)upgrade[ \t]*:")
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_BEGUN = re.compile(rb"(?i)(?<=\n)(u|up|upg|upgr|upgra|upgrad|upgrade[ \t]*)\Z")


_TOO_MANY = (503, "overloaded", "Not serving now", "too many connections are open")


@dataclass(frozen=True)
class Patience:
    """Bounds of connections.

    header_s: from the start of a connection, or the first byte after an answer, until a request's
    head is whole.  send_s: until the client has taken an answer, and, where that refused a body
    before its end, has sent the rest.  idle_s: from an answer until the next request begins.
    max_connections: open at once.
    """

    header_s: float
    send_s: float
    idle_s: float
    max_connections: int


def protocol_of(settings: Settings) -> type[asyncio.Protocol]:
    """The `http` of uvicorn's Config."""

    class Protocol(PatientProtocol):
        patience = Patience(
            settings.header_timeout_s,
            settings.send_timeout_s,
            settings.keep_alive_s,
            settings.max_connections,
        )

    return Protocol


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds."""

    patience: Patience

    _waiting_for_head: asyncio.TimerHandle | None = None
    _waiting_for_rest: asyncio.TimerHandle | None = None
    _waiting_for_reader: asyncio.TimerHandle | None = None
    _is_new = True
    _is_in_reserve = False
    _is_sent_away = False
    _in_body = False
    _before = b"\n"
    _held = b""
    _head_bytes = 0
    _idle_since = 0.0
    _cycles: tuple[RequestResponseCycle, ...] = ()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came; it is sent away where too many are there."""
        super().connection_made(transport)
        self.timeout_keep_alive = self.patience.idle_s  # type: ignore[assignment]  # any number
        beyond = self._beyond_the_most()
        self._is_in_reserve = beyond > 0
        if beyond > RESERVE:
            self._refuse(*_TOO_MANY)
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """A client sent something: perhaps the rest of a request's head."""
        if self.transport.is_closing() or self._is_sent_away:
            return
        self._is_new = False
        self._head_bytes += len(data)
        if not self._in_body and self._waiting_for_head is None and not self._is_at_work:
            self._wait_for_head()
        while data and not self._is_sent_away and not self.transport.is_closing():
            piece, data = (data, b"") if self._in_body else self._piece_of_head(data)
            if piece:
                super().data_received(piece)
        if self._is_sent_away:
            return
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._head_is_too_long()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP; uvicorn by itself says so in plain text."""
        if self._is_at_work:  # words would stand in the middle of an answer
            self._close()
        else:
            self._refuse(400, "bad-request", "This is no HTTP", msg)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers, which may follow a body, are read by nobody and not kept."""
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A request's head is whole; its body follows."""
        self._in_body = True
        self._head_bytes = 0
        self._head_is_whole()
        if self._is_in_reserve:  # some may have gone since it came
            self._is_in_reserve = self._beyond_the_most() > 0
        if self._is_in_reserve and not self.url.startswith(b"/health/"):
            self._send_away()
            return
        if not self._is_at_work:
            self._watch_reader()
        super().on_headers_complete()
        if self.cycle is not None:
            waiting = [cycle for cycle in self._cycles if not cycle.response_complete]
            self._cycles = (*waiting, self.cycle)

    def on_body(self, body: bytes) -> None:
        """A piece of a body, which has bounds elsewhere; what follows may be trailers."""
        self._head_bytes = 0
        if not self._is_sent_away:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request's body is whole."""
        self._in_body = False
        self._head_bytes = 0
        if self._is_sent_away:
            return
        self._rest_is_whole()
        super().on_message_complete()
        if not self._is_at_work and not self.transport.is_closing():
            # Answered before the body was whole, which has stopped uvicorn's timer since.
            self._unset_keepalive_if_required()
            self._idle_since = time.monotonic()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """An answer was written, though perhaps not yet taken, nor the question whole."""
        self._idle_since = time.monotonic()
        super().on_response_complete()
        self._watch_reader()
        if self._is_in_reserve:
            self._close()
        elif self._in_body and not self._is_at_work:
            self._waiting_for_rest = self.loop.call_later(self.patience.send_s, self._close)

    def pause_writing(self) -> None:
        """The client does not take its answer as fast as it is written."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """The client took most of its answer."""
        super().resume_writing()
        self._reader_is_done()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever wanted it. All requests that are worked on learn of it."""
        self._head_is_whole()
        self._rest_is_whole()
        self._reader_is_done()
        # uvicorn tells the last of several only.
        for cycle in self._cycles:
            cycle.disconnected = cycle.disconnected or not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    @property
    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _beyond_the_most(self) -> int:
        """So many more connections than there may be; one that is idle makes room for this one."""
        beyond = len(self.connections) - self.patience.max_connections
        if beyond <= 0:
            return 0
        others = [c for c in self.connections if isinstance(c, PatientProtocol)]
        idle = [
            c
            for c in others
            if c.timeout_keep_alive_task is not None and not c.transport.is_closing()
        ]
        if idle:  # by a clock of our own: in the event loop's all of a millisecond are alike
            min(idle, key=lambda c: c._idle_since)._close()
        return beyond - sum(c.transport.is_closing() for c in others)

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

    def _head_is_too_long(self) -> None:
        if self._is_at_work:  # words would stand in the middle of an answer
            self._close()
        else:
            self._refuse(431, "too-large", "Too large", "the head of a request is too long")

    def _rest_is_whole(self) -> None:
        if self._waiting_for_rest is not None:
            self._waiting_for_rest.cancel()
            self._waiting_for_rest = None

    def _watch_reader(self) -> None:
        """Counts anew the time in which what is written has to be taken."""
        if self._waiting_for_reader is not None:
            self._waiting_for_reader.cancel()
            self._waiting_for_reader = None
        if self.transport.get_write_buffer_size():
            self._wait_for_reader()

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

    def _send_away(self) -> None:
        """Refuses, and hears the client out: closed at once, the refusal would be lost."""
        self._is_sent_away = True
        self._say(*_TOO_MANY)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._waiting_for_rest = self.loop.call_later(LINGER_S, self._close)

    def _piece_of_head(self, data: bytes) -> tuple[bytes, bytes]:
        """What the parser may see of a head that goes on with these bytes, and what comes after it.

        A wish for another protocol is not to be granted, and a server may pass it over (RFC 9110,
        section 7.8); the parser would take all that follows the head for that protocol, and Java's
        client has the wish in every request. The start of a line that may become one is held back.
        """
        known = len(self._before)
        lines = self._before + self._held + data
        end = _END_OF_HEAD.search(lines)
        begun = None if end else _BEGUN.search(lines)
        cut = end.end() if end else begun.start() if begun else len(lines)
        lines, after = lines[:cut], lines[cut:]
        self._before = b"\n" if end else lines[-2:]
        self._held, rest = (b"", after) if end else (after, b"")
        return _UPGRADE.sub(b"not-upgraded:", lines)[known:], rest

    def _refuse(self, status: int, kind: str, title: str, detail: str) -> None:
        self._say(status, kind, title, detail)
        self._close()

    def _say(self, status: int, kind: str, title: str, detail: str) -> None:
        """What is wrong, as a problem: below the application there is nobody else to say it."""
        content = {"type": f"/problems/{kind}", "title": title, "status": status, "detail": detail}
        body = json.dumps(content)
        retry = "Retry-After: 1\r\n" if status in (408, 503) else ""
        self.transport.write(
            f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\n"
            f"{retry}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )

    def _close(self) -> None:
        self._unset_keepalive_if_required()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._wait_for_reader()
