"""A server process whose engine is a fake; settings come from the environment.

It logs a line whenever slow work begins.
"""

import logging
import threading

from service.app import create_app
from service.server import serve
from service.settings import Settings
from tests.service.fakes import FakeEngine


class Told(threading.Semaphore):
    """Says so."""

    def release(self, n: int = 1) -> None:
        """Once more."""
        super().release(n)
        logging.getLogger("hrpose").info("work begins")


if __name__ == "__main__":
    engine = FakeEngine(slow_s=2.0)
    engine.working = Told(0)
    serve(create_app(Settings(), engine))
