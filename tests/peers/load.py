"""A load of closed-loop clients in a process of its own, light enough to measure a server with.

python -m tests.peers.load PORT PHOTO CLIENTS SECONDS [NAME=VALUE ...] prints JSON: seconds, times
of each answered request in seconds, and how many failed. Each client keeps its connection.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

_LENGTH = b"content-length:"


def request_of(photo: bytes, fields: dict[str, str], path: str = "/pose") -> bytes:
    """A POST with a form of one photograph and more fields, as bytes on the wire."""
    cut = b"----hrpose-bench"
    parts = [
        b'Content-Disposition: form-data; name="%s"\r\n\r\n%s' % (name.encode(), value.encode())
        for name, value in fields.items()
    ]
    parts.append(
        b'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n" + photo
    )
    body = b"".join(b"--" + cut + b"\r\n" + part + b"\r\n" for part in parts)
    body += b"--" + cut + b"--\r\n"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAccept: application/json\r\n"
        f"Content-Type: multipart/form-data; boundary={cut.decode()}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> int:
    """Sends one request; returns the answer's status."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(_LENGTH):
            await reader.readexactly(int(line[len(_LENGTH) :]))
    return int(head.split(b" ", 2)[1])


async def _client(port: int, request: bytes, end: float, times: list[float]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    failed = 0
    while (start := time.perf_counter()) < end:
        if await _answer(reader, writer, request) == 200:
            times.append(time.perf_counter() - start)
        else:
            failed += 1
    writer.close()
    return failed


async def load(port: int, request: bytes, clients: int, seconds: float) -> dict[str, object]:
    """What `clients` clients met within `seconds`, and until their last answers came."""
    times: list[float] = []
    start = time.perf_counter()
    failed = await asyncio.gather(
        *(_client(port, request, start + seconds, times) for _ in range(clients))
    )
    return {"seconds": time.perf_counter() - start, "times": times, "failed": sum(failed)}


if __name__ == "__main__":
    _port, _photo, _clients, _seconds, *_fields = sys.argv[1:]
    _request = request_of(Path(_photo).read_bytes(), dict(field.split("=", 1) for field in _fields))
    sys.stdout.write(
        json.dumps(asyncio.run(load(int(_port), _request, int(_clients), float(_seconds))))
    )
