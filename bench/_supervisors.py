"""The supervisors that Paddock is measured beside: `kill -9` of their child → the replacement's own clock."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from _bench import INTERRUPTED, note, row, times
from _peers import Absent, end_now, environment, family, free_port, pm2, process, version

KILLS = int(os.environ.get("BENCH_PEER_KILLS", "15"))
UP_S = 1.2
"""How long a child lives between two kills: pm2 and supervisord take one that ends within a second for broken."""
LIMIT_S = 30.0

CHILD = """
import os, sys, time
with open(sys.argv[1] + ".new", "w") as held:
    held.write(f"{os.getpid()} {time.time()}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(9999)
"""


@contextlib.contextmanager
def supervisord(folder: Path, child: list[str]) -> Iterator[None]:
    python = environment("supervisor") / "python"
    (folder / "s.conf").write_text(
        textwrap.dedent(f"""
            [supervisord]
            nodaemon=true
            logfile={folder}/s.log
            pidfile={folder}/s.pid
            [program:child]
            command={" ".join(child)}
            autorestart=true
        """)
    )
    with process([python, "-m", "supervisor.supervisord", "-c", folder / "s.conf"], cwd=folder):
        yield


@contextlib.contextmanager
def circus(folder: Path, child: list[str]) -> Iterator[None]:
    program = environment("circus") / "circusd"
    (folder / "c.ini").write_text(
        textwrap.dedent(f"""
            [circus]
            endpoint = tcp://127.0.0.1:{free_port()}
            pubsub_endpoint = tcp://127.0.0.1:{free_port()}
            [watcher:child]
            cmd = {" ".join(child)}
        """)
    )
    with process([program, folder / "c.ini"], cwd=folder):
        yield


@contextlib.contextmanager
def under_pm2(folder: Path, child: list[str]) -> Iterator[None]:
    program, (interpreter, script, *words) = pm2(), child
    env = {**os.environ, "PM2_HOME": str(folder / "pm2")}

    def do(*command: str) -> None:
        subprocess.run(
            [str(program), *command], env=env, cwd=folder, check=True, timeout=60, capture_output=True, text=True
        )

    try:
        do("start", script, "--name", "child", "--interpreter", interpreter, "--", *words)
        yield
    except subprocess.SubprocessError as error:
        raise Absent(f"pm2: {error}") from error
    finally:
        pid = folder / "pm2/pm2.pid"
        everybody = family(int(pid.read_text())) if pid.exists() else []
        with contextlib.suppress(subprocess.SubprocessError):
            do("kill")
        end_now(everybody)  # its daemon left our session long ago


def measured(held: Callable[[Path, list[str]], contextlib.AbstractContextManager[None]]) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as name:
        folder = Path(name)
        stamp, script = folder / "stamp", folder / "child.py"
        script.write_text(CHILD)
        taken: list[float] = []
        try:
            with held(folder, [sys.executable, str(script), str(stamp)]):
                pid, _ = stamped(stamp, 0)
                for _ in range(KILLS):
                    INTERRUPTED.wait(UP_S)
                    before = time.time()
                    psutil.Process(pid).send_signal(signal.SIGKILL)
                    pid, at = stamped(stamp, pid)
                    taken.append(at - before)
        finally:
            end_now(children_of(script))
        return taken


def children_of(script: Path) -> list[psutil.Process]:
    """Whoever runs this script of ours: a supervisor that is ended while it restarts its child leaves it behind."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(script) in one.cmdline():
                found.append(one)
    return found


def stamped(path: Path, not_pid: int) -> tuple[int, float]:
    """(pid, start) that the child wrote, once it is another than `not_pid`."""
    give_up = time.monotonic() + LIMIT_S
    while time.monotonic() < give_up and not INTERRUPTED.is_set():
        words = path.read_text().split() if path.exists() else []
        if len(words) == 2 and int(words[0]) != not_pid:
            return int(words[0]), float(words[1])
        time.sleep(0.002)
    raise Absent(f"no new child within {LIMIT_S:g} s")


SUPERVISORS = {"supervisor": supervisord, "circus": circus, "pm2": under_pm2}
"""name of the lock → how it is run."""


def rows(measure: str) -> None:
    """A row for each supervisor that BENCH_PEERS does not leave out. They run at the same time: they mostly wait."""
    named = os.environ.get("BENCH_PEERS", ",".join(SUPERVISORS)).split(",")
    names = [name for name in SUPERVISORS if name in named]

    for name in names:  # fetched one after the other, and not within what is timed
        with contextlib.suppress(Absent):
            pm2() if name == "pm2" else environment(name)

    def one(name: str) -> list[float] | Absent:
        try:
            return measured(SUPERVISORS[name])
        except Absent as error:
            return error

    with ThreadPoolExecutor(len(SUPERVISORS)) as threads:
        for name, found in zip(names, threads.map(one, names), strict=True):
            if isinstance(found, Absent):
                row(measure, f"not here: {found}", who=name)
                continue
            times(measure, found, who=name)
            note(f"{name} {version(name)} as it comes; its child only says that it has started, ours has done a task")
