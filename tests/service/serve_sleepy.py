"""A server process whose network sleeps: its speed does not depend on how busy the machine is.

Queue, batches and places are the real ones. Settings come from the environment.
"""

import socket
import sys
import threading
import time

import numpy as np

from service.app import create_app
from service.inference.answers import PoseAnswer, PoseOptions
from service.inference.batcher import BatchCounters, Batcher
from service.inference.job import Job
from service.inference.runtime import Batch, Maps
from service.server import serve
from service.settings import Settings
from service.siblings import Seat
from service.supervisor import Supervisor
from tests.service.fakes import FakeEngine

BATCH_S = 0.04
"""A batch of any size takes so long."""


class SleepyRuntime:
    """Computes nothing, and takes its time for it."""

    streams = 1
    words = "sleepy exact"

    def run(self, batch: Batch) -> Maps:
        """The mean of each crop, a little later."""
        time.sleep(BATCH_S)
        return {"output": batch.mean(axis=(1, 2, 3), dtype=np.float32)}


class SleepyEngine(FakeEngine):
    """Answers with the boxes it was sent, when their crops have been through a real queue.

    start_s: loading takes so long.
    """

    def __init__(self, settings: Settings, start_s: float = 0.0) -> None:
        super().__init__()
        self._start_s = start_s
        self.batcher = Batcher(
            "sleepy",
            SleepyRuntime(),
            device=threading.Lock(),
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
        )

    def start(self) -> None:
        """A little later."""
        time.sleep(self._start_s)
        super().start()

    def pose(self, data: bytes, model: str, options: PoseOptions, job: Job) -> PoseAnswer:
        """One person a box; the network must have seen this request's own crop."""
        assert options.boxes_xywh is not None
        mark = int(options.boxes_xywh[0][0])
        (ran,) = self.batcher.run([np.full((4, 4, 3), mark, np.uint8)], job)
        assert float(ran.maps["output"]) == mark
        return super().pose(data, model, options, job)

    def counters(self) -> dict[str, BatchCounters]:
        """What the queue has done."""
        return {"sleepy": self.batcher.counters()}


def serve_sleepy(
    settings: Settings, listening: socket.socket | None = None, seat: Seat | None = None
) -> None:
    """Serves in this process; of several the second one is ready a second after the first."""
    engine = SleepyEngine(settings, start_s=float(seat.worker) if seat else 0.0)
    serve(create_app(settings, engine, seat), listening)


if __name__ == "__main__":
    given = Settings()
    if given.workers > 1:
        sys.exit(Supervisor(given, serve_sleepy).run())
    serve_sleepy(given)
