"""Reading a request's body: the photograph and what was sent with it, never more than allowed.

    multipart/form-data                     field `image`, options as further fields
    image/*, application/octet-stream       the body is the photograph
    application/json                        {"image": base64 or data: URL, options ...}
                                            {"image_url": "https://...", options ...}

Options may also stand in the query. Bytes are counted as they come, also where no length was
promised, and held against what all requests together may have. Nothing is written to disk.
"""

import asyncio
import base64
import binascii
import json
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from heads.errors import ImageError
from service.errors import Cancelled, DeadlineExceeded, InvalidParameter, TooLarge, UnsupportedMedia
from service.parameters import Pair, check_parts
from service.settings import MIB

MAX_FIELDS = 200
"""Form fields: as many as boxes sent one by one may need."""

MAX_SMALL = 64 * 1024
"""Bytes of a body that holds nothing but a few options."""

SPACE = b" \t\r\n\f\v"

READ = (
    "multipart/form-data with a field `image`, image/*, application/octet-stream, application/json"
)


Fetch = Callable[[str], bytes]
"""Gets the file at a URL; blocks."""


@dataclass(frozen=True)
class Upload:
    """The bytes of an image file, and the parameters sent beside it."""

    image: bytes
    pairs: tuple[Pair, ...]


@dataclass
class Body:
    """A body as read: already an upload, or JSON text that a worker thread still has to read."""

    upload: Upload | None
    json_text: bytes
    query: tuple[Pair, ...]
    fetch: Fetch | None = None

    def parse(self) -> Upload:
        """The upload, which is kept: a URL is fetched once, however often the work is done over.

        Slow for large JSON and for URLs: not to be called on the event loop.
        """
        if self.upload is None:
            self.upload, self.json_text = _parse_json(self.json_text, self.fetch), b""
        if not self.upload.image:
            raise ImageError("the image is empty (0 bytes)")
        return Upload(self.upload.image, (*self.query, *self.upload.pairs))


class Holder(Protocol):
    """Who counts the bytes of all requests together."""

    def check_room(self, count: int) -> None:
        """Overloaded where so many more would not fit."""

    def hold(self, count: int) -> None:
        """Counts bytes; Overloaded where they do not fit."""


async def read_body(
    request: Request, max_bytes: int, holder: Holder, fetch: Fetch | None = None
) -> Body:
    """Reads a body of at most max_bytes.

    fetch: gets what an `image_url` names; None where no URLs are taken.
    Raises TooLarge as soon as it is longer, Overloaded when the holder has no room,
    UnsupportedMedia for a kind that is not read, InvalidParameter for a form that cannot be,
    Cancelled when the client goes away.
    """
    query: tuple[Pair, ...] = tuple(request.query_params.multi_items())
    kind = _media_type(request)
    _check_length(request, max_bytes, holder)
    try:
        if kind == "multipart/form-data":
            return Body(await _read_form(request, max_bytes, holder), b"", query)
        data = b"".join([chunk async for chunk in _counted(request, max_bytes, holder)])
    except ClientDisconnect:
        raise Cancelled("the client went away while sending") from None
    if kind == "application/json":
        return Body(None, data, query, fetch)
    return Body(Upload(data, ()), b"", query)


async def read_raw(request: Request, max_bytes: int, holder: Holder) -> bytes:
    """The bytes of a body of at most max_bytes, of whatever type.

    Raises TooLarge as soon as it is longer, UnsupportedMedia where it is compressed, Cancelled when
    the client goes away.
    """
    _check_coding(request)
    _check_length(request, max_bytes, holder)
    try:
        return b"".join([chunk async for chunk in _counted(request, max_bytes, holder)])
    except ClientDisconnect:
        raise Cancelled("the client went away while sending") from None


async def read_small(request: Request, timeout_s: float) -> bytes:
    """The bytes of a body that is no photograph: at most MAX_SMALL, within timeout_s.

    Raises TooLarge, DeadlineExceeded, or Cancelled when the client goes away.
    """
    data = b""
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_SMALL:
                    raise TooLarge(f"such a body may have {MAX_SMALL} bytes", f"{MAX_SMALL} bytes")
    except TimeoutError:
        raise DeadlineExceeded(f"the body did not come within {timeout_s:g} s") from None
    except ClientDisconnect:
        raise Cancelled("the client went away while sending") from None
    return data


def _check_coding(request: Request) -> None:
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMedia(f"a body with Content-Encoding {coding[:100]} is not read")


def _media_type(request: Request) -> str:
    """The body's type in lower case; empty where the client does not say."""
    _check_coding(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    known = _is_raw(kind) or kind in ("multipart/form-data", "application/json")
    if not known and request.headers.get("content-length") != "0":
        raise UnsupportedMedia(f"a body of type {kind[:100]} is not read; send {READ}")
    return kind


def _is_raw(kind: str) -> bool:
    return kind in ("", "application/octet-stream") or kind.startswith("image/")


def _check_length(request: Request, max_bytes: int, holder: Holder) -> None:
    """Refuses by the promised length, before anything is read."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        return
    if int(length[:20]) > max_bytes:
        raise _too_large(max_bytes)
    holder.check_room(int(length[:20]))


async def _counted(request: Request, max_bytes: int, holder: Holder) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise _too_large(max_bytes)
        holder.hold(len(chunk))
        yield chunk


def _too_large(max_bytes: int) -> TooLarge:
    limit = max_bytes / MIB
    return TooLarge(f"a body may have {limit:g} MiB", f"max_upload_mb = {limit:g}")


class _FormParser(MultiPartParser):
    """Keeps files in memory: their size is bounded already, and the disk may be read-only."""

    spool_max_size = sys.maxsize


CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1", b"latin1")
"""Of forms. Python knows others by name, and some of them take minutes for a megabyte."""


def _check_charset(request: Request) -> None:
    _, options = parse_options_header(request.headers.get("content-type"))
    if options.get(b"charset", CHARSETS[0]).lower() not in CHARSETS:
        raise InvalidParameter("body", "the form cannot be read: its charset should be utf-8")


async def _read_form(request: Request, max_bytes: int, holder: Holder) -> Upload:
    _check_charset(request)
    parser = _FormParser(
        request.headers, _counted(request, max_bytes, holder), max_files=1, max_fields=MAX_FIELDS
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidParameter("body", f"the form cannot be read: {error.message}") from None
    except UnicodeError:  # by the charset that the form says it has
        raise InvalidParameter("body", "the form cannot be read: it is not text") from None
    try:
        return await _upload_of(form)
    finally:
        await form.close()


async def _upload_of(form: FormData) -> Upload:
    image = None
    pairs: list[Pair] = []
    for name, value in form.multi_items():
        if name != "image":
            pairs.append((name, value))
        elif isinstance(value, UploadFile):
            image = await value.read()
        else:
            raise InvalidParameter("image", "send the image as a file: curl -F image=@photo.jpg")
    if image is None:
        raise _no_image(pairs, "the form has no file `image`; send curl -F image=@photo.jpg")
    return Upload(image, tuple(pairs))


def _no_image(pairs: list[Pair], message: str) -> InvalidParameter:
    sent = ", ".join(name[:60] for name, _ in pairs[:10])
    return InvalidParameter("image", f"{message} (sent: {sent})" if sent else message)


def _parse_json(text: bytes, fetch: Fetch | None) -> Upload:
    check_parts("body", (text,))
    try:
        content: Any = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise InvalidParameter("body", "the body is not JSON") from None
    if not isinstance(content, dict):
        raise InvalidParameter("body", 'the JSON body should be {"image": base64, ...}')
    named = ("image", "image_url")
    pairs: list[Pair] = [(name, value) for name, value in content.items() if name not in named]
    if content.get("image_url") is not None:
        return Upload(_fetch_named(content, fetch), tuple(pairs))
    image = content.get("image")
    if not isinstance(image, str):
        raise _no_image(pairs, "`image` should be the image file in base64, or a data: URL")
    return Upload(_decode_base64(image), tuple(pairs))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose names have to differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InvalidParameter(name, f"{name[:60]} is given more than once")
    return found


def _fetch_named(content: dict[str, Any], fetch: Fetch | None) -> bytes:
    url = content["image_url"]
    if fetch is None:
        raise InvalidParameter("image_url", "image_url: this server fetches no images; send them")
    if content.get("image") is not None:
        raise InvalidParameter("image_url", "send either image or image_url")
    if not isinstance(url, str):
        raise InvalidParameter("image_url", "image_url should be a text: https://...")
    return fetch(url)


def _decode_base64(text: str) -> bytes:
    """Base64 with or without line breaks, bare or in a data: URL."""
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise InvalidParameter("image", "image: the data: URL should be in base64")
    try:
        # Not by split(), which would make a string of each of a million pieces.
        return base64.b64decode(text.encode("ascii").translate(None, SPACE), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidParameter("image", "image: this is not base64") from None
