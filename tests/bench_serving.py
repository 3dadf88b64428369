"""`make bench`: hrpose as a service against what people write without it, on one machine.

Servers run in processes of their own, started together, and are loaded in turn in interleaved
rounds, so that a busy neighbour disturbs all alike: the ratios count, the times are this machine's.
"""

import contextlib
import importlib.util
import json
import os
import signal
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

from heads.image import encode_image, read_image
from tests.bench_phases import phases
from tests.conftest import ROOT
from tests.processes import cpu_seconds, environment, free_port, rss_mib
from tests.report import Report
from training.precision import arithmetic

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

    def report(self, to: Report, what: str, by: str, against: float, beside: str = "") -> None:
        """One row; against: the rate that the ratio is to."""
        p50, p95, p99 = np.percentile(self.times, (50, 95, 99)) * 1000
        failed = f"{self.failed} failed" if self.failed else ""
        to.add(
            what,
            by,
            ratio=self.rate / against,
            a_second=self.rate,
            percentiles_ms=(float(p50), float(p95), float(p99)),
            cpu_ms=self.cpu * 1000 / max(1, len(self.times)),
            beside=", ".join(filter(None, (beside, failed))),
        )


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
            env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True,
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

    def cpu_ms(self, photo: Path, clients: int, seconds: float) -> float:
        """Processor milliseconds of the server for each photograph."""
        met = Load()
        measure(self, met, photo, clients, seconds)
        return met.cpu * 1000 / len(met.times)

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
        """Ends the process, and those it has started and left behind (LitServe's workers)."""
        self._process.terminate()
        self._process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


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


def case(people: int, megapixels: float, clients: int) -> str:
    """What is asked of a server, in words."""
    return f"{megapixels:g} MP, people: {people}, clients: {clients}"


def compared(
    report: Report,
    peers: dict[str, Server | Loop],
    photos: dict[float, Path],
    rounds: int,
    seconds: float,
) -> None:
    """Every peer, photograph, number of people and of clients."""
    for clients, (megapixels, photo), people in product(CLIENTS, photos.items(), PEOPLE):
        able = {name: peer for name, peer in peers.items() if peer.most_clients >= clients}
        loads = {name: Load() for name in able}
        boxes = boxes_of(photo, people)
        for _ in range(rounds):
            for name, peer in able.items():
                measure(peer, loads[name], photo, clients, seconds, **boxes)
        for name, met in loads.items():
            memory = f"RSS {rss_mib(able[name].pid):.0f} MiB"
            what = case(people, megapixels, clients)
            met.report(report, what, name, loads[PLAIN].rate, memory)


def growth(
    report: Report, peer: Server, photos: dict[float, Path], rounds: int, seconds: float
) -> None:
    """Hrpose alone: more people, larger photographs, more clients; ratios to the first row."""
    cases = [(people, 2.0, 8) for people in PEOPLE]
    cases += [(1, megapixels, 8) for megapixels in photos] + [(1, 2.0, n) for n in (1, 8, 32)]
    loads = {asked: Load() for asked in cases}
    for _ in range(rounds):
        for (people, megapixels, clients), met in loads.items():
            photo = photos[megapixels]
            measure(peer, met, photo, clients, seconds, **boxes_of(photo, people))
    for asked, met in loads.items():
        met.report(report, case(*asked), EXACT, loads[cases[0]].rate)


def serving(report: Report, network: str, rounds: int, seconds: float) -> None:
    """End to end against the peers, the growth of hrpose's cost, and its phases."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with tempfile.TemporaryDirectory() as name:
        photos = {megapixels: photo_of(Path(name), megapixels) for megapixels in MEGAPIXELS}
        with started(network, photos[0.3]) as (peers, left_out):
            how = f"{rounds} rounds of {seconds:g} s"
            report.part(f"{network} end to end, {how}", PLAIN, "photos")
            compared(report, peers, photos, rounds, seconds)
            for words in left_out:
                report.note(words)
            exact = peers[EXACT]
            assert isinstance(exact, Server)
            report.part(f"growth, {how}", "the first of these", "photos")
            growth(report, exact, photos, rounds, seconds)
            photo = photo_of(Path(name), 0.9216)
            phases(report, network, photo, exact, seconds / 2)
