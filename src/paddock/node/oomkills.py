"""Whether the kernel's OOM killer took a process: its count says that it was at work, its log whom it took."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from paddock.agent.clock import HostClock
from paddock.model.agent import Exit

_KILLED = re.compile(rb"Killed process (\d+)")
DOUBT_S = 2.0
"""How long after the count grew a SIGKILL may have been one of its kills."""
_HOST = HostClock()


class OomKills:
    """To be asked for each process that ended by SIGKILL; reads the log only when the count has grown."""

    def __init__(
        self,
        vmstat: Path = Path("/proc/vmstat"),
        kmsg: Path = Path("/dev/kmsg"),
        monotonic: Callable[[], float] = _HOST.monotonic,
    ) -> None:
        self._vmstat, self._monotonic = vmstat, monotonic
        self._log = _open_at_end(kmsg)
        self._count = self._read_count()
        self._named: set[int] = set()
        self._nameless = 0
        """Kills that were counted, but not found in the log."""
        self._grew_at = -DOUBT_S

    def judge(self, pid: int | None, exit: Exit) -> Exit:
        """The exit, with what is known: taken by the OOM killer, not, or perhaps (`oom` is None)."""
        if exit.signal != signal.SIGKILL or exit.oom or pid is None:
            return exit
        self._look()
        if pid in self._named:
            self._named.discard(pid)
            return msgspec.structs.replace(exit, oom=True)
        if self._nameless and self._monotonic() - self._grew_at < DOUBT_S:
            return msgspec.structs.replace(exit, oom=None)
        return exit

    def _look(self) -> None:
        count = self._read_count()
        if count == self._count:
            return
        self._grew_at = self._monotonic()
        named = self._read_log()
        self._nameless = max(0, count - self._count - len(named))
        self._count = count
        self._named = named  # whoever was named before and not asked for was not ours

    def _read_count(self) -> int:
        try:
            with self._vmstat.open("rb") as file:
                return next((int(line.split()[1]) for line in file if line.startswith(b"oom_kill ")), 0)
        except OSError:
            return 0

    def _read_log(self) -> set[int]:
        named: set[int] = set()
        while self._log >= 0:
            try:
                record = os.read(self._log, 8192)
            except BrokenPipeError:
                continue  # records were overwritten before they were read: go on with what is left
            except OSError:
                break
            if not record:
                break
            named |= {int(pid) for pid in _KILLED.findall(record)}
        return named


def _open_at_end(path: Path) -> int:
    """-1 when this user may not read the kernel's log."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(fd, 0, os.SEEK_END)
        return fd
    except OSError:
        return -1
