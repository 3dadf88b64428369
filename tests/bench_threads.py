"""What more threads an image do for a lone client, and to many.

    python -m tests.bench_threads [--model NAME] [--photo FILE]

One photograph asked of an engine (no HTTP) by one caller and by eight, with one thread an image and
with all; rounds in turn, medians. Wall clock: run it on a quiet machine.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from service.inference.answers import PoseOptions
from service.inference.cores import cores
from service.inference.engine import Engine
from service.inference.job import Job
from tests.conftest import ROOT

CALLERS = (1, 8)
ROUNDS = 12
PHOTOS = 16
"""In each round, of all callers together."""


def measure(model: str, photo: Path) -> str:
    """The table."""
    encoded, threads = photo.read_bytes(), cores()
    times: dict[tuple[int, int], list[float]] = {}
    with contextlib.ExitStack() as running:
        engines = {}
        for each in (1, threads):
            engines[each] = Engine(model=model, threads=threads, threads_per_image=each)
            running.callback(engines[each].close)
            engines[each].start()
        for _ in range(ROUNDS):
            for each, engine in engines.items():
                for callers in CALLERS:
                    took = times.setdefault((each, callers), [])
                    took.append(_seconds(engine, encoded, callers))
    lines = [f"{model}, {photo.name}, {threads} threads", "threads an image  callers  ms a photo"]
    for (each, callers), took in times.items():
        lines.append(f"{each:16}  {callers:7}  {1000 * statistics.median(took):10.1f}")
    return "\n".join(lines)


def _seconds(engine: Engine, encoded: bytes, callers: int) -> float:
    """From photograph to photograph."""

    def ask(_: int) -> None:
        engine.pose(encoded, "default", PoseOptions(), Job())

    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(ask, range(PHOTOS)))
    return (time.perf_counter() - start) / PHOTOS


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--photo", type=Path, default=ROOT / "docs" / "street.jpg")
    asked = parser.parse_args(arguments)
    sys.stdout.write(measure(asked.model, asked.photo) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
