"""Images by URL, from hosts that are allowed: what a client names is never trusted.

A name is resolved once, every address that it has must be public, and the connection goes to the
address that was looked at, so that a second answer of the name server changes nothing. The
certificate is checked against the name. Redirects go through all of it again. Nothing of the
environment, such as a proxy, is used.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from service.errors import BadImageUrl, InvalidParameter, TooLarge
from service.image_hosts import MAX_URL, is_host, matches
from service.public_address import Address, is_public
from service.settings import MIB

PORT = 443
MAX_REDIRECTS = 3
FETCH_S = 5.0
"""For everything: names, connections, redirects and the bytes."""

CHUNK = 65536
RESOLVERS = 8
"""Names looked up at once; a look-up cannot be ended, so one that hangs keeps its thread."""

MAX_ADDRESSES = 4

_REDIRECTS = (301, 302, 303, 307, 308)

Resolve = Callable[[str], Sequence[Address]]
Connect = Callable[[Address, float], socket.socket]


def resolve(name: str) -> list[Address]:
    """Every address of a name, by the system."""
    found = socket.getaddrinfo(name, PORT, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))


def connect(address: Address, timeout_s: float) -> socket.socket:
    """A connection to the port of https."""
    return socket.create_connection((str(address), PORT), timeout_s)


class Fetcher:
    """Fetches images. Thread-safe; its methods block.

    hosts: who may be asked, as `check_hosts` has it.  The rest is for tests.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        max_bytes: int,
        *,
        timeout_s: float = FETCH_S,
        resolve: Resolve = resolve,
        connect: Connect = connect,
        is_public: Callable[[Address], bool] = is_public,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = tuple(host.lower() for host in hosts)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._connect = connect
        self._is_public = is_public
        self._context = context or ssl.create_default_context()
        self._context.sslsocket_class = _PunctualSocket
        self._resolvers = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolver")

    def fetch(self, url: str, hold: Callable[[int], None], timeout_s: float | None = None) -> bytes:
        """The file at an https URL.

        hold is told of bytes as they come.  timeout_s: where the request has less time than this.
        Raises InvalidParameter for a URL that is not allowed, BadImageUrl where the file cannot
        be got, TooLarge.
        """
        seconds = self._timeout_s if timeout_s is None else min(self._timeout_s, timeout_s)
        deadline = time.monotonic() + seconds
        try:
            for _ in range(MAX_REDIRECTS + 1):
                connection = self._open(self._check(url), deadline)
                try:
                    response = connection.getresponse()
                    if response.status not in _REDIRECTS:
                        return self._read(response, hold)
                    url = _next(url, response.getheader("Location", ""))
                finally:
                    connection.close()
        except TimeoutError:
            raise BadImageUrl(f"image_url: not fetched within {seconds:g} s") from None
        except ssl.SSLError as error:
            raise BadImageUrl(f"image_url: TLS failed: {error.reason or 'unknown'}") from None
        except (OSError, http.client.HTTPException):
            raise BadImageUrl("image_url: the host cannot be reached or does not answer") from None
        raise BadImageUrl(f"image_url: more than {MAX_REDIRECTS} redirects")

    def close(self) -> None:
        """Does not wait for look-ups that hang."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    def _check(self, url: str) -> SplitResult:
        """The parts of a URL that may be asked for."""
        if (
            len(url) > MAX_URL
            or not url.isascii()
            or not url.isprintable()
            or set(url) & set(" \\")
        ):
            raise _refused(f"should be at most {MAX_URL} printable ASCII characters, no spaces")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _refused("this is no URL") from None
        if parts.scheme != "https":
            raise _refused("should start with https://")
        if "@" in parts.netloc:
            raise _refused("should have no user or password")
        if port not in (None, PORT):
            raise _refused(f"should have no port other than {PORT}")
        name = parts.hostname or ""
        if not is_host(name):
            raise _refused("the host should be a name, such as images.example.com")
        if not any(matches(pattern, name) for pattern in self._hosts):
            raise _refused("this host is not among those that image_urls of the server allows")
        return parts

    def _open(self, parts: SplitResult, deadline: float) -> http.client.HTTPSConnection:
        """A connection on which the request was sent."""
        name = parts.hostname or ""
        addresses = self._addresses(name, deadline)
        connection = http.client.HTTPSConnection(name, PORT, context=self._context)
        connection.sock = self._connect_first(addresses, name, deadline)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "hrpose"}
            connection.request("GET", path, headers={**headers, "Connection": "close"})
        except BaseException:
            connection.close()
            raise
        return connection

    def _addresses(self, name: str, deadline: float) -> list[Address]:
        looking: Future[Sequence[Address]] = self._resolvers.submit(self._resolve, name)
        try:
            addresses = list(looking.result(_left(deadline)))
        except (socket.gaierror, UnicodeError, ValueError):
            raise BadImageUrl("image_url: the host has no address") from None
        finally:
            looking.cancel()
        # One that is not public is reason enough: no honest name has both kinds.
        if not addresses or not all(self._is_public(address) for address in addresses):
            raise BadImageUrl("image_url: the host is not on the public Internet")
        return addresses[:MAX_ADDRESSES]

    def _connect_first(
        self, addresses: Sequence[Address], name: str, deadline: float
    ) -> ssl.SSLSocket:
        """A TLS connection to the first address that answers; the last one's failure otherwise."""
        failure: OSError = OSError("no address")
        for waiting, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                plain = self._connect(address, _left(deadline) / waiting)
            except OSError as error:
                failure = error
                continue
            try:
                plain.settimeout(_left(deadline))
                secured = self._context.wrap_socket(plain, server_hostname=name)
            except BaseException:
                plain.close()
                raise
            assert isinstance(secured, _PunctualSocket)
            secured.deadline = deadline
            return secured
        raise failure

    def _read(self, response: http.client.HTTPResponse, hold: Callable[[int], None]) -> bytes:
        if response.status != 200:
            raise BadImageUrl(f"image_url: the host answered {response.status}, not 200")
        if response.getheader("Content-Encoding", "identity").strip().lower() != "identity":
            raise BadImageUrl("image_url: the host sent it with a Content-Encoding")
        if (response.length or 0) > self._max_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        total = 0
        while part := response.read1(CHUNK):
            total += len(part)
            if total > self._max_bytes:
                raise self._too_large()
            hold(len(part))
            parts.append(part)
        if response.length:  # what was promised and did not come
            raise http.client.IncompleteRead(b"")
        return b"".join(parts)

    def _too_large(self) -> TooLarge:
        limit = self._max_bytes / MIB
        return TooLarge(
            f"the image at image_url may have {limit:g} MiB", f"max_upload_mb = {limit:g}"
        )


class _PunctualSocket(ssl.SSLSocket):
    """Every read ends at one deadline; a timeout of the socket would begin anew with each byte."""

    deadline: float | None = None

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        if self.deadline is not None:
            self.settimeout(_left(self.deadline))
        return super().recv_into(*args, **kwargs)


def _left(deadline: float) -> float:
    """Seconds until the deadline; TimeoutError where there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _next(url: str, location: str) -> str:
    """Where a redirect leads."""
    try:
        return urljoin(url, location)
    except ValueError:
        raise BadImageUrl("image_url: the host redirects to what is no URL") from None


def _refused(reason: str) -> InvalidParameter:
    return InvalidParameter("image_url", f"image_url: {reason}")
