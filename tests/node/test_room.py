"""How many agents a host can hold, by what it says of itself."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from paddock.node import room


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host whose limits are far away."""
    for name, text in {
        "loadavg": "0.1 0.2 0.3 2/300 4711\n",
        "meminfo": "MemTotal: 100000000 kB\nMemFree: 1 kB\nMemAvailable: 90000000 kB\n",
        "sys/kernel/pid_max": "4194304\n",
        "sys/kernel/threads-max": "400000\n",
        "self/cgroup": "0::/paddock.service\n",
        "cgroup/paddock.service/pids.max": "max\n",
        "cgroup/paddock.service/pids.current": "30\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def measured(host: Path, *, agents: int = 10, bytes_each: int = 0) -> room.Room:
    return room.measure(agents, bytes_each, proc=host, cgroups=host / "cgroup")


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (100_256, 100_256) if kind == resource.RLIMIT_NOFILE else (-1, -1)
    )


def test_open_files_are_two_for_each_agent(host: Path) -> None:
    (host / "meminfo").unlink()  # what is not told does not limit
    assert measured(host) == room.Room(
        50_000, "its limit of 100,256 open files, 2 for each agent; raise it (ulimit -n, LimitNOFILE=)"
    )


@pytest.mark.parametrize(
    ("name", "limit", "now", "what"),
    [
        ("sys/kernel/pid_max", 1000, 300, "kernel.pid_max (sysctl)"),
        ("sys/kernel/threads-max", 1000, 300, "kernel.threads-max (sysctl)"),
        ("cgroup/paddock.service/pids.max", 1000, 30, "processes of its cgroup (TasksMax=)"),
    ],
)
def test_processes_that_there_are_leave_room_for_the_rest(
    host: Path, name: str, limit: int, now: int, what: str
) -> None:
    (host / name).write_text(f"{limit}\n")
    assert measured(host) == room.Room(
        10 + limit - now - 64, f"its limit of {limit:,} {what}, of which {now} are taken; raise it"
    )


def test_the_limit_of_a_users_processes_holds_for_all_but_root(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (500, 500) if kind == resource.RLIMIT_NPROC else (9999, 1))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert measured(host).agents_max == 10 + 500 - 300 - 64
    assert "processes of its user (ulimit -u, LimitNPROC=)" in measured(host).why
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "open files" in measured(host).why


def test_memory_is_shared_out_by_what_an_agent_was_measured_to_take(host: Path) -> None:
    (host / "meminfo").write_text("MemTotal: 2000000 kB\nMemAvailable: 600000 kB\n")
    assert measured(host, bytes_each=4_096_000).agents_max == 10 + 500_000 // 4_000
    assert measured(host, bytes_each=4_096_000).why == (
        "its memory: 0.6 GB are free, and an agent has about 4.1 MB of its own; add memory"
    )
    assert measured(host).agents_max == 10 + int(500_000 * 1024 / room.BYTES_EACH)  # none was measured yet


def test_private_memory_is_the_median_of_some_processes_and_none_is_nothing(host: Path) -> None:
    for pid, size_kb in ((1, 100), (2, 3000), (3, 200)):
        (host / str(pid)).mkdir()
        (host / f"{pid}/smaps_rollup").write_text(
            f"00400000-7fff [rollup]\nRss: 9 kB\nPrivate_Clean: {size_kb} kB\nPrivate_Dirty: 1 kB\n"
        )
    assert room.private_bytes([1, 2, 3, 4], proc=host) == 201 * 1024
    assert room.private_bytes([4], proc=host) == 0
    assert room.private_bytes([os.getpid()]) > 0
