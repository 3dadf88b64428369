"""Log lines, as text or JSON: one line an event, and none that stops a request."""

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import IO, Literal

from service.record import current_id

LogFormat = Literal["text", "json"]

# Controls of ASCII and Latin-1, and what else ends a line or turns the writing round.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class TextFormatter(logging.Formatter):
    """`2026-01-01T12:00:00.000Z INFO hrpose.http: POST /pose 200 34 ms [id]`; tracebacks below."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; further lines of a traceback are indented, so none looks like an event."""
        name = _request_id(record)
        end = f" [{name}]" if name else ""
        message = _escaped(record.getMessage())
        line = f"{_time(record)} {record.levelname} {record.name}: {message}{end}"
        trace = _trace(self, record)
        return "\n    ".join([line, *map(_escaped, trace.splitlines())]) if trace else line


class JsonFormatter(logging.Formatter):
    """An object a line; the keys are always the same, `exception` is there for faults only."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, in ASCII."""
        content = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": _request_id(record),
            "route": getattr(record, "route", None),
            "status": getattr(record, "status", None),
            "seconds": getattr(record, "seconds", None),
        }
        if trace := _trace(self, record):
            content["exception"] = trace
        return json.dumps(content).replace("\x7f", "\\u007f")


class LineHandler(logging.Handler):
    """Writes each line at once; one that cannot be written is lost, and counted.

    Python's own handler keeps what a full disk refused, and grows.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        super().__init__()
        self.lost = 0
        self._stream = stream
        try:
            self._number = None if stream is None else stream.fileno()
        except (OSError, ValueError):  # a stream that is no file
            self._number = None

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line."""
        try:
            line = self.format(record) + "\n"
            if self._number is not None:
                data = line.encode("utf-8", "backslashreplace")
                while data:
                    data = data[os.write(self._number, data) :]
            elif self._stream is not None:
                self._stream.write(line)
        except Exception:  # no log line is worth a request
            self.lost += 1


def install(level: str, form: LogFormat) -> LineHandler:
    """All log lines of the process go to stderr in this form; from `level` on those of hrpose."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("hrpose").setLevel(level.upper())
    return handler


def _time(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _request_id(record: logging.LogRecord) -> str | None:
    given: str | None = getattr(record, "request_id", None)
    return given or current_id()


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else ""


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
