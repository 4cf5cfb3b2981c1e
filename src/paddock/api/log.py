"""The access log: one JSON object a line on stderr, apart from what the rest of the process logs."""

from __future__ import annotations

import sys
from typing import Any, TextIO

import msgspec
import structlog


def _encode(line: Any, **_: Any) -> str:
    return msgspec.json.encode(line, enc_hook=repr).decode()


def make_log(file: TextIO | None = None) -> Any:
    """A structlog logger that writes to `file` (stderr)."""
    return structlog.wrap_logger(
        structlog.WriteLogger(file or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=_encode),
        ],
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=True,
    ).bind(part="api")
