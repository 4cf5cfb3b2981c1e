"""stdout and stderr that cannot hurt: what the disk does not take is dropped and counted, not raised into a task."""

from __future__ import annotations

import io
import sys


class LossyFile(io.FileIO):
    """A file descriptor that takes every write."""

    lost = 0
    """Lines of all such files of this process that were dropped; at least one for each write that failed."""

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # any buffer, as in FileIO
        done = 0
        try:
            while done < len(view):
                done += super().write(view[done:]) or 0
        except OSError:
            LossyFile.lost += max(1, bytes(view[done:]).count(b"\n"))
        return len(view)


def install() -> None:
    """Let sys.stdout and sys.stderr of this process lose what they cannot write."""
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        if isinstance(old, io.TextIOWrapper) and isinstance(old.buffer, (io.BufferedWriter, io.FileIO)):
            old.flush()
            raw = LossyFile(old.fileno(), "w", closefd=False)
            new = io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=old.encoding,
                errors=old.errors,
                line_buffering=True,
            )
            setattr(sys, name, new)


def lost() -> int:
    return LossyFile.lost
