"""What dead incarnations leave behind, and whom the kernel took."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from paddock.agent.clock import HostClock
from paddock.agent.owner import Owner
from paddock.decide.restart import describe
from paddock.model.agent import Exit
from paddock.node import leftovers
from paddock.node.leftovers import Leftovers
from paddock.node.oomkills import DOUBT_S, OomKills
from paddock.runtimes import proc
from paddock.testing.wait import until

KILLED = Exit(signal=signal.SIGKILL)


@pytest.fixture
async def owner() -> AsyncIterator[Owner]:
    failures: list[BaseException] = []
    held = Owner(lambda name, error: failures.append(error))
    yield held
    await held.close()
    assert failures == []


def child(agent: str, epoch: int) -> subprocess.Popen[bytes]:
    return marked({"PADDOCK_AGENT": agent, "PADDOCK_EPOCH": str(epoch)})


def marked(mark: dict[str, str]) -> subprocess.Popen[bytes]:
    env = {**os.environ, **mark}
    started = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], env=env, stdin=-1, stdout=-1)
    assert started.stdout is not None
    started.stdout.readline()
    return started


@pytest.mark.parametrize("adopted", [False, True])
async def test_what_a_dead_incarnation_left_is_ended_and_nothing_else(owner: Owner, adopted: bool) -> None:
    left = [child("leaver/0", 7), child("leaver/0", 7)]
    others = [child("leaver/0", 8), child("leaver/1", 7)]
    found = Leftovers(owner, HostClock(), subreaper=True)
    found.died("leaver/0", 7, adopted=adopted)
    await found.settled()
    assert [process.wait() for process in left] == [-signal.SIGKILL] * 2
    assert [process.poll() for process in others] == [None] * 2
    for process in others:
        process.communicate(b"\n")
    for process in left:
        process.communicate()


@pytest.mark.parametrize("deep", [1, 3, 12])
async def test_what_was_left_goes_with_all_that_it_started(owner: Owner, tmp_path: Path, deep: int) -> None:
    """Their parents live, so they are nobody's children of ours at the first look, and each in a session of its own."""
    script = """
import os, subprocess, sys, time
deep, folder = int(sys.argv[1]), sys.argv[2]
if deep:
    subprocess.Popen([sys.executable, "-c", os.environ["SCRIPT"], str(deep - 1), folder], start_new_session=True)
open(f"{folder}/{os.getpid()}", "w")
time.sleep(600)
"""
    env = {**os.environ, "SCRIPT": script, "PADDOCK_AGENT": "deep/0", "PADDOCK_EPOCH": "3"}
    command = [sys.executable, "-c", script, str(deep), str(tmp_path)]
    first = await asyncio.to_thread(subprocess.Popen, command, env=env)
    await asyncio.to_thread(until, lambda: len(os.listdir(tmp_path)) == deep + 1, what="all have started")
    handles = [os.pidfd_open(int(pid)) for pid in os.listdir(tmp_path)]
    found = Leftovers(owner, HostClock(), subreaper=True)
    found.died("deep/0", 3, adopted=False)
    await found.settled()
    ended, _, _ = select.select(handles, [], [], 0)
    assert len(ended) == deep + 1
    first.wait()
    for handle in handles:
        os.close(handle)


async def test_what_an_ended_run_of_a_probe_left_is_ended_and_a_run_under_way_is_left_alone(owner: Owner) -> None:
    found = Leftovers(owner, HostClock(), subreaper=True)
    over, under_way = found.probe_begins(), found.probe_begins()
    left, other = marked(over), marked(under_way)
    task = owner.start("probes", found.run_probes())
    found.probe_ended(over)
    assert await asyncio.to_thread(left.wait) == -signal.SIGKILL
    assert other.poll() is None
    task.cancel()
    other.communicate(b"\n")
    left.communicate()


async def test_nothing_is_read_of_the_system_when_no_probe_ended(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(leftovers, "_end_all", lambda ours, others: looks.append(len(ours)))
    found = Leftovers(owner, HostClock(), subreaper=True)
    await found.end_probes()
    for _ in range(300):
        found.probe_ended(found.probe_begins())
    await found.end_probes()
    await found.end_probes()
    assert looks == [300]


async def test_many_deaths_at_once_are_one_look(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(leftovers, "_end_all", lambda ours, others: looks.append(len(ours) + len(others)))
    found = Leftovers(owner, HostClock(), subreaper=True)
    for number in range(500):
        found.died(f"crowd/{number}", 1, adopted=number % 2 == 0)
    await asyncio.gather(*(found.ended(f"crowd/{number}", 1) for number in range(500, 1000)))
    await found.settled()
    assert looks == [1000]


async def test_without_a_subreaper_only_what_died_unwatched_is_looked_for(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(leftovers, "_end_all", lambda ours, others: looks.append(len(ours) + len(others)))
    found = Leftovers(owner, HostClock(), subreaper=False)
    found.died("crowd/0", 1, adopted=False)
    await found.settled()
    await found.ended("crowd/1", 1)
    assert looks == [1]


def test_a_started_process_is_offered_to_the_oom_killer_before_this_one() -> None:
    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    with child("offered/0", 1) as started:
        proc.offer_to_oom_killer(started.pid)
        assert score(started.pid) == min(1000, score(os.getpid()) + proc.OOM_SCORE)
        started.communicate(b"\n")
    proc.offer_to_oom_killer(started.pid)  # it has ended: no error


class Kernel:
    """Its count and its log, in plain files."""

    def __init__(self, folder: Path, *, log: bool = True) -> None:
        self.vmstat, self.kmsg, self.now = folder / "vmstat", folder / "kmsg", 100.0
        self._count = 3
        self.kill(count=0)
        if log:
            self.kmsg.write_text("Out of memory: Killed process 4 (old)\n")

    def kill(self, *pids: int, count: int | None = None) -> None:
        self._count += len(pids) if count is None else count
        self.vmstat.write_text(f"nr_free_pages 5\noom_kill {self._count}\n")
        for pid in pids:
            if self.kmsg.exists():
                with self.kmsg.open("a") as file:
                    file.write(f"Memory cgroup out of memory: Killed process {pid} (python) total-vm:5kB\n")

    def kills(self) -> OomKills:
        return OomKills(self.vmstat, self.kmsg, lambda: self.now)


def test_whom_the_kernels_log_names_was_taken_and_others_were_not(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kills = kernel.kills()
    assert kills.judge(4, KILLED) == KILLED, "that was before"
    kernel.kill(11, 12)
    assert kills.judge(11, KILLED).oom is True
    assert kills.judge(12, KILLED).oom is True
    assert kills.judge(13, KILLED) == KILLED
    assert kills.judge(12, Exit(code=1)) == Exit(code=1)


def test_without_the_log_it_is_said_to_be_perhaps_so_for_a_moment(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, log=False)
    kills = kernel.kills()
    assert kills.judge(11, KILLED) == KILLED
    kernel.kill(11)
    perhaps = kills.judge(11, KILLED)
    assert perhaps.oom is None
    assert "perhaps" in describe(perhaps)
    kernel.now += DOUBT_S
    assert kills.judge(12, KILLED) == KILLED
