"""Reading a request's body: the photograph and what was sent with it, never more than allowed.

    multipart/form-data                     field `image`, options as further fields
    image/*, application/octet-stream       the body is the photograph
    application/json                        {"image": base64 or data: URL, options ...}

Options may also stand in the query. Bytes are counted as they come, also where no length was
promised. Nothing is written to disk.
"""

import base64
import binascii
import json
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from heads.errors import ImageError
from service.errors import Cancelled, InvalidParameter, TooLarge, UnsupportedMedia
from service.parameters import Pair
from service.settings import MIB

MAX_FIELDS = 200
"""Form fields: as many as boxes sent one by one may need."""

READ = (
    "multipart/form-data with a field `image`, image/*, application/octet-stream, application/json"
)


@dataclass(frozen=True)
class Upload:
    """The bytes of an image file, and the parameters sent beside it."""

    image: bytes
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Body:
    """A body as read: already an upload, or JSON text that a worker thread still has to read."""

    upload: Upload | None
    json_text: bytes
    query: tuple[Pair, ...]

    def parse(self) -> Upload:
        """The upload. Slow for large JSON, so not to be called on the event loop."""
        upload = self.upload or _parse_json(self.json_text)
        if not upload.image:
            raise ImageError("the image is empty (0 bytes)")
        return Upload(upload.image, (*self.query, *upload.pairs))


async def read_body(request: Request, max_bytes: int) -> Body:
    """Reads a body of at most max_bytes.

    Raises TooLarge as soon as it is longer, UnsupportedMedia for a kind that is not read,
    InvalidParameter for a form that cannot be, Cancelled when the client goes away.
    """
    query: tuple[Pair, ...] = tuple(request.query_params.multi_items())
    kind = _media_type(request)
    _check_length(request, max_bytes)
    try:
        if kind == "multipart/form-data":
            return Body(await _read_form(request, max_bytes), b"", query)
        data = b"".join([chunk async for chunk in _counted(request, max_bytes)])
    except ClientDisconnect:
        raise Cancelled("the client went away while sending") from None
    if kind == "application/json":
        return Body(None, data, query)
    return Body(Upload(data, ()), b"", query)


async def read_raw(request: Request, max_bytes: int) -> bytes:
    """The bytes of a body of at most max_bytes, of whatever type.

    Raises TooLarge as soon as it is longer, UnsupportedMedia where it is compressed, Cancelled when
    the client goes away.
    """
    _check_coding(request)
    _check_length(request, max_bytes)
    try:
        return b"".join([chunk async for chunk in _counted(request, max_bytes)])
    except ClientDisconnect:
        raise Cancelled("the client went away while sending") from None


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


def _check_length(request: Request, max_bytes: int) -> None:
    """Refuses by the promised length, before anything is read."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise _too_large(max_bytes)


async def _counted(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


def _too_large(max_bytes: int) -> TooLarge:
    limit = max_bytes / MIB
    return TooLarge(f"a body may have {limit:g} MiB", f"max_upload_mb = {limit:g}")


class _FormParser(MultiPartParser):
    """Keeps files in memory: their size is bounded already, and the disk may be read-only."""

    spool_max_size = sys.maxsize


async def _read_form(request: Request, max_bytes: int) -> Upload:
    parser = _FormParser(
        request.headers, _counted(request, max_bytes), max_files=1, max_fields=MAX_FIELDS
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidParameter("body", f"the form cannot be read: {error.message}") from None
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


def _parse_json(text: bytes) -> Upload:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidParameter("body", "the body is not JSON") from None
    if not isinstance(content, dict):
        raise InvalidParameter("body", 'the JSON body should be {"image": base64, ...}')
    pairs: list[Pair] = [(name, value) for name, value in content.items() if name != "image"]
    image = content.get("image")
    if not isinstance(image, str):
        raise _no_image(pairs, "`image` should be the image file in base64, or a data: URL")
    return Upload(_decode_base64(image), tuple(pairs))


def _decode_base64(text: str) -> bytes:
    """Base64 with or without line breaks, bare or in a data: URL."""
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise InvalidParameter("image", "image: the data: URL should be in base64")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidParameter("image", "image: this is not base64") from None
