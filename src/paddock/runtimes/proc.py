"""What /proc tells of processes, and the one thing that is said there."""

from __future__ import annotations

import os

from paddock.ports.runtime import Usage

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

OOM_SCORE = 200
"""How much sooner than its node an agent is taken when memory is short, in thousandths of all memory."""


def offer_to_oom_killer(pid: int | None = None) -> None:
    """Let the kernel, when memory is short, take a process that was just started (this one, if none is named) before
    its keepers, whose score it has inherited. To raise a score is allowed to everybody."""
    path = f"/proc/{pid or 'self'}/oom_score_adj"
    try:
        with open(path) as file:
            score = int(file.read())
        with open(path, "w") as file:
            file.write(str(min(1000, score + OOM_SCORE)))
    except OSError:
        pass  # it has ended, or this is no Linux that knows it


def environment(pid: int) -> list[bytes]:
    """`NAME=value` of a process at its start; empty when it has ended or is another user's."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def children(of: int | str = "self") -> list[int] | None:
    """Pids of the children of a process, or of this one; None when the kernel does not list them."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{of}/task"):
            with open(f"/proc/{of}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return None  # built without CONFIG_PROC_CHILDREN, or a thread ended meanwhile: look at all processes instead
    return found


def usage(pid: int, start_ticks: int) -> Usage | None:
    """What a process uses now; None when it has ended, or its pid was given to another. One read of /proc, and one look
    at how many files are open."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(fields) < 22 or int(fields[19]) != start_ticks or fields[0] in (b"Z", b"X"):
        return None
    return Usage(
        memory_bytes=int(fields[21]) * _PAGE_BYTES,
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        open_files=_open_files(pid),
        threads=int(fields[17]),
    )


def _open_files(pid: int) -> int:
    """-1: this user may not know."""
    path = f"/proc/{pid}/fd"
    try:
        return os.stat(path).st_size or len(os.listdir(path))  # the size is the count since Linux 6.2
    except OSError:
        return -1
