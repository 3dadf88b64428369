"""Clients that dawdle, and more of them than there is room for: by raw sockets."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from unittest.mock import Mock

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI, Response
from pydantic import SecretStr

from service.app import create_app
from service.connections import Patience, PatientProtocol, protocol_of
from service.server import listen
from service.settings import Settings
from tests.service.conftest import real_server, wait_until
from tests.service.fakes import FakeEngine

HEADER_S = 0.4
PATIENT_S = 10.0

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"

Address = tuple[str, int]


@pytest.fixture
def address(engine: FakeEngine) -> Iterator[Address]:
    """A server with the usual bounds."""
    with real_server(Settings(), engine) as address:
        yield address


@pytest.fixture
def impatient(engine: FakeEngine) -> Iterator[Address]:
    """A server that waits a moment for a request's head."""
    with real_server(Settings(header_timeout_s=HEADER_S), engine) as address:
        yield address


def connect(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENT_S)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes; a timeout of the test if it does not."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def read_answer(connection: socket.socket) -> bytes:
    """One whole answer, in however many pieces it comes."""
    with connection.makefile("rb") as file:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline()
            assert line, "the server closed"
            head += line
        length = head.lower().partition(b"content-length:")[2].split()[0]
        return head + file.read(int(length))


@pytest.mark.parametrize(
    "sent", [b"GARBAGE\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_http_is_refused_as_a_problem(address: Address, sent: bytes) -> None:
    with closing(connect(address)) as connection:
        connection.sendall(sent)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["type"] == "/problems/bad-request"


def test_a_client_that_never_asks_is_left(impatient: Address) -> None:
    with closing(connect(impatient)) as connection:
        assert read_all(connection) == b""


def trickle(connection: socket.socket, text: bytes) -> None:
    """Sends a byte now and then, until the other side has enough."""
    try:
        for byte in text:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
    except OSError:
        pass


@pytest.mark.parametrize("text", [b"GET / HTTP/1.1\r\nX: " + b"x" * 500, b"\r\n" * 250])
def test_a_head_that_comes_byte_by_byte_is_left(impatient: Address, text: bytes) -> None:
    with closing(connect(impatient)) as connection:
        sending = threading.Thread(target=trickle, args=(connection, text))
        sending.start()
        said = read_all(connection)
        sending.join()
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["type"] == "/problems/timeout"


def test_a_second_request_on_a_connection_may_not_dawdle_either(impatient: Address) -> None:
    with closing(connect(impatient)) as connection:
        connection.sendall(LIVE)
        assert b"200 OK" in read_answer(connection)
        trickle(connection, b"GET / HTTP/1.1\r\nX: " + b"x" * 50)
        assert b"408" in read_all(connection)


def test_a_slow_answer_is_not_a_slow_head(impatient: Address, photo: bytes) -> None:
    """The fake's network takes longer than a head may."""
    url = f"http://{impatient[0]}:{impatient[1]}/pose?model=slow"
    with httpx2.Client() as client:
        for _ in range(2):
            assert client.post(url, content=photo).status_code == 200


def test_a_slow_body_is_not_a_slow_head(impatient: Address, photo: bytes) -> None:
    with closing(connect(impatient)) as connection:
        head = f"POST /pose HTTP/1.1\r\nHost: x\r\nContent-Length: {len(photo)}\r\n\r\n"
        connection.sendall(head.encode() + photo[:10])
        time.sleep(1.5 * HEADER_S)
        connection.sendall(photo[10:])
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_requests_that_come_together_are_all_answered(impatient: Address) -> None:
    with closing(connect(impatient)) as connection:
        request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
        connection.sendall((request + b"\r\n") * 2 + request + b"Connection: close\r\n\r\n")
        assert read_all(connection).count(b'{"status":"live"}') == 3


def test_more_connections_than_allowed_are_refused(engine: FakeEngine) -> None:
    with real_server(Settings(max_connections=3), engine) as address, ExitStack() as stack:
        url = f"http://{address[0]}:{address[1]}"
        first = stack.enter_context(closing(connect(address)))
        for _ in range(2):
            third = stack.enter_context(closing(connect(address)))
        third.sendall(LIVE)
        assert read_answer(third).startswith(b"HTTP/1.1 200 ")
        third.sendall(b"GET")
        with closing(connect(address)) as fourth:
            fourth.sendall(b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n")
            said = read_all(fourth)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in said
        first.close()
        wait_until(lambda: httpx2.get(f"{url}/models").status_code == 200)


@contextmanager
def one_too_many(engine: FakeEngine) -> Iterator[socket.socket]:
    """A connection to a server that has as many as it may."""
    with (
        real_server(Settings(max_connections=1), engine) as address,
        closing(connect(address)),
        closing(connect(address)) as second,
    ):
        yield second


UPLOAD = b"POST /pose HTTP/1.1\r\nHost: x\r\nContent-Length: 6000000\r\n\r\n"


def test_idle_connections_make_room_for_others(engine: FakeEngine) -> None:
    with real_server(Settings(max_connections=2), engine) as address, ExitStack() as stack:
        connections = []
        for _ in range(4):
            connections.append(stack.enter_context(closing(connect(address))))
            connections[-1].sendall(LIVE)
            assert read_answer(connections[-1]).startswith(b"HTTP/1.1 200 ")
        for longest_idle in connections[:2]:
            assert read_all(longest_idle) == b""
        connections[3].sendall(LIVE)
        assert read_answer(connections[3]).startswith(b"HTTP/1.1 200 ")


def test_one_too_many_that_sends_before_it_reads_sees_why(engine: FakeEngine) -> None:
    with one_too_many(engine) as connection:
        connection.sendall(UPLOAD)
        for _ in range(60):
            connection.sendall(bytes(100_000))
        assert read_all(connection).startswith(b"HTTP/1.1 503 ")
    assert engine.asked == []


def drip(connection: socket.socket) -> None:
    """Goes on sending, byte by byte."""
    end = time.monotonic() + PATIENT_S
    while time.monotonic() < end:
        connection.sendall(b"x")
        time.sleep(0.02)


def test_one_too_many_that_goes_on_sending_is_left(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.connections.LINGER_S", HEADER_S)
    with one_too_many(engine) as connection:
        connection.sendall(UPLOAD)
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            drip(connection)


def test_a_server_with_too_many_connections_still_says_that_it_lives(engine: FakeEngine) -> None:
    with one_too_many(engine) as connection:
        connection.sendall(LIVE)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")  # and it is closed then


def test_one_too_many_is_answered_where_another_has_gone_since(engine: FakeEngine) -> None:
    with real_server(Settings(max_connections=1), engine) as address:
        first = connect(address)
        with closing(connect(address)) as second:
            second.sendall(b"GET /models HTTP/1.1\r\n")
            time.sleep(0.05)
            first.close()
            time.sleep(0.5)
            second.sendall(b"Host: x\r\n\r\n")
            assert read_answer(second).startswith(b"HTTP/1.1 200 ")


def test_far_too_many_are_not_heard_out(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.connections.RESERVE", 0)
    with one_too_many(engine) as connection:
        assert read_all(connection).startswith(b"HTTP/1.1 503 ")


def test_a_connection_stays_open_for_as_long_as_is_said(engine: FakeEngine) -> None:
    settings = Settings(keep_alive_s=HEADER_S)
    with real_server(settings, engine) as address, closing(connect(address)) as connection:
        connection.sendall(LIVE)
        read_answer(connection)
        start = time.monotonic()
        assert read_all(connection) == b""
        assert time.monotonic() - start > 0.9 * HEADER_S


BIG = 32 * 2**20
"""More than the buffers of the operating system take."""


@contextmanager
def big_answers(
    engine: FakeEngine, send_timeout_s: float
) -> Iterator[tuple[Address, uvicorn.Server]]:
    settings = Settings(send_timeout_s=send_timeout_s)
    app: FastAPI = create_app(settings, engine)
    app.add_api_route("/big", lambda: Response(bytes(BIG)))
    config = uvicorn.Config(app, log_config=None, http=protocol_of(settings))
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        wait_until(lambda: server.started)
        yield listening.getsockname(), server
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("ending", [b"", b"Connection: close\r\n"])
def test_a_client_that_does_not_take_its_answer_is_left(engine: FakeEngine, ending: bytes) -> None:
    with (
        big_answers(engine, send_timeout_s=0.5) as (address, server),
        closing(connect(address)) as connection,
    ):
        connection.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n" + ending + b"\r\n")
        wait_until(lambda: len(server.server_state.connections) == 1)
        wait_until(lambda: not server.server_state.connections)


def test_a_client_that_takes_its_answer_gets_all_of_it(engine: FakeEngine) -> None:
    with big_answers(engine, send_timeout_s=3 * PATIENT_S) as ((host, port), _):
        answer = httpx2.get(f"http://{host}:{port}/big", timeout=2 * PATIENT_S)
    assert len(answer.content) == BIG


def test_small_answers_taken_slowly_are_not_one_late_answer(engine: FakeEngine) -> None:
    """Each in a part of the time; together they take longer than one may."""
    with (
        big_answers(engine, send_timeout_s=5.0) as (address, _),
        closing(connect(address)) as connection,
    ):
        for _ in range(4):
            connection.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(1.3)
            assert len(read_answer(connection)) > BIG


@pytest.mark.parametrize(
    ("start", "more"), [(b"GET / HTTP/1.1\r\nX: ", b"xx"), (b"", b"\r\n"), (b"GET /", b"xx")]
)
def test_a_head_without_end_is_refused(address: Address, start: bytes, more: bytes) -> None:
    """After no more than the buffers on the way take of 64 MB."""
    with closing(connect(address)) as connection:
        assert flood(connection, start, more) < 64 * 2**20


@pytest.mark.parametrize(
    ("trailer", "more"), [(b"a:b\r\n", b"a:" + b"b" * 60 + b"\r\n"), (b"a:", b"b" * 64)]
)
def test_trailers_without_end_are_left(address: Address, trailer: bytes, more: bytes) -> None:
    head = b"POST /pose HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with closing(connect(address)) as connection:
        assert flood(connection, head + b"1\r\na\r\n0\r\n" + trailer, more) < 64 * 2**20


def test_trailers_are_no_headers(engine: FakeEngine, photo: bytes) -> None:
    """A key has to be there before the body is read."""
    settings = Settings(api_keys=SecretStr("secret"))
    head = b"POST /pose HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
    body = b"%x\r\n%b\r\n0\r\nX-API-Key: wrong\r\n\r\n" % (len(photo), photo)
    with real_server(settings, engine) as address, closing(connect(address)) as connection:
        connection.sendall(head + b"X-API-Key: secret\r\n\r\n" + body)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
@pytest.mark.parametrize(
    "cut",
    [
        b"",
        b"\r\n\r\n",
        b"AAMA\r",
        b"AAMA\r\n",
        b"AAMA\r\n\r",
        b"Settings\r\n",
        b"\r\nUpg",
        b"\r\nUpgrade",
        b"\r\nUpgrade:",
    ],
)
def test_a_wish_for_another_protocol_is_passed_over(
    address: Address, photo: bytes, protocol: bytes, cut: bytes
) -> None:
    head = (
        b"POST /pose HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Content-Length: %d\r\nUpgrade: %b\r\nHTTP2-Settings: AAMA\r\n\r\n"
        % (len(photo), protocol)
    )
    first, cut_at, second = (head + photo).partition(cut) if cut else (head, b"", photo)
    with closing(connect(address)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            connection.sendall(first + cut_at)
            time.sleep(0.05 if cut else 0)
            connection.sendall(second)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_a_wish_in_the_second_of_two_requests_is_passed_over_too(address: Address) -> None:
    wish = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    with closing(connect(address)) as connection:
        connection.sendall(LIVE + wish + LIVE)
        said = b""
        while said.count(b'{"status":"live"}') < 3:
            said += connection.recv(65536)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_what_is_like_a_wish_in_another_header_stays(size: int) -> None:
    text = b"GET / HTTP/1.1\r\nUpgrades: a\r\nX-Up: upgrade: y\r\nUPGRADE : h2c\r\nU: u\r\n\r\n"
    assert heard(text, size) == text.replace(b"UPGRADE :", b"not-upgraded:")


def heard(text: bytes, size: int) -> bytes:
    """What the parser sees of a head that comes in pieces of that size."""
    protocol = object.__new__(PatientProtocol)
    pieces = (text[i : i + size] for i in range(0, len(text), size))
    return b"".join(protocol._piece_of_head(piece)[0] for piece in pieces)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_every_address_of_ipv6_is_every_address() -> None:
    with listen(Settings(host="::", port=0)) as listening:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, listening.getsockname()[1]), PATIENT_S).close()


class Listening(PatientProtocol):
    """Hears one request, and keeps its body."""

    patience = Patience(60, 60, 60, 10)

    def __init__(self) -> None:
        config = uvicorn.Config(FastAPI())
        config.load()
        super().__init__(config, uvicorn.server.ServerState(), {}, Mock())
        self.body = b""
        self.connection_made(Mock(is_closing=lambda: False))

    def on_headers_complete(self) -> None:
        """No application is asked."""
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        """A piece of it."""
        self.body += body


@pytest.mark.parametrize("size", [1, 3, 50, 1000])
def test_a_body_stays_as_it_is_however_it_comes(size: int) -> None:
    """What looks like a wish in it, or like the end of a head, or the start of either."""
    body = b"\nUpgrade: h2c\r\n\r\nUpgrade: h2c\nu\r\n\r\nupgra"
    text = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    protocol = Listening()
    for i in range(0, len(text), size):
        protocol.data_received(text[i : i + size])
    assert protocol.body == body


def flood(connection: socket.socket, start: bytes, more: bytes) -> int:
    """Sends until the other side has enough; how many bytes it took, 64 MB at most."""
    sent = 0
    try:
        while sent < 64 * 2**20:
            sent += connection.send((start if sent == 0 else b"") + more * 2**15)
    except OSError:
        pass
    return sent


def test_a_refused_body_may_come_slowly(engine: FakeEngine) -> None:
    """It is no second request whose head is late: one answer, and the connection stays."""
    settings = Settings(header_timeout_s=HEADER_S, api_keys=SecretStr("secret"))
    size = 2**20
    with real_server(settings, engine) as address, closing(connect(address)) as connection:
        head = f"POST /pose HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
        connection.sendall(head.encode())
        assert read_answer(connection).startswith(b"HTTP/1.1 401 ")
        for _ in range(4):
            time.sleep(HEADER_S / 2)
            connection.sendall(bytes(size // 4))
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        said = read_all(connection)
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"408" not in said


def test_the_rest_of_a_refused_body_has_a_time(engine: FakeEngine) -> None:
    settings = Settings(send_timeout_s=0.5, api_keys=SecretStr("secret"))
    with real_server(settings, engine) as address, closing(connect(address)) as connection:
        connection.sendall(b"POST /pose HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")
        start = time.monotonic()
        sending = threading.Thread(target=trickle, args=(connection, bytes(500)))
        sending.start()
        assert read_all(connection).count(b"HTTP/1.1 ") == 1
        sending.join()
    assert time.monotonic() - start < PATIENT_S / 2


def test_a_connection_whose_answer_came_early_is_not_kept_for_ever(engine: FakeEngine) -> None:
    """The rest of the body is there, and nothing follows."""
    settings = Settings(api_keys=SecretStr("secret"), keep_alive_s=HEADER_S)
    with real_server(settings, engine) as address, closing(connect(address)) as connection:
        connection.sendall(b"POST /pose HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        assert read_answer(connection).startswith(b"HTTP/1.1 401 ")
        connection.sendall(b"67890")
        assert read_all(connection) == b""


def test_a_refused_body_that_came_whole_is_not_late(engine: FakeEngine) -> None:
    """The connection outlives the time that its rest had."""
    settings = Settings(send_timeout_s=0.5, api_keys=SecretStr("secret"))
    with real_server(settings, engine) as address, closing(connect(address)) as connection:
        connection.sendall(b"POST /pose HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        assert read_answer(connection).startswith(b"HTTP/1.1 401 ")
        connection.sendall(b"67890")
        time.sleep(1.0)
        connection.sendall(LIVE)
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_all_requests_of_a_connection_learn_of_its_end(engine: FakeEngine, photo: bytes) -> None:
    """Also the first of two that came together, which is the one that is worked on."""
    with real_server(Settings(), engine) as address:
        connection = connect(address)
        head = f"POST /pose?model=stuck HTTP/1.1\r\nHost: x\r\nContent-Length: {len(photo)}\r\n\r\n"
        connection.sendall(head.encode() + photo + b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert engine.working.acquire(timeout=PATIENT_S)
        connection.close()
        assert engine.dropped.acquire(timeout=PATIENT_S)


def test_a_long_head_is_told_so(address: Address) -> None:
    with closing(connect(address)) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: ")
        for _ in range(5):
            time.sleep(0.05)
            connection.sendall(b"x" * 16 * 1024)
        said = read_all(connection)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["type"] == "/problems/too-large"
