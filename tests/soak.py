"""`make soak`: a real server under mixed traffic for a long time; nothing may grow or change.

python -m tests.soak [--seconds 1800] [--clients 8]

Eight clients ask a server process with its default networks for poses, drawings, boxes and
classes, send what is no photograph, and hang up. Every answer must equal the answer that the same
request got at first; memory, threads and open files must stay level after the first sixth.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from heads.image import encode_image, read_image
from tests.conftest import ROOT
from tests.processes import environment, free_port, open_files, rss_mib, threads

MOST_GROWTH_MIB = 20.0
MOST_MORE_FILES = 12  # connections that are just being closed
MOST_MORE_THREADS = 4
WARM_UP = 1 / 6
SAMPLE_S = 1.0
READY_S = 180


@dataclass(frozen=True)
class Ask:
    """A request as bytes on the wire, and what its status should be."""

    name: str
    wire: bytes
    status: int = 200
    hang_up: bool = False


@dataclass
class Sample:
    """What the server's process holds after `at` seconds."""

    at: float
    rss: float
    files: int
    threads: int


@dataclass
class Report:
    """What a soak saw."""

    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    ended: bool = False

    @property
    def level(self) -> Sample:
        """What the process held at the end of the warm-up: the most of its last third."""
        warm = [s for s in self.samples if s.at <= self.seconds * WARM_UP] or self.samples[:1]
        warm = warm[-max(1, len(warm) // 3) :]
        return Sample(
            warm[-1].at,
            max(s.rss for s in warm),
            max(s.files for s in warm),
            max(s.threads for s in warm),
        )

    @property
    def growth(self) -> Sample:
        """How much more the process held in the last tenth, on average, than when warm."""
        last, level = self.samples[-max(1, len(self.samples) // 10) :], self.level
        return Sample(
            self.seconds,
            sum(s.rss for s in last) / len(last) - level.rss,
            min(s.files for s in last) - level.files,
            min(s.threads for s in last) - level.threads,
        )

    def failures(self) -> list[str]:
        """What should not have been; empty for a good server."""
        found = list(self.wrong[:10])
        growth = self.growth
        if growth.rss > MOST_GROWTH_MIB:
            found.append(f"memory grew by {growth.rss:.1f} MiB")
        if growth.files > MOST_MORE_FILES:
            found.append(f"{growth.files} more files are open")
        if growth.threads > MOST_MORE_THREADS:
            found.append(f"{growth.threads} more threads run")
        return found

    def lines(self) -> list[str]:
        """The report for people."""
        level, growth = self.level, self.growth
        return [
            f"{sum(self.answers.values())} requests in {self.seconds:.0f} s: "
            + ", ".join(f"{count} {name}" for name, count in self.answers.most_common()),
            f"memory {level.rss:.0f} MiB warm, {growth.rss:+.1f} at the end, "
            f"{max(s.rss for s in self.samples):.0f} at most",
            f"open files {level.files}, {growth.files:+d}; "
            f"threads {level.threads}, {growth.threads:+d}",
            *(f"WRONG: {failure}" for failure in self.failures()),
        ]


@contextlib.contextmanager
def server(*words: str) -> Iterator[tuple[int, int]]:
    """Process id and port of a real server with its default networks, ready."""
    port = free_port()
    command = ["hrpose", "serve", "--port", str(port), "--log-level", "error", *words]
    command += ["--timeout-s", "300"]  # a slow machine is no fault of the server
    process = subprocess.Popen(
        [sys.executable, "-m", *command], env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + READY_S
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the server did not become ready")
            time.sleep(0.1)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(port: int) -> bool:
    ask = Ask("ready", b"GET /health/ready HTTP/1.1\r\nHost: soak\r\n\r\n")
    with contextlib.suppress(OSError):
        return asyncio.run(ask_once(port, ask))[0] == 200
    return False


def traffic(photos: list[Path]) -> list[Ask]:
    """Every kind of request for every photograph, good ones and bad ones."""
    asks = []
    for photo in photos:
        data = photo.read_bytes()
        name = photo.stem
        asks += [
            post(f"pose {name}", "/pose", data),
            post(f"drawn {name}", "/pose", data, accept="image/jpeg"),
            post(f"detect {name}", "/detect", data),
            post(f"classify {name}", "/classify", data),
            post(f"flipped {name}", "/pose?flip_test=true", data),
            post(f"truncated {name}", "/pose", data[: len(data) // 2], status=400),
            Ask(f"hung up {name}", post("", "/pose", data).wire, hang_up=True),
        ]
    png = encode_image(read_image(photos[0]), "png")
    return [
        *asks,
        post("png", "/pose", png),
        post("no image", "/pose", b"not an image", status=400),
        post("typo", "/pose?treshold=1", photos[0].read_bytes(), status=422),
        post("nobody's network", "/pose?model=nobody", photos[0].read_bytes(), status=404),
        Ask("nowhere", b"GET /nowhere HTTP/1.1\r\nHost: soak\r\n\r\n", status=404),
    ]


def post(
    name: str, path: str, body: bytes, status: int = 200, accept: str = "application/json"
) -> Ask:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: soak\r\nAccept: {accept}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Ask(name, head.encode() + body, status)


async def ask_once(port: int, ask: Ask) -> tuple[int, bytes]:
    """Status and body of one request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(ask.wire)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        return int(head.split(b" ", 2)[1]), await reader.readexactly(length)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _hang_up(port: int, ask: Ask, chance: Random) -> None:
    """Sends all or some of a request and goes away without waiting for the answer."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ask.wire[: chance.choice((len(ask.wire), len(ask.wire) // 2, 40))])
    with contextlib.suppress(OSError):
        await writer.drain()
        await asyncio.sleep(chance.uniform(0, 0.05))
        writer.close()
        await writer.wait_closed()


def _answer(status: int, body: bytes) -> tuple[int, object]:
    """What of an answer should be the same each time: not its timing, and no random id."""
    with contextlib.suppress(ValueError):
        content = json.loads(body)
        if isinstance(content, dict):
            for name in ("timing_ms", "instance"):
                content.pop(name, None)
            return status, content
    return status, body


async def _client(
    port: int, asks: list[Ask], known: dict[str, tuple[int, object]], until: float, seed: int,
    report: Report,
) -> None:  # fmt: skip
    chance = Random(seed)
    while time.monotonic() < until and not report.ended:
        ask = chance.choice(asks)
        kind = ask.name.split()[0]
        try:
            if ask.hang_up:
                await _hang_up(port, ask, chance)
            else:
                got = _answer(*await ask_once(port, ask))
                if got != known[ask.name]:
                    report.wrong.append(f"{ask.name}: {str(got)[:200]}")
        except (OSError, asyncio.IncompleteReadError) as error:
            report.wrong.append(f"{ask.name}: {error!r}")
        report.answers[kind] += 1


async def _watch(pid: int, start: float, until: float, report: Report) -> None:
    while (now := time.monotonic()) < until:
        rss = rss_mib(pid)
        if not rss:
            report.wrong.insert(0, f"the server ended after {now - start:.0f} s")
            report.ended = True
            return
        report.samples.append(Sample(now - start, rss, open_files(pid), threads(pid)))
        await asyncio.sleep(min(SAMPLE_S, until / 60))


async def run(pid: int, port: int, asks: list[Ask], clients: int, seconds: float) -> Report:
    """Asks each request once for its known answer, then mixes them for so many seconds."""
    known = {}
    for ask in asks:
        if not ask.hang_up:
            known[ask.name] = _answer(*await ask_once(port, ask))
            assert known[ask.name][0] == ask.status, (ask.name, known[ask.name])
    start = time.monotonic()
    report = Report(seconds)
    await asyncio.gather(
        _watch(pid, start, start + seconds, report),
        *(_client(port, asks, known, start + seconds, i, report) for i in range(clients)),
    )
    return report


def soak(photos: list[Path], clients: int, seconds: float) -> Report:
    """The whole of it, with a server of its own."""
    with server() as (pid, port):
        return asyncio.run(run(pid, port, traffic(photos), clients, seconds))


def main() -> None:
    """Prints the report; ends with 1 if something was wrong."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seconds", type=float, default=1800)
    asked.add_argument("--clients", type=int, default=8)
    options = asked.parse_args()
    photos = sorted((ROOT / "docs").glob("*.jpg"))
    report = soak(photos, options.clients, options.seconds)
    sys.stdout.write("\n".join(report.lines()) + "\n")
    sys.exit(bool(report.failures()))


if __name__ == "__main__":
    main()
