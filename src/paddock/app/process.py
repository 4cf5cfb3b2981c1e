"""One process of this machine, named for ever by its pid and the tick it was started at."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat, or None when there is no such process (one that has ended counts as none)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name may hold spaces and brackets
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(pid: int, ticks: int) -> bool:
    """Whether that very process still runs: a reused pid has other ticks."""
    return pid > 0 and start_ticks(pid) == ticks


def send(pid: int, ticks: int, number: int) -> bool:
    """Send a signal to that very process; False when it has ended. The pidfd keeps a reused pid from being hit."""
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    try:
        if not is_alive(pid, ticks):
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True
