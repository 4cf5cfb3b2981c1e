"""Logging that cannot hurt: a log line that the disk does not take is dropped and counted, not raised."""

from __future__ import annotations

import io
from typing import TextIO


class LossyLog(io.TextIOBase):
    """Stands in for stderr. On a full disk every log line would raise, also in the loops that wait for space."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner
        self.dropped = 0
        """Lines lost since the last one that was written, which says so."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        try:
            if self.dropped:
                self._inner.write(
                    f'{{"event": "log lines were dropped, the disk did not take them", "n": {self.dropped}}}\n'
                )
            self._inner.write(text)
            self._inner.flush()
            self.dropped = 0
        except OSError:
            self.dropped += 1
        return len(text)

    def flush(self) -> None:
        """Each write is flushed already."""
