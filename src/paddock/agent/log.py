"""The log of an agent: one JSON object a line on stdout, where the node picks it up."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec

LINE_BYTES_MAX = 64_000
"""A longer line is cut to its message; a log is no place for payloads."""


class Log:
    """Structured lines: `self.log.info("sent", to=address)` → `{"at", "level", "agent", "task", "message", "to"}`."""

    def __init__(self, agent: str, now: Callable[[], float], task: Callable[[], str]) -> None:
        self._agent, self._now, self._task = agent, now, task
        self._lock = threading.Lock()

    def debug(self, message: str, **values: Any) -> None:
        self._write("debug", message, values)

    def info(self, message: str, **values: Any) -> None:
        self._write("info", message, values)

    def warning(self, message: str, **values: Any) -> None:
        self._write("warning", message, values)

    def error(self, message: str, **values: Any) -> None:
        self._write("error", message, values)

    def _write(self, level: str, message: str, values: dict[str, Any]) -> None:
        line: dict[str, Any] = {"at": round(self._now(), 3), "level": level, "agent": self._agent}
        if task := self._task():
            line["task"] = task
        line["message"] = message
        text = _encode(line | {key: value for key, value in values.items() if key not in line})
        if len(text) > LINE_BYTES_MAX:
            text = _encode(line | {"message": message[: LINE_BYTES_MAX // 8], "cut": len(text)})
        with self._lock:
            try:
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
            except (OSError, ValueError):
                pass  # stdout is gone or full; an agent does not stop working because nobody listens


def _encode(line: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=repr).decode()
    except Exception:  # whatever a value's repr or a lone surrogate does, the line must come out
        return msgspec.json.encode({str(key): _safe(value) for key, value in line.items()}).decode()


def _safe(value: Any) -> Any:
    """The value if it is plain, else whatever text can be had of it."""
    if isinstance(value, (int, float)):
        return value
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as error:  # the author's __repr__
        text = f"<its repr raised {type(error).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()
