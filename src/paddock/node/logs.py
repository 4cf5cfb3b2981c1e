"""The agents' log files: read from the end, followed by offset, rotated by copy and truncate.

Agents outlive their node, so no pipe leads here: they append to the file themselves, and go on doing so while it is
rotated. What is written between the end of the copy and the truncation, some microseconds, is lost.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable, Sequence

from paddock.decide.redact import redact
from paddock.model.fleet import Logs
from paddock.ports.clock import Clock

EVIDENCE_LINES = 50
EVIDENCE_BYTES_MAX = 16_384
REDACTED_CHARS_MAX = 4 * EVIDENCE_BYTES_MAX
"""What is put instead of a secret may be longer than it was."""
ANSWER_BYTES_MAX = 400_000
FOLLOW_S_MAX = 30.0
FOLLOW_EVERY_S = 0.1
FILES_AT_ONCE = 500


def blank(text: str, hidden: Sequence[str]) -> str:
    """A log as its own people see it: only what its fleet calls secret is hidden."""
    for value in hidden:
        text = text.replace(value, "***")
    return text


def last_lines(path: str, hidden: Sequence[str] = (), *, lines: int = EVIDENCE_LINES) -> list[str]:
    """The last lines of a log as they may be kept and shown, without secrets; empty when there is none.

    More than these lines is looked at: what makes a secret of one (the head of a key) may stand above it."""
    data, end = _read(path, -EVIDENCE_BYTES_MAX, EVIDENCE_BYTES_MAX)
    if end > len(data):
        data = data.partition(b"\n")[2] or data.partition(b" ")[2]  # half a word may be half a secret
    text = redact(data.decode(errors="replace"), hidden, limit=REDACTED_CHARS_MAX)
    return text.splitlines()[-lines:] if lines > 0 else []


def tail(path: str, lines: int, *, bytes_max: int = ANSWER_BYTES_MAX) -> tuple[str, int]:
    """The last lines, and the offset of the end."""
    data, end = _read(path, -bytes_max, bytes_max)
    if lines <= 0:
        return "", end
    kept = data.splitlines(keepends=True)[-lines:]
    return b"".join(kept).decode(errors="replace"), end


def since(path: str, offset: int) -> tuple[str, int]:
    """What was written after `offset`, and the new offset. A file that became shorter was rotated: from its start."""
    if offset > _size(path):
        offset = 0
    data, end = _read(path, max(0, offset), ANSWER_BYTES_MAX)
    return data.decode(errors="replace"), end


async def follow(clock: Clock, path: str, offset: int, wait_s: float) -> tuple[str, int]:
    """As `since`, but wait up to `wait_s` for something to come."""
    give_up = clock.monotonic() + min(wait_s, FOLLOW_S_MAX)
    while True:
        text, end = since(path, offset)
        if text or clock.monotonic() >= give_up:
            return text, end
        await clock.sleep(FOLLOW_EVERY_S)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _read(path: str, start: int, bytes_max: int) -> tuple[bytes, int]:
    """Bytes from `start` (negative: from the end), and the offset behind them."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = max(0, size + start) if start < 0 else min(start, size)
            file.seek(start)
            data = file.read(bytes_max)
            return data, start + len(data)
    except OSError:
        return b"", 0


def rotate(path: str, limits: Logs) -> None:
    """Copy the file's end to `.1` (and `.1` to `.2` …), then empty it."""
    keep = limits.keep
    for number in range(keep - 1, 0, -1):
        if os.path.exists(f"{path}.{number}"):
            os.replace(f"{path}.{number}", f"{path}.{number + 1}")
    with open(path, "rb+") as source:
        if keep > 0:
            source.seek(max(0, os.fstat(source.fileno()).st_size - limits.max_bytes))
            with open(os.open(f"{path}.1", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        source.truncate(0)


class Rotation:
    """Looks after the files a few at a time; those that are half full at every round."""

    def __init__(self) -> None:
        self._round: list[tuple[str, Logs]] = []
        self._warm: dict[str, Logs] = {}

    async def look(self, files: Iterable[tuple[str, Logs]]) -> int:
        """Look at the next of `files` (asked for anew when all were seen); returns how many were rotated."""
        if not self._round:
            self._round = list(files)
        now, self._round = self._round[:FILES_AT_ONCE], self._round[FILES_AT_ONCE:]
        rotated = 0
        for path, limits in {**self._warm, **dict(now)}.items():
            size = _size(path)
            self._warm.pop(path, None)
            if size > limits.max_bytes / 2:
                self._warm[path] = limits
            if size > limits.max_bytes:
                await asyncio.to_thread(_try_rotate, path, limits)
                rotated += 1
        return rotated


def _try_rotate(path: str, limits: Logs) -> None:
    """A full disk must not stop the supervision; then the file is emptied without a copy."""
    try:
        rotate(path, limits)
    except OSError:
        try:
            os.truncate(path, 0)
        except OSError:
            pass  # its folder is gone: so is the log
