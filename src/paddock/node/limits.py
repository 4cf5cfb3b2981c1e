"""Limits of single agents: by cgroup v2 where this node may use it, else by rlimits (memory and open files; no CPU).

Open files are always an rlimit, set by the runtime. With a cgroup, memory is what the agent and all that it started
use together, and the kernel says when it killed for it; the rlimit counts each process by itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from paddock.model.agent import Exit
from paddock.model.fleet import Limits
from paddock.node.oomkills import OomKills
from paddock.runtimes import process

log = structlog.get_logger(__name__)

CPU_PERIOD_US = 100_000
CONTROLLERS = ("memory", "cpu")


class Limiter(Protocol):
    @property
    def kind(self) -> str:
        """For people: by what limits are held here."""
        ...

    def take(self, agent: str, pid: int, limits: Limits) -> None:
        """Put an incarnation under its limits, right after its start."""
        ...

    def release(self, agent: str, pid: int | None, exit: Exit) -> Exit:
        """It has ended: tidy up, and add what is known of how."""
        ...


class Rlimits:
    kind = "rlimits"

    def __init__(self) -> None:
        self._kills = OomKills()

    def take(self, agent: str, pid: int, limits: Limits) -> None:
        process.limit_process(pid, data_bytes=limits.memory_bytes)

    def release(self, agent: str, pid: int | None, exit: Exit) -> Exit:
        return self._kills.judge(pid, exit)


class Cgroups:
    """One cgroup for each agent that has limits, below `root`."""

    kind = "cgroup v2"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kills = OomKills()

    def take(self, agent: str, pid: int, limits: Limits) -> None:
        if not limits.memory_bytes and not limits.cpus:
            return
        group = self._group(agent)
        try:
            group.mkdir(exist_ok=True)
            if limits.memory_bytes:
                (group / "memory.max").write_text(str(limits.memory_bytes))
                (group / "memory.oom.group").write_text("1")
            if limits.cpus:
                (group / "cpu.max").write_text(f"{round(limits.cpus * CPU_PERIOD_US)} {CPU_PERIOD_US}")
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            log.error("the cgroup cannot be used; rlimits instead", agent=agent, error=str(error))
            process.limit_process(pid, data_bytes=limits.memory_bytes)

    def release(self, agent: str, pid: int | None, exit: Exit) -> Exit:
        group = self._group(agent)
        if not group.exists():
            return self._kills.judge(pid, exit)
        try:
            counts = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
            killed = int(counts.get("oom_kill", "0")) > 0
        except (OSError, ValueError):
            killed = False
        try:
            group.rmdir()
        except OSError:
            pass  # something that it started is still in it; the next incarnation goes into the same group
        if killed and exit.signal is not None:
            return msgspec.structs.replace(exit, oom=True)
        return self._kills.judge(pid, exit)  # all of the host may have been short of memory

    def _group(self, agent: str) -> Path:
        return self._root / agent.replace("/", ".")


def discover(node: str, *, mount: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Limiter:
    """Cgroup v2 if the node's own cgroup was given to it (as systemd's Delegate=yes does), else rlimits."""
    try:
        home = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
        base = mount / home.lstrip("/")
        available = (base / "cgroup.controllers").read_text().split()
        if not all(name in available for name in CONTROLLERS) or not os.access(base / "cgroup.procs", os.W_OK):
            return Rlimits()
        if set((base / "cgroup.procs").read_text().split()) - {str(os.getpid())}:
            return Rlimits()  # others live in it, too: it is not ours alone
        # A group with processes cannot hand controllers on: the node itself moves into a leaf.
        leaf, root = base / f"paddock-node-{node}", base / f"paddock-agents-{node}"
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        enable = " ".join(f"+{name}" for name in CONTROLLERS)
        (base / "cgroup.subtree_control").write_text(enable)
        root.mkdir(exist_ok=True)
        (root / "cgroup.subtree_control").write_text(enable)
        return Cgroups(root)
    except (OSError, StopIteration):
        return Rlimits()
