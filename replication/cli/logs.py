"""Log lines of an agent: structured, and quiet unless somebody asks.

Theory of operation. The package logs to the logger `replication` and nothing else: an event's name
as the message, its facts in `extra={"facts": {...}}`. A program that uses the library sees nothing
of it until it configures logging (a `NullHandler` is in place); `python -m replication up` writes
warnings and worse to stderr, as `key=value` text or as one JSON object per line. Facts are ids,
addresses, codes and counts: never secrets, MACs or values.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from replication.cli.screen import json_line, printable

LOGGER = "replication"


class LineFormatter:
    """One line per event. Args: `form` is "text" or "json"."""

    def __init__(self, form: str) -> None:
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback is folded into it, so that a line stays a line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts: dict[str, Any] = dict(getattr(record, "facts", {}))
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            facts["error"] = f"{type(error).__name__}: {error}"
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), **facts}
        if self._form == "json":
            return json_line(line)
        shown = " ".join(f"{key}={_quoted(value)}" for key, value in facts.items())
        return printable(f"{at} {line['level']} {line['event']} {shown}".rstrip())


def _quoted(value: object) -> str:
    text = str(value)
    plain = text and not any(c.isspace() or c in '"=' for c in text)
    return text if plain else json_line(text)


def write_to_stderr(level: str, form: str) -> None:
    """Let this process write what the package logs; a second call replaces the first."""
    logger = logging.getLogger(LOGGER)
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(form))  # type: ignore[arg-type]  # it formats; that is all
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
