"""Logs: one line an event on one stream, as text for people or as JSON for machines.

Rules:
  1. An event is a fixed message plus fields: `event(log, logging.INFO, "child started", child="worker 0", pid=7)`.
     Messages stay the same from event to event, so that they can be searched and counted; what varies is a field.
  2. One event is one line (a traceback in text form is the one exception): control characters in messages and
     fields are escaped, so that nothing a peer sent can forge a line.
  3. Nothing is logged per packet, and no key, token or password is ever given to a logger.

`setup` installs one handler at the root logger, so that what libraries report takes the same form. Calling it
again replaces that handler and leaves those of others (a test runner's) alone.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

from relay.runtime.errors import ConfigError

Format = Literal["text", "json"]

LEVELS = ("debug", "info", "warning", "error")


def event(logger: logging.Logger, level: int, message: str, /, **fields: object) -> None:
    """Log `message` with `fields`."""
    logger.log(level, message, extra={"fields": fields})


def setup(format: Format, program: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Send every logger's events of at least `level` to `stream` (standard error unless told)."""
    if level not in LEVELS:
        raise ConfigError(f"unknown log level {level!r}", mend=f"use one of {', '.join(LEVELS)}")
    if format not in _FORMATTERS:
        raise ConfigError(f"unknown log format {format!r}", mend=f"use one of {', '.join(_FORMATTERS)}")
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(_FORMATTERS[format](program))
    root = logging.getLogger()
    root.handlers[:] = [h for h in root.handlers if not isinstance(h, _Handler)] + [handler]
    root.setLevel(level.upper())


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second `setup` can tell it from other handlers."""

    def handleError(self, record: logging.LogRecord) -> None:
        """A log stream that is gone must not stop the program, nor is there anywhere to say so; the rest is our bug."""
        if not isinstance(sys.exc_info()[1], (OSError, ValueError)):
            super().handleError(record)


class _Formatter(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = program

    @staticmethod
    def moment(record: logging.LogRecord) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @staticmethod
    def fields(record: logging.LogRecord) -> dict[str, object]:
        fields = getattr(record, "fields", None)
        return fields if isinstance(fields, dict) else {}

    def traceback(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""


class TextFormatter(_Formatter):
    """`2026-01-31T12:00:00.000Z INFO relay: child started child="worker 0" pid=7`."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {name}={_text_value(value)}" for name, value in self.fields(record).items())
        message = _one_line(record.getMessage())
        traceback = self.traceback(record)
        head = f"{self.moment(record)} {record.levelname} {self.program}: {message}{pairs}"
        return f"{head}\n{traceback}" if traceback else head


class JSONFormatter(_Formatter):
    """One JSON object a line: ts, level, program, logger, message, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": self.moment(record),
            "level": record.levelname.lower(),
            "program": self.program,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in self.fields(record).items():
            line.setdefault(name, value)
        traceback = self.traceback(record)
        if traceback:
            line["traceback"] = traceback
        return json.dumps(line, default=str)


_FORMATTERS: dict[str, type[_Formatter]] = {"text": TextFormatter, "json": JSONFormatter}


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _text_value(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text != "" and not any(sign in text for sign in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())
