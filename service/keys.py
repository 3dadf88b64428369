"""API keys: who may ask, and for what, where that is not everybody.

    HRPOSE_API_KEYS=KEY,admin:KEY           plain keys of the scope infer, or admin where it says so
    HRPOSE_API_KEYS_FILE=keys.txt           one line a key, which the file does not hold itself:
        sha256:<64 hexadecimal digits> <name> <infer|admin> [<rate, such as 100/minute>]

`hrpose key` makes a key and its line. Keys are random and long, so a plain SHA-256 is enough: there
is nothing to guess that a slower hash would have to protect.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from starlette.requests import HTTPConnection

from service.errors import ServiceError
from service.rates import check_rate

Scope = Literal["infer", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

PREFIX = "hrp_"
"""Of keys made here, so that a search for secrets finds one that was left lying about."""

_LINE = re.compile(r"sha256:([0-9a-f]{64})\s+(\S+)\s+(\S+)(?:\s+(\S+))?", re.IGNORECASE)


class Unauthorized(ServiceError):
    """Keys are configured, and the request has none or (`wrong_key`) another one."""

    def __init__(self, wrong_key: bool) -> None:
        self.wrong_key = wrong_key
        super().__init__(
            "this key is not accepted"
            if wrong_key
            else "this server asks for a key: send `Authorization: Bearer KEY` or `X-API-Key: KEY`"
        )


class Forbidden(ServiceError):
    """The route is for keys of the scope admin, and this is none."""


class KeyFileError(ServiceError):
    """The file of keys cannot be used; names the line, never what stands in it."""


@dataclass(frozen=True)
class Key:
    """An accepted key: its digest, and what it may do."""

    digest: bytes
    name: str
    scope: Scope = "infer"
    rate: str = ""

    @property
    def is_admin(self) -> bool:
        """May also do what changes the server."""
        return self.scope == "admin"


class KeyRing:
    """The accepted keys, kept as digests; without any, every request passes."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    def check(self, connection: HTTPConnection) -> Key | None:
        """The key that the request carries; None where no keys are configured.

        Raises Unauthorized unless it is an accepted one.
        """
        if not self._keys:
            return None
        text = _sent_key(connection)
        if text is None:
            raise Unauthorized(wrong_key=False)
        sent = digest(text)
        # Every key is compared, each in constant time: the time taken says nothing.
        equal = [key for key in self._keys if hmac.compare_digest(sent, key.digest)]
        if not equal:
            raise Unauthorized(wrong_key=True)
        return equal[0]


def check_admin(key: Key | None) -> None:
    """Raises Forbidden unless the key has the scope admin; without keys nobody has it."""
    if key is None:
        raise Forbidden(
            "this needs a key of the scope admin, and the server has no keys: `hrpose key NAME "
            "--scope admin` makes one, HRPOSE_API_KEYS_FILE names the file with its line"
        )
    if not key.is_admin:
        raise Forbidden(f"this needs a key of the scope admin; yours has {key.scope}")


def make_key() -> str:
    """A new random key of 256 bits."""
    return PREFIX + secrets.token_urlsafe(32)


def line_of(key: str, name: str, scope: str, rate: str = "") -> str:
    """The line that makes the key an accepted one; raises KeyFileError if it would be refused."""
    if name.split() != [name]:
        raise KeyFileError("the name of a key should be one word")
    line = " ".join(filter(None, (f"sha256:{digest(key).hex()}", name, scope, rate)))
    _read_line(line)
    return line


def plain_keys(texts: Iterable[str]) -> list[Key]:
    """Keys as the setting api_keys has them; KeyFileError for `admin:` without a key after it."""
    keys = []
    for number, text in enumerate(texts, start=1):
        word, colon, rest = text.partition(":")
        is_admin = bool(colon) and word == "admin"
        if is_admin and not rest:
            raise KeyFileError("api_keys: there is no key after `admin:`")
        secret = rest if is_admin else text
        keys.append(Key(digest(secret), f"key-{number}", "admin" if is_admin else "infer"))
    return keys


def read_keys(path: Path) -> list[Key]:
    """Keys of a file; empty lines and what follows `#` at a line's start are left out.

    Raises KeyFileError for a file or line that cannot be read, a name or key that stands twice,
    or a file without any key, which would leave the server open.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise KeyFileError(f"api_keys_file {path} cannot be read: {reason}") from None
    keys: list[Key] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = _read_line(line)
            if any(key.name == other.name or key.digest == other.digest for other in keys):
                raise KeyFileError("the name or the key stands twice")
        except KeyFileError as error:
            raise KeyFileError(f"api_keys_file {path}, line {number}: {error}") from None
        keys.append(key)
    if not keys:
        raise KeyFileError(f"api_keys_file {path} holds no key; `hrpose key` makes one")
    return keys


def digest(key: str) -> bytes:
    """SHA-256 of a key."""
    return hashlib.sha256(key.encode()).digest()


def _read_line(line: str) -> Key:
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise KeyFileError("should be `sha256:<64 hexadecimal digits> name scope [rate]`")
    digits, name, scopes, rate = match.groups()
    words = set(scopes.split(","))
    if not words <= set(SCOPES):
        raise KeyFileError(f"the scope should be one of {', '.join(SCOPES)}")
    try:
        check_rate(rate or "")
    except ValueError as error:
        raise KeyFileError(str(error)) from None
    scope: Scope = "admin" if "admin" in words else "infer"
    return Key(bytes.fromhex(digits), name, scope, rate or "")


def _sent_key(connection: HTTPConnection) -> str | None:
    if (key := connection.headers.get("x-api-key", "").strip()) != "":
        return _as_text(key)
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    return _as_text(key.strip()) if scheme.lower() == "bearer" and key.strip() else None


def _as_text(header: str) -> str:
    """Headers are read as Latin-1; clients send a letter beyond ASCII as UTF-8."""
    return header.encode("latin-1", "replace").decode("utf-8", "replace")
