"""One Paddock, whose processes are stopped one after the other, and whose agents misbehave."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from paddock.testing.installation import Installation
from paddock.testing.wait import until

from .conftest import Size, all_ready, ends, held, manifest, memory_limit, submit, works

pytestmark = pytest.mark.xdist_group("faults")

AGENTS = 5


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("faults")
    path = manifest(
        folder / "m.yaml",
        lab="replicas: 2, concurrency: 4, restart: {max: 50}",
        quick="replicas: 2, concurrency: 4, health: {hang_s: 2}, stop_grace_s: 1, logs: {max_bytes: 200000, keep: 1}, "
        "restart: {max: 50}",
        small="replicas: 1, limits: {memory_bytes: 400000000}, restart: {max: 50}",
    )
    with held(folder / "data") as made:
        made.up(path)
        all_ready(made, AGENTS)
        yield made


def agent(lab: Installation, name: str) -> dict[str, Any]:
    return lab.agents()[name]


def replaced(lab: Installation, name: str, pid: int) -> dict[str, Any]:
    """Wait for another incarnation of an agent to be ready."""

    def look() -> dict[str, Any]:
        now = agent(lab, name)
        return now if now["pid"] not in (pid, None) and now["state"] == "ready" else {}

    return until(look, what=f"{name} is replaced")


def start(lab: Installation, name: str, method: str, **args: Any) -> str:
    """Give an agent a task; its id once it runs."""
    with lab.http() as http:
        body = {"agent": name, "method": method, "args": args, "repeatable": False}
        task: str = http.post("/api/v1/tasks", json=body).raise_for_status().json()["id"]

        def running() -> bool:
            return bool(http.get(f"/api/v1/tasks/{task}").json()["state"] == "running")

        until(running, what=f"{method} runs on {name}")
    return task


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it may have been killed meanwhile
            os.kill(pid, signal.SIGCONT)


def fork_server(lab: Installation) -> int:
    """The fork server of the fleet `lab`."""
    return psutil.Process(agent(lab, "lab/0")["pid"]).ppid()


@pytest.mark.parametrize("what", ["server", "node", "fork server", "fabric", "sync", "keeper"])
def test_a_stopped_keeper_costs_no_agent_and_no_task(lab: Installation, tmp_path: Path, size: Size, what: str) -> None:
    before = all_ready(lab, AGENTS)
    notes = tmp_path / "notes"
    with lab.http() as http:
        tasks = [
            submit(http, "note", path=str(notes), text=str(number), takes_s=0.5 * number).json()["id"]
            for number in range(8)
        ]
        pid = fork_server(lab) if what == "fork server" else lab.running(what)["pid"]
        over_at = time.monotonic() + size(4.0, 60.0)
        with stopped(pid):
            until(lambda: time.monotonic() > over_at, what="the time is over", limit_s=120.0)
            if what in ("keeper", "node", "fork server"):
                works(lab)
    assert [ends(lab, task)["state"] for task in tasks] == ["done"] * len(tasks)
    assert Counter(notes.read_text().split()) == Counter(map(str, range(8)))
    works(lab)
    assert all_ready(lab, AGENTS) == before


def test_a_stopped_agent_is_hung_and_replaced_and_its_task_moves(lab: Installation, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pid = agent(lab, "quick/0")["pid"]
    other = agent(lab, "quick/1")["pid"]
    with stopped(other):  # so that the other one takes it
        with lab.http() as http:
            task = submit(http, "wait_for", fleet="quick", path=str(gate)).json()["id"]

            def holder() -> str:
                return str(http.get(f"/api/v1/tasks/{task}").json()["agent"] or "")

            until(lambda: holder() == "quick/0", what="it runs on quick/0")
        replaced(lab, "quick/1", other)
    os.kill(pid, signal.SIGSTOP)
    assert "hung" in replaced(lab, "quick/0", pid)["last_exit"]["reason"]
    assert not psutil.pid_exists(pid)
    gate.touch()
    done = ends(lab, task)
    assert (done["state"], done["result"], done["attempts"]) == ("done", "seen", 2)


def test_what_an_agent_started_ends_with_it_also_in_a_session_of_its_own(lab: Installation, tmp_path: Path) -> None:
    pid = agent(lab, "lab/0")["pid"]
    with lab.http() as http:
        body = {"agent": "lab/0", "method": "fork", "args": {"path": str(tmp_path / "children")}}
        children = http.post("/api/v1/tasks", params={"wait_s": 60}, json=body).json()["result"]
    processes = [psutil.Process(child) for child in children]
    os.kill(pid, signal.SIGKILL)
    for process in processes:
        until(lambda process=process: gone(process), what="its children are ended")  # type: ignore[misc]  # bound now
    replaced(lab, "lab/0", pid)


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_an_agent_that_ignores_sigterm_is_killed_after_its_grace(lab: Installation) -> None:
    pid = agent(lab, "quick/0")["pid"]
    task = start(lab, "quick/0", "deaf_and_busy")
    with lab.http() as http:
        http.post("/api/v1/agents/quick/0/restart").raise_for_status()
    replaced(lab, "quick/0", pid)
    assert not psutil.pid_exists(pid)
    assert ends(lab, task)["state"] == "dead"


def test_an_agent_that_floods_its_log_is_bounded_and_disturbs_nobody(lab: Installation, size: Size) -> None:
    folder = lab.data / "node/local/agents/quick/1"
    task = start(lab, "quick/1", "flood", seconds=size(3.0, 60.0))
    works(lab)
    bounded = until(
        lambda: (folder / "agent.log.1").exists() and sorted(path.name for path in folder.glob("agent.log*")),
        what="its log was rotated",
    )
    assert bounded == ["agent.log", "agent.log.1"]
    written = ends(lab, task)["result"]
    until(lambda: sum(path.stat().st_size for path in folder.glob("agent.log*")) < 500_000, what="its log is small")
    assert written > 5_000_000
    all_ready(lab, AGENTS)


def test_an_agent_that_closes_the_line_to_its_node_opens_it_again(lab: Installation) -> None:
    before = agent(lab, "lab/1")
    with lab.http() as http:
        body = {"agent": "lab/1", "method": "hang_up", "args": {}}
        assert http.post("/api/v1/tasks", params={"wait_s": 60}, json=body).json()["result"] >= 1
    done = agent(lab, "lab/1")["tasks_done"]
    with lab.http() as http:
        body = {"agent": "lab/1", "method": "add", "args": {"x": 1}}
        assert http.post("/api/v1/tasks", params={"wait_s": 60}, json=body).json()["result"] == 2
    until(lambda: agent(lab, "lab/1")["tasks_done"] > done, what="its node hears of its tasks again")
    assert agent(lab, "lab/1")["pid"] == before["pid"]


def test_what_comes_back_after_its_time_out_changes_nothing(lab: Installation, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with lab.http() as http:
        body = {"fleet": "lab", "method": "overrun", "args": {"path": str(gate)}, "timeout_s": 0.3}
        task = http.post("/api/v1/tasks", params={"wait_s": 60}, json=body).json()
        assert (task["state"], task["error"]["code"]) == ("failed", "timed-out")
        gate.touch()
        until((tmp_path / "gate.returned").exists, what="it came back")
        works(lab)
        again = http.get(f"/api/v1/tasks/{task['id']}").json()
        assert again == task


def test_the_kernel_takes_agents_before_keepers(lab: Installation) -> None:
    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    agents = [score(one["pid"]) for one in lab.agents().values()]
    keepers = [score(lab.running(role)["pid"]) for role in ("keeper", "fabric", "sync", "node", "server")]
    keepers.append(score(fork_server(lab)))
    assert min(agents) > max(keepers)


def test_an_agent_that_the_kernel_took_for_memory_is_said_to_be_so(
    lab: Installation, tmp_path: Path, weaker: Callable[[str], None]
) -> None:
    pid = agent(lab, "quick/0")["pid"]
    with memory_limit(pid, 150_000_000) as why_not:
        if why_not:
            weaker(f"no process can be limited so that the kernel kills it: {why_not}")
            return
        with lab.http() as http:
            body = {"agent": "quick/0", "method": "eat", "args": {}, "repeatable": False}
            task = http.post("/api/v1/tasks", json=body).raise_for_status().json()["id"]
        exit = replaced(lab, "quick/0", pid)["last_exit"]
    assert exit["exit"]["oom"] is not False
    assert "out of memory" in exit["reason"]
    assert ends(lab, task)["state"] == "dead"


def test_an_agent_that_exceeds_its_limit_fails_its_task_and_nobody_elses(lab: Installation) -> None:
    with lab.http() as http:
        body = {"agent": "small/0", "method": "eat", "args": {}, "repeatable": False}
        done = http.post("/api/v1/tasks", params={"wait_s": 60}, json=body).json()
    # With cgroups the kernel ends the agent, with rlimits its memory is refused.
    assert (done["state"], done["error"]["code"]) in [("dead", "gave-up"), ("failed", "raised")], done
    all_ready(lab, AGENTS)
    works(lab, "small")


def test_down_and_up_in_the_midst_of_it(lab: Installation, tmp_path: Path) -> None:
    """A stopped agent, one that ignores SIGTERM, one with children, and a stopped server."""
    start(lab, "quick/0", "deaf_and_busy")
    with lab.http() as http:
        body = {"agent": "lab/0", "method": "fork", "args": {"path": str(tmp_path / "children")}}
        http.post("/api/v1/tasks", params={"wait_s": 60}, json=body)
    for pid in (agent(lab, "quick/1")["pid"], lab.running("server")["pid"]):
        os.kill(pid, signal.SIGSTOP)
    assert lab.cli("down").returncode == 0
    assert lab.processes() == []
    lab.up(lab.data.parent / "m.yaml")
    all_ready(lab, AGENTS)
    works(lab)
