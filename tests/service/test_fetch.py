"""Images by URL: fetched from allowed public hosts, and from nowhere else."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
import trustme
from fastapi.testclient import TestClient

from heads.errors import ImageError
from service.app import create_app
from service.body import Body
from service.errors import BadImageUrl, InvalidParameter, TooLarge
from service.fetch import Fetcher, resolve
from service.public_address import Address, is_public
from service.settings import Settings
from tests.service.conftest import client_of, real_server, wait_until
from tests.service.fakes import FakeEngine
from tests.service.test_problems import assert_problem

HOST = "images.example.com"
URL = f"https://{HOST}/photo.jpg?size=1"
PUBLIC = ipaddress.ip_address("93.184.215.14")

REFUSED_ADDRESSES = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192",
    "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1",
    "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%1", "fec0::1",
    "ff02::1", "ff0e::1", "100::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:224.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808",
    "2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::1",
    "2400:cb00::5efe:a00:1", "2400:cb00::200:5efe:10.0.0.1", "192.88.99.1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",  # Teredo of 127.0.0.1
    "2001:0:7f00:1:8000:63bf:3fff:fdd2",  # by a Teredo server at 127.0.0.1
]  # fmt: skip

PUBLIC_ADDRESSES = [
    "93.184.215.14", "8.8.8.8", "2606:4700:4700::1111", "2a00:1450:4001:82a::200e",
    "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
    "2400:cb00::5efe:8.8.8.8", "2400:cb00::1:5efe:10.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED_ADDRESSES)
def test_an_address_that_is_not_of_the_public_internet_is_refused(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert not is_public(address)
    connected: list[Address] = []
    # One bad address among good ones is enough, wherever it stands.
    for addresses in ([address], [PUBLIC, address], [address, PUBLIC]):
        fetcher = unreachable(addresses, connected)
        with pytest.raises(BadImageUrl, match="not on the public Internet") as error:
            fetcher.fetch(URL, ignore)
        assert text not in str(error.value)
    assert connected == []


@pytest.mark.parametrize("text", PUBLIC_ADDRESSES)
def test_an_address_of_the_public_internet_is_connected_to(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert is_public(address)
    connected: list[Address] = []
    fetcher = unreachable([address], connected)
    with pytest.raises(BadImageUrl, match="cannot be reached"):
        fetcher.fetch(URL, ignore)
    assert connected == [address]


def ignore(_: int) -> None:
    """Room for everything."""


def unreachable(addresses: list[Address], connected: list[Address]) -> Fetcher:
    """A fetcher whose names have these addresses, on a network on which nobody answers."""

    def connect(address: Address, _: float) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return Fetcher(["*"], 100, resolve=lambda _: addresses, connect=connect, context=bare)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (f"http://{HOST}/a.jpg", "https://"),
        ("file:///etc/passwd", "https://"),
        ("gopher://images.example.com/", "https://"),
        ("", "https://"),
        ("images.example.com/a.jpg", "https://"),
        (f"https://{HOST}:8443/", "port"),
        (f"https://{HOST}:0/", "port"),
        (f"https://{HOST}:99999/", "no URL"),
        (f"https://user@{HOST}/", "password"),
        (f"https://user:word@{HOST}/", "password"),
        (f"https://@{HOST}/", "password"),
        (f"https://evil.example\\@{HOST}/", "printable"),
        (f"https://{HOST}/a b", "printable"),
        (f"https://{HOST}/\r\nX: y", "printable"),
        (f"https://{HOST}/\u00e4", "printable"),
        (f"https://{HOST}/" + "a" * 2048, "2048"),
        ("https://127.0.0.1/", "name"),
        ("https://127.1/", "name"),
        ("https://2130706433/", "name"),
        ("https://0x7f.0.0.0x1/", "name"),
        ("https://0x7f000001/", "name"),
        ("https://[::1]/", "name"),
        ("https://[::1/", "no URL"),
        ("https://localhost/", "name"),
        ("https:///a", "name"),
        (f"https://{HOST}./", "name"),
        ("https://evil.example/", "not among"),
        ("https://example.com/", "not among"),
        (f"https://{HOST}.evil.example/", "not among"),
        ("https://evilimages.example.com/", "not among"),
        (f"https://evil.example/?{HOST}", "not among"),
        (f"https://evil.example#{HOST}", "not among"),
        ("https://wild.example.org/", "not among"),
        ("https://evilwild.example.org/", "not among"),
    ],
)
def test_a_url_that_is_not_allowed_is_not_even_resolved(url: str, word: str) -> None:
    asked: list[str] = []
    fetcher = Fetcher([HOST, "*.wild.example.org"], 100, resolve=lambda n: asked.append(n) or [])  # type: ignore[func-returns-value]
    with pytest.raises(InvalidParameter, match=word) as error:
        fetcher.fetch(url, ignore)
    assert error.value.parameter == "image_url"
    assert asked == []


class Site:
    """A TLS server on this machine, whose answers are functions of the path."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[ssl.SSLSocket], None] | bytes] = {}
        self.asked: list[str] = []
        self.reached: list[Address] = []
        self.threads: list[str] = []
        authority = trustme.CA()
        self.trusting = ssl.create_default_context()
        authority.configure_trust(self.trusting)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(HOST).configure_cert(self._context)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # Shut down as well: closing alone does not end an accept that waits.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)

    def connect(self, address: Address, timeout_s: float) -> socket.socket:
        """Instead of the network: whichever address, it is this server."""
        self.reached.append(address)
        self.threads.append(threading.current_thread().name)
        return socket.create_connection(self._listening.getsockname(), timeout_s)

    def fetcher(self, hosts: Sequence[str] = (HOST,), **options: Any) -> Fetcher:
        options = {"resolve": lambda _: [PUBLIC], "context": self.trusting, **options}
        return Fetcher(hosts, 1000, connect=self.connect, **options)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            plain.settimeout(10)
            with suppress(OSError), self._context.wrap_socket(plain, server_side=True) as client:
                head = client.recv(65536).decode()
                self.asked.append(head)
                answer = self.answers[head.split(" ")[1]]
                if callable(answer):
                    answer(client)
                else:
                    client.sendall(answer)


@pytest.fixture
def site() -> Iterator[Site]:
    started = Site()
    yield started
    started.close()


PATH = "/photo.jpg?size=1"


def ok(body: bytes, *headers: str) -> bytes:
    length = (f"Content-Length: {len(body)}",)
    return "\r\n".join(("HTTP/1.1 200 OK", *length, *headers, "", "")).encode() + body


def moved(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


def test_a_file_is_fetched_by_name_from_the_address_that_was_checked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    site.answers[PATH] = ok(b"the file")
    resolved: list[str] = []
    held: list[int] = []

    def resolve_once(name: str) -> list[Address]:
        resolved.append(name)
        return [PUBLIC]

    assert site.fetcher(resolve=resolve_once).fetch(URL, held.append) == b"the file"
    assert sum(held) == 8
    assert resolved == [HOST]
    assert site.reached == [PUBLIC]
    (head,) = site.asked
    assert head.startswith(f"GET {PATH} HTTP/1.1\r\nHost: {HOST}\r\n")
    assert "Accept-Encoding: identity\r\n" in head


def test_a_certificate_for_another_name_is_refused(site: Site) -> None:
    with pytest.raises(BadImageUrl, match="TLS failed"):
        site.fetcher(["*"]).fetch("https://other.example.com/", ignore)
    assert site.asked == []


def test_a_certificate_of_nobody_who_is_trusted_is_refused(site: Site) -> None:
    with pytest.raises(BadImageUrl, match="TLS failed"):
        site.fetcher(context=None).fetch(URL, ignore)
    assert site.asked == []


def test_a_redirect_is_followed(site: Site) -> None:
    site.answers |= {PATH: moved("/b"), "/b": moved(f"https://{HOST}/c"), "/c": moved("d")}
    site.answers["/d"] = ok(b"x")
    assert site.fetcher().fetch(URL, ignore) == b"x"


def test_a_fourth_redirect_is_not(site: Site) -> None:
    site.answers[PATH] = moved(PATH)
    with pytest.raises(BadImageUrl, match="more than 3 redirects"):
        site.fetcher().fetch(URL, ignore)
    assert len(site.asked) == 4


@pytest.mark.parametrize(
    "to",
    [f"http://{HOST}/", "https://evil.example/", "https://127.0.0.1/", f"https://{HOST}:22/",
     f"https://u:p@{HOST}/", "file:///etc/passwd", "//evil.example/"],
)  # fmt: skip
def test_a_redirect_is_checked_like_the_first_url(site: Site, to: str) -> None:
    site.answers[PATH] = moved(to)
    with pytest.raises(InvalidParameter) as error:
        site.fetcher().fetch(URL, ignore)
    assert error.value.parameter == "image_url"
    assert len(site.reached) == 1


def test_a_redirect_to_what_is_no_url_is_refused(site: Site) -> None:
    site.answers[PATH] = moved("https://[")
    with pytest.raises(BadImageUrl, match="no URL"):
        site.fetcher().fetch(URL, ignore)


def test_a_redirect_to_a_name_with_a_private_address_is_refused(site: Site) -> None:
    site.answers[PATH] = moved("https://inner.example.com/")
    private = [ipaddress.ip_address("10.0.0.1")]
    fetcher = site.fetcher(["*"], resolve=lambda name: [PUBLIC] if name == HOST else private)
    with pytest.raises(BadImageUrl, match="not on the public Internet"):
        fetcher.fetch(URL, ignore)
    assert site.reached == [PUBLIC]


def test_a_name_is_resolved_again_for_each_redirect(site: Site) -> None:
    """The second answer of a name server that changes its mind is checked too."""
    site.answers[PATH] = moved("/b")
    answers = iter([[PUBLIC], [ipaddress.ip_address("127.0.0.1")]])
    with pytest.raises(BadImageUrl, match="not on the public Internet"):
        site.fetcher(resolve=lambda _: next(answers)).fetch(URL, ignore)
    assert site.reached == [PUBLIC]


@pytest.mark.parametrize("promised", [True, False])
def test_a_file_that_is_too_large_is_left(site: Site, promised: bool) -> None:
    body = bytes(1001)
    site.answers[PATH] = ok(body) if promised else b"HTTP/1.1 200 OK\r\n\r\n" + body
    held: list[int] = []
    with pytest.raises(TooLarge, match="image_url"):
        site.fetcher().fetch(URL, held.append)
    assert not promised or held == []


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx", "answered 404"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "more than 3 redirects"),
        (ok(b"x", "Content-Encoding: gzip"), "Content-Encoding"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "does not answer"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer"),
        (b"", "does not answer"),
    ],
)
def test_an_answer_that_is_no_file_is_refused(site: Site, answer: bytes, word: str) -> None:
    site.answers[PATH] = answer
    with pytest.raises(BadImageUrl, match=word):
        site.fetcher().fetch(URL, ignore)


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX: ", ok(bytes(1000))[:-1000]])
def test_a_host_that_sends_byte_by_byte_is_left_in_time(site: Site, start: bytes) -> None:
    def trickle(client: ssl.SSLSocket) -> None:
        client.sendall(start)
        for _ in range(200):
            client.sendall(b"x")
            time.sleep(0.05)

    site.answers[PATH] = trickle
    began = time.monotonic()
    with pytest.raises(BadImageUrl, match="not fetched within"):
        site.fetcher(timeout_s=0.5).fetch(URL, ignore)
    assert time.monotonic() - began < 5


def test_a_name_server_that_hangs_is_left_in_time(site: Site) -> None:
    over = threading.Event()

    def hang(_: str) -> list[Address]:
        over.wait(10)
        return [PUBLIC]

    with pytest.raises(BadImageUrl, match="not fetched within"):
        site.fetcher(resolve=hang, timeout_s=0.2).fetch(URL, ignore)
    over.set()


def test_the_next_address_is_tried(site: Site) -> None:
    site.answers[PATH] = ok(b"x")
    other = ipaddress.ip_address("8.8.8.8")

    def connect(address: Address, timeout_s: float) -> socket.socket:
        if address == PUBLIC:
            raise ConnectionRefusedError
        return site.connect(address, timeout_s)

    fetcher = Fetcher(
        [HOST], 100, resolve=lambda _: [PUBLIC, other], connect=connect, context=site.trusting
    )
    assert fetcher.fetch(URL, ignore) == b"x"


def test_the_system_resolves_this_machine() -> None:
    assert all(not is_public(address) for address in resolve("localhost"))


def test_images_by_url_are_off_by_default(engine: FakeEngine) -> None:
    with client_of(Settings(), engine) as client:
        for path in ("/pose", "/detect", "/classify", "/segment"):
            body = assert_problem(
                client.post(path, json={"image_url": URL}), 422, "invalid-parameter"
            )
            assert body["parameter"] == "image_url"


def test_every_image_route_takes_a_url(site: Site, engine: FakeEngine, photo: bytes) -> None:
    site.answers[PATH] = ok(photo)
    app = create_app(Settings(image_urls=f"other.example.com, {HOST}"), engine)
    app.state.serving.fetcher = Fetcher(
        [HOST], len(photo), resolve=lambda _: [PUBLIC], connect=site.connect, context=site.trusting
    )
    with TestClient(app) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        for path in ("/pose", "/detect", "/classify", "/segment"):
            answer = client.post(path, json={"image_url": URL})
            assert answer.status_code == 200, answer.text
        assert all(name.startswith("request") for name in site.threads)  # not the event loop's
        answer = client.post("/pose", json={"image_url": URL, "threshold": 0.5, "model": "fast"})
        assert len(answer.json()["people"]) == 2
        assert app.state.serving.bytes_held == 0
        site.answers[PATH] = ok(b"no image")
        assert_problem(client.post("/pose", json={"image_url": URL}), 400, "bad-image")
        site.answers[PATH] = b"HTTP/1.1 500 Oh\r\n\r\n"
        assert_problem(client.post("/pose", json={"image_url": URL}), 400, "bad-image-url")
        for sent in ({"image_url": 7}, {"image_url": URL, "image": "AAAA"}):
            body = assert_problem(client.post("/pose", json=sent), 422, "invalid-parameter")
            assert body["parameter"] == "image_url"


def test_the_server_itself_cannot_be_asked_by_url(engine: FakeEngine) -> None:
    with (
        real_server(Settings(image_urls="*"), engine) as (_, port),
        client_of(Settings(image_urls="*"), engine) as client,
    ):
        for host in ("127.0.0.1", "localhost"):
            url = f"https://{host}:{port}/metrics"
            assert client.post("/pose", json={"image_url": url}).status_code == 422


@pytest.mark.parametrize(
    "hosts", ["https://a.example", "a.example/", "*.*", "1.2.3.4", "a*.example"]
)
def test_what_is_no_host_is_refused(hosts: str) -> None:
    with pytest.raises(ValueError, match="image_urls"):
        Settings(image_urls=hosts)


def test_an_empty_file_is_a_bad_image() -> None:
    with pytest.raises(ImageError, match="empty"):
        Body(None, b'{"image_url": "x"}', (), lambda _: b"").parse()
