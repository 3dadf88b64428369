"""The process: uvicorn, told to finish what it accepted before it stops."""

import logging
import os
import socket
import threading
import time
from types import FrameType

import cv2
import uvicorn
from fastapi import FastAPI

from service import logs
from service.connections import protocol_of
from service.errors import InvalidParameter
from service.inference.memory import hold_little
from service.inference.networks import LOADING
from service.serving import Serving
from service.settings import Settings

log = logging.getLogger("hrpose")

BACKLOG = 2048

CLOSING_S = 5
"""After the drain, connections have this long to take what was written to them."""


class DrainingServer(uvicorn.Server):
    """On the first signal it listens on, refuses new work and ends when the accepted is done.

    uvicorn by itself stops listening at once, and a load balancer would see connections refused
    where it should read 503. A second signal ends without waiting.
    """

    def __init__(self, config: uvicorn.Config, serving: Serving) -> None:
        super().__init__(config)
        self._serving = serving
        self._drain_until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for SIGTERM and SIGINT."""
        if self._drain_until is not None:
            super().handle_exit(sig, frame)
            return
        log.info("told to stop: finishing %d requests", self._serving.active_requests)
        self._serving.drain()
        self._drain_until = time.monotonic() + self._serving.settings.drain_s

    async def on_tick(self, counter: int) -> bool:
        """True when the server should end; asked ten times a second."""
        over = await super().on_tick(counter)
        if self._serving.failure is not None:
            return True
        if self._drain_until is None:
            return over
        if over or time.monotonic() >= self._drain_until:
            self._serving.give_up()
            return True
        return not self._serving.active_requests


def serve(app: FastAPI, listening: socket.socket | None = None) -> None:
    """Serves until told to stop; raises what kept the networks from being loaded.

    listening: a socket that is bound already; None binds as the settings say.
    """
    serving: Serving = app.state.serving
    settings = serving.settings
    hold_little()
    _take_standard_streams()
    logs.install(settings.log_level, settings.log_format)
    # OpenCV would print of every damaged image what its answer says, past format and level.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSING_S,
        http=protocol_of(settings),
        ws="none",  # would be of a protocol without our bounds
    )
    # Before any network is loaded, so that an address that is taken is said at once.
    with listening or listen(settings) as taken:
        if listening is None:
            host, port = taken.getsockname()[:2]
            where = f"[{host}]" if ":" in host else host
            log.info("running on http://%s:%d (Ctrl+C ends it)", where, port)
        DrainingServer(config, serving).run([taken])
    if serving.failure is not None:
        raise serving.failure
    if any(map(_would_not_end, threading.enumerate())):
        logging.shutdown()
        os._exit(0)


def _would_not_end(thread: threading.Thread) -> bool:
    """Whether a thread would keep an interpreter that ends, or be the end of it.

    Inside of a runtime one that loads cannot be ended, and the end of the interpreter would abort;
    one that asks a name server, or waits for another process, would be waited for.
    """
    return thread.name.startswith(LOADING) or not (
        thread.daemon or thread is threading.main_thread()
    )


def listen(settings: Settings) -> socket.socket:
    """The socket of the server's address; InvalidParameter where it cannot be had."""
    try:
        return socket.create_server(
            (settings.host, settings.port),
            family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET,
            backlog=BACKLOG,
            dualstack_ipv6=settings.host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise InvalidParameter(
            "port",
            f"no connections can be taken on {settings.host}, port {settings.port}: "
            f"{error.strerror or error}",
        ) from error


def _take_standard_streams() -> None:
    """Opens nothing in the place of standard streams that are closed.

    Else the event loop's own files get their numbers, and it aborts when it is to close them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
