"""API keys: who may ask, where that is not everybody."""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.requests import HTTPConnection

from service.errors import ServiceError


class Unauthorized(ServiceError):
    """Keys are configured, and the request has none or (`wrong_key`) another one."""

    def __init__(self, wrong_key: bool) -> None:
        self.wrong_key = wrong_key
        super().__init__(
            "this key is not accepted"
            if wrong_key
            else "this server asks for a key: send `Authorization: Bearer KEY` or `X-API-Key: KEY`"
        )


class KeyRing:
    """The accepted keys, kept as digests; without any, every request passes."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    def check(self, connection: HTTPConnection) -> None:
        """Raises Unauthorized unless the request carries an accepted key."""
        if not self._digests:
            return
        key = _sent_key(connection)
        if key is None:
            raise Unauthorized(wrong_key=False)
        sent = _digest(key)
        # Every key is compared, each in constant time: the time taken says nothing.
        equal = [hmac.compare_digest(sent, digest) for digest in self._digests]
        if not any(equal):
            raise Unauthorized(wrong_key=True)


def _sent_key(connection: HTTPConnection) -> str | None:
    if (key := connection.headers.get("x-api-key", "").strip()) != "":
        return key
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
