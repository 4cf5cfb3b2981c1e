"""How many agents this host can hold, and by which of its limits: told with the node's status, asked at the door.

What is measured now stands for what comes: agents that grow later are the business of their own limits.
"""

from __future__ import annotations

import os
import resource
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

FILES_EACH = 2
"""Of the node, for one agent: its line and its pidfd. The fabric has one, its connection."""
FILES_KEPT = 256
"""For everything else that a node opens."""
PROCESSES_KEPT = 64
BYTES_EACH = 6_000_000
"""Private memory of an agent, until one was measured: of Python 3.11 and an author's class that holds little."""
MEMORY_KEPT = 0.05
"""Share of the memory that is left to the system."""
SAMPLES = 5


class Room(msgspec.Struct, frozen=True):
    """The tightest limit: `agents_max` at the most, of those that run and those that could."""

    agents_max: int
    why: str
    """`its limit of …; what to raise`."""


def measure(
    agents: int, bytes_each: int, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> Room:
    """With `agents` running now, of `bytes_each` private memory. What this host does not tell does not limit."""
    rooms = [_open_files(), *_processes(agents, proc, cgroups), *_memory(agents, bytes_each, proc)]
    return min(rooms, key=lambda room: room.agents_max)


def private_bytes(pids: Sequence[int], *, proc: Path = Path("/proc")) -> int:
    """The median private memory of some of these processes; 0 when none can be read."""
    found = []
    for pid in pids[:: max(1, len(pids) // SAMPLES)][:SAMPLES]:
        try:
            lines = (proc / f"{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it ended meanwhile, or is another user's
        found.append(sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_")))
    return int(statistics.median(found)) if found else 0


def _open_files() -> Room:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    why = f"its limit of {limit:,} open files, {FILES_EACH} for each agent; raise it (ulimit -n, LimitNOFILE=)"
    return Room(max(0, limit - FILES_KEPT) // FILES_EACH, why)


def _processes(agents: int, proc: Path, cgroups: Path) -> list[Room]:
    rooms = []
    total = _number(proc / "loadavg", lambda text: text.split()[3].partition("/")[2])
    if total is not None:
        limits = {f"kernel.{name.replace('_', '-')}": name for name in ("pid_max", "threads-max")}
        for told, name in limits.items():
            if (limit := _number(proc / "sys/kernel" / name)) is not None:
                rooms.append(_of_processes(agents, total, limit, f"{told.replace('pid-', 'pid_')} (sysctl)"))
        soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        if soft != resource.RLIM_INFINITY and os.geteuid() != 0:  # it does not hold for root
            rooms.append(_of_processes(agents, total, soft, "processes of its user (ulimit -u, LimitNPROC=)"))
    try:
        home = next(line[3:] for line in (proc / "self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return rooms
    group = cgroups / home.lstrip("/")
    limit, current = _number(group / "pids.max"), _number(group / "pids.current")
    if limit is not None and current is not None:
        rooms.append(_of_processes(agents, current, limit, "processes of its cgroup (TasksMax=)"))
    return rooms


def _of_processes(agents: int, now: int, limit: int, what: str) -> Room:
    left = max(0, limit - now - PROCESSES_KEPT)
    return Room(agents + left, f"its limit of {limit:,} {what}, of which {now:,} are taken; raise it")


def _memory(agents: int, bytes_each: int, proc: Path) -> list[Room]:
    """Without swap: agents that are swapped out are not alive in time."""
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return []
    each = bytes_each or BYTES_EACH
    left = max(0, int((free - MEMORY_KEPT * total) / each))
    why = f"its memory: {free / 1e9:.1f} GB are free, and an agent has about {each / 1e6:.1f} MB of its own; add memory"
    return [Room(agents + left, why)]


def _number(path: Path, part: object = None) -> int | None:
    """A number that is all of a file, or the part of it; None when there is none, as for `max`."""
    try:
        text = path.read_text()
        return int(part(text) if callable(part) else text)
    except (OSError, ValueError, IndexError):
        return None
