"""Faults of the host, with real processes. `PADDOCK_FAULTS=long` for the forms of a minute; else they take seconds.

What a machine does not permit (a mount, a cgroup) is done in a weaker way that it does, and said in the summary.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from paddock.testing.installation import Installation
from paddock.testing.wait import until

LAB = Path(__file__).parent / "fault_agents.py"
WEAKER = "in a weaker form"

Size = Callable[[float, float], float]


@pytest.fixture
def size() -> Size:
    """size(short, long): the one that this run is for."""
    return lambda short, long: long if os.environ.get("PADDOCK_FAULTS") == "long" else short


@pytest.fixture
def weaker(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say at the end of the run what this machine did not permit."""
    return lambda why: record_property(WEAKER, why)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, why in report.user_properties:
            if name == WEAKER:
                terminalreporter.write_line(f"{report.nodeid} ran {WEAKER}: {why}")


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """A Paddock of its own; taken down at the end, and nothing of it may be left."""
    with held(tmp_path / "data") as made:
        yield made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, of some 64 MB. Where nothing can be mounted, only
    `test_files_that_cannot_grow…` shows a part of what a full disk does."""
    folder = tmp_path / "disk"
    folder.mkdir()
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        pytest.xfail(f"no file system can be mounted on this machine, so none can be filled: {tried.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def memory_limit(pid: int, limit_bytes: int) -> Iterator[str]:
    """A cgroup around one process, so that the kernel's OOM killer takes it beyond the limit; yields why not, or empty.
    Of version 1 or 2, as the machine has it."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    root, name = (first, "memory.limit_in_bytes") if first.is_dir() else (second, "memory.max")
    group = root / f"paddock-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(limit_bytes))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        yield f"{error.strerror}: {error.filename}"
    else:
        yield ""
    finally:
        if group.exists():
            for left in (group / "cgroup.procs").read_text().split():
                (root / "cgroup.procs").write_text(left)
            until(lambda: not (group / "cgroup.procs").read_text(), what="the cgroup is empty")
            group.rmdir()


@contextmanager
def no_growth(pids: Iterable[int]) -> Iterator[None]:
    """Every write of these processes that makes a file larger fails meanwhile (EFBIG; to SQLite a disk I/O error)."""
    hard = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE)[1] for pid in pids}
    for pid, limit in hard.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, limit))
    try:
        yield
    finally:
        for pid, limit in hard.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, limit))


DISK_BYTES = 64 * 1024 * 1024


@contextmanager
def held(data: Path) -> Iterator[Installation]:
    """A Paddock that is taken down at the end, whatever happens; nothing of it may be left."""
    made = Installation(data)
    try:
        yield made
    finally:
        for path in sorted((data / "log").glob("*.log")):  # shown when the test failed
            print(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}")
        made.down()
    left = [f"{process.pid} {' '.join(process.cmdline())}" for process in made.processes()]
    for process in made.processes():
        process.kill()
    assert left == []


def manifest(path: Path, **fleets: str) -> Path:
    """A manifest of fleets of `fault_agents:Lab`; the value of each is more of its fields."""
    lines = ["paddock: 1", "fleets:"]
    for name, more in fleets.items():
        where = f'agent: "fault_agents:Lab", pythonpath: ["{LAB.parent}"]'
        lines.append(f"  {name}: {{{more if 'command:' in more else f'{where}, {more}'}}}")
    path.write_text("\n".join(lines) + "\n")
    return path


def parts(installation: Installation) -> dict[str, str]:
    """What /readyz says of each part; `ok` when it is."""
    with installation.http() as http:
        told: dict[str, Any] = http.get("/readyz").json()
    return next((told[key] for key in ("parts", "checks") if isinstance(told.get(key), dict)), told)


def submit(http: httpx.Client, method: str, *, wait_s: float = 0, fleet: str = "lab", **args: Any) -> httpx.Response:
    body = {"fleet": fleet, "method": method, "args": args}
    return http.post("/api/v1/tasks", params={"wait_s": wait_s} if wait_s else {}, json=body)


def why_unready(installation: Installation) -> str:
    """What /readyz says is wrong; empty when all is well."""
    with installation.http() as http:
        answer = http.get("/readyz")
    return "" if answer.status_code == 200 else answer.text


def ends(installation: Installation, task: str) -> Any:
    """The task once it has ended, through a server that may be away for a while."""

    def look() -> Any:
        try:
            with installation.http() as http:
                view = http.get(f"/api/v1/tasks/{task}").raise_for_status().json()
        except (OSError, httpx.HTTPError):
            return None
        return view if view["finished_at"] else None

    return until(look, what=f"task {task} has ended", limit_s=90.0)


def works(installation: Installation, fleet: str = "lab", *, limit_s: float = 60.0) -> None:
    """Wait until a task is taken and done."""

    def look() -> bool:
        try:
            with installation.http() as http:
                done = submit(http, "add", wait_s=20, fleet=fleet, x=1)
        except (OSError, httpx.HTTPError):
            return False
        return done.status_code == 200 and done.json()["result"] == 2

    until(look, what=f"a task of {fleet} is done", limit_s=limit_s)


def all_ready(installation: Installation, count: int, *, limit_s: float = 60.0) -> dict[str, int]:
    """Wait until just so many agents are there and ready; their pids by id."""

    def look() -> dict[str, int]:
        try:
            agents = installation.agents()
        except Exception:  # the server is being started anew
            return {}
        well = [agent["state"] for agent in agents.values()] == ["ready"] * count
        return {name: agent["pid"] for name, agent in agents.items()} if well else {}

    return until(look, what=f"{count} ready agents", limit_s=limit_s)
