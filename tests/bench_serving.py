"""`make bench`: hrpose as a service against what people write without it, on one machine.

python -m tests.bench_serving [--rounds N] [--seconds S] [--network NAME]

Servers run in processes of their own, started together, and are loaded in turn in interleaved
rounds, so that a busy neighbour disturbs all alike: the ratios count, the times are this machine's.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from heads.image import encode_image, read_image
from tests.bench_phases import phases
from tests.conftest import ROOT
from tests.processes import cpu_seconds, environment, free_port, rss_mib
from training.loop import arithmetic

PLAIN = "FastAPI + torch"
LITSERVE = "LitServe + torch"
LOOP = "ONNX Runtime, no server"
EXACT, FAST = "hrpose, exact", "hrpose, fast"
MEGAPIXELS = (0.3, 2.0, 12.0)
CLIENTS = (1, 32)
PEOPLE = (1, 3, 10)
READY_S = 180


@dataclass
class Load:
    """What clients met over all rounds. cpu: seconds of the server's processes."""

    times: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: float = 0.0
    failed: int = 0

    def add(self, answer: dict[str, Any], cpu: float) -> None:
        """Takes note of one round."""
        self.times += answer["times"]
        self.rates.append(len(answer["times"]) / answer["seconds"])
        self.cpu += cpu
        self.failed += answer["failed"]

    @property
    def rate(self) -> float:
        """Photographs a second, the median round's."""
        return float(np.median(self.rates))

    def cells(self, against: float | None = None) -> list[str]:
        """Ratio, photographs a second, p50, p95, p99 and CPU a photograph, in milliseconds."""
        p50, p95, p99 = np.percentile(self.times, (50, 95, 99)) * 1000
        failed = f" ({self.failed} failed)" if self.failed else ""
        return [
            "" if against is None else f"{self.rate / against:.2f}x",
            f"{self.rate:.1f}{failed}",
            *(f"{ms:.1f}" for ms in (p50, p95, p99)),
            f"{self.cpu * 1000 / max(1, len(self.times)):.1f}",
        ]


HEADINGS = ("ratio", "photos/s", "p50 ms", "p95 ms", "p99 ms", "server CPU ms/photo")


class Peer(Protocol):
    """Something that answers photographs, in processes of its own."""

    pid: int
    most_clients: int

    def load(self, photo: Path, clients: int, seconds: float, **fields: str) -> dict[str, Any]:
        """Loads it with so many clients; answers as tests.peers.load does."""


class Server:
    """A server on a free port. module: run by `python -m`, `{port}` in words is replaced."""

    most_clients = 1000

    def __init__(self, *words: str) -> None:
        self.port = free_port()
        command = [word.format(port=self.port) for word in words]
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.pid = self._process.pid
        self._name = words[0]

    def load(self, photo: Path, clients: int, seconds: float, **fields: str) -> dict[str, Any]:
        """Loads it with so many clients; answers as tests.peers.load does."""
        words = [str(self.port), str(photo), str(clients), str(seconds)]
        words += [f"{name}={value}" for name, value in fields.items()]
        done = subprocess.run(
            [sys.executable, "-m", "tests.peers.load", *words],
            env=environment(), cwd=ROOT, stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def wait(self, photo: Path) -> None:
        """Returns when a photograph is answered."""
        end = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                if self.load(photo, 1, 0.2)["times"]:
                    return
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self._name} did not become ready")
            time.sleep(0.5)

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait(30)


class Loop:
    """tests.peers.loop, told by lines what to do."""

    most_clients = 1

    def __init__(self, network: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.peers.loop", network],
            env=environment(), cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.pid = self._process.pid

    def load(self, photo: Path, clients: int, seconds: float, **fields: str) -> dict[str, Any]:
        """Answers the photograph again and again."""
        assert clients == 1
        assert self._process.stdin
        self._process.stdin.write(f"{photo} {seconds} {fields.get('boxes', '')}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def wait(self, photo: Path) -> None:
        """Returns when it is ready and warm."""
        self._line()
        self.load(photo, 1, 0.2)

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


def hrpose_words(network: str, *more: str) -> tuple[str, ...]:
    """The command of a server with one network and whole photographs as boxes."""
    words = ("hrpose", "serve", "--port", "{port}", "--log-level", "error", "--detector", "none")
    # 32 clients with 10 people each are not to be refused; by itself it holds 256 crops.
    bounds = ("--timeout-s", "300", "--max-queue", "320")
    return (*words, *bounds, "--model", network, *more)


@contextlib.contextmanager
def started(network: str, photo: Path) -> Iterator[tuple[dict[str, Server | Loop], list[str]]]:
    """All that can be compared here, ready, and what is left out and why."""
    peers: dict[str, Server | Loop] = {PLAIN: Server("tests.peers.plain", "{port}", network)}
    left_out = []
    for name, package in ((LITSERVE, "litserve"), (LOOP, "onnxruntime")):
        if importlib.util.find_spec(package) is None:
            left_out.append(f"{name}: skipped, {package} is not installed")
        elif package == "litserve":
            peers[name] = Server("tests.peers.lit", "{port}", network)
        else:
            peers[name] = Loop(network)
    peers[EXACT] = Server(*hrpose_words(network))
    if arithmetic("auto", torch.device("cpu")) == torch.bfloat16:
        peers[FAST] = Server(*hrpose_words(network, "--precision", "fast"))
    else:
        left_out.append(f"{FAST}: skipped, this processor has no bfloat16")
    try:
        for peer in peers.values():
            peer.wait(photo)
        yield peers, left_out
    finally:
        for peer in peers.values():
            peer.close()


def photo_of(folder: Path, megapixels: float) -> Path:
    """docs/street.jpg in another size, as a JPEG of quality 90."""
    import cv2

    street = read_image(ROOT / "docs" / "street.jpg")
    scale = (megapixels * 1e6 / (street.shape[0] * street.shape[1])) ** 0.5
    size = round(street.shape[1] * scale), round(street.shape[0] * scale)
    way = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    file = folder / f"{megapixels:g}.jpg"
    image = np.asarray(cv2.resize(street, size, interpolation=way), np.uint8)
    file.write_bytes(encode_image(image, quality=90))
    return file


def measure(peer: Peer, into: Load, photo: Path, clients: int, seconds: float, **f: str) -> None:
    """One round of one peer."""
    before = cpu_seconds(peer.pid)
    answer = peer.load(photo, clients, seconds, **f)
    into.add(answer, cpu_seconds(peer.pid) - before)


def boxes_of(photo: Path, people: int) -> dict[str, str]:
    """The form's field with so many boxes beside each other; none for one person."""
    if people == 1:
        return {}
    height, width = read_image(photo).shape[:2]
    shares = [(0.02 + 0.05 * i, 0.05, 0.18, 0.6) for i in range(people)]
    boxes = [
        [int(x * width), int(y * height), int(w * width), int(h * height)] for x, y, w, h in shares
    ]
    return {"boxes": json.dumps(boxes, separators=(",", ":"))}


def compared(
    peers: dict[str, Server | Loop], photos: dict[float, Path], rounds: int, seconds: float
) -> Table:
    """Every peer, photograph, number of people and of clients."""
    columns = ("megapixels", "people", "clients", "served by", *HEADINGS, "RSS MiB")
    table = Table(*columns, box=None)
    for clients, (megapixels, photo), people in product(CLIENTS, photos.items(), PEOPLE):
        able = {name: peer for name, peer in peers.items() if peer.most_clients >= clients}
        loads = {name: Load() for name in able}
        boxes = boxes_of(photo, people)
        for _ in range(rounds):
            for name, peer in able.items():
                measure(peer, loads[name], photo, clients, seconds, **boxes)
        for name, met in loads.items():
            rss = f"{rss_mib(able[name].pid):.0f}"
            cells = met.cells(loads[PLAIN].rate)
            table.add_row(f"{megapixels:g}", str(people), str(clients), name, *cells, rss)
    return table


def growth(peer: Server, photos: dict[float, Path], rounds: int, seconds: float) -> Table:
    """Hrpose alone: more people, larger photographs, more clients; ratios to the first row."""
    table = Table("people", "megapixels", "clients", *HEADINGS, box=None)
    cases = [(people, 2.0, 8) for people in PEOPLE]
    cases += [(1, megapixels, 8) for megapixels in photos] + [(1, 2.0, n) for n in (1, 8, 32)]
    loads = {case: Load() for case in cases}
    for _ in range(rounds):
        for (people, megapixels, clients), met in loads.items():
            photo = photos[megapixels]
            measure(peer, met, photo, clients, seconds, **boxes_of(photo, people))
    first = loads[cases[0]].rate
    for case, met in loads.items():
        table.add_row(*(f"{value:g}" for value in case), *met.cells(first))
    return table


def main() -> None:
    """Prints the tables."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--seconds", type=float, default=3.0, help="of each round")
    asked.add_argument("--network", default="hrnet_w18_small")
    options = asked.parse_args()
    rounds, seconds = options.rounds, options.seconds
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    console = Console(width=130)
    with tempfile.TemporaryDirectory() as name:
        photos = {megapixels: photo_of(Path(name), megapixels) for megapixels in MEGAPIXELS}
        with started(options.network, photos[0.3]) as (peers, left_out):
            console.print(f"{options.network}: {rounds} rounds of {seconds:g} s")
            console.print(compared(peers, photos, rounds, seconds), *left_out, sep="\n")
            exact = peers[EXACT]
            assert isinstance(exact, Server)
            console.print("growth, hrpose exact")
            console.print(growth(exact, photos, rounds, seconds))
            photo = photo_of(Path(name), 0.9216)
            met = Load()
            measure(exact, met, photo, 1, 2 * seconds)
            console.print("phases of 0.9 megapixels, one person, CPU ms")
            console.print(phases(options.network, photo, met.cpu * 1000 / len(met.times)))


if __name__ == "__main__":
    main()
