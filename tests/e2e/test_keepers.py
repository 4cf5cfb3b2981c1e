"""Promise 1: agents outlive their keepers, and what comes back adopts them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from paddock.testing.installation import Installation
from paddock.testing.wait import until

MANIFEST = f"""
paddock: 1
fleets:
  lab: {{agent: "lab_agents:Lab", pythonpath: ["{Path(__file__).parent}"], replicas: 3}}
  sleeper: {{command: ["sleep", "86400"], replicas: 2}}
"""


def pids(installation: Installation) -> dict[str, int]:
    return {name: agent["pid"] for name, agent in installation.agents().items()}


@pytest.mark.parametrize(
    "roles",
    [("server",), ("node",), ("fabric",), ("sync",), ("node", "server"), ("sync", "fabric", "node", "server")],
)
def test_killing_keepers_restarts_no_agent_and_they_are_adopted(
    installation: Installation, tmp_path: Path, roles: tuple[str, ...]
) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    installation.up(tmp_path / "m.yaml")
    installation.ready("lab", 3)
    installation.ready("sleeper", 2)
    before = pids(installation)
    old = {role: installation.running(role)["pid"] for role in roles}
    for pid in old.values():
        os.kill(pid, signal.SIGKILL)

    def keepers_are_back() -> bool:
        try:
            return all(installation.running(role)["pid"] != pid for role, pid in old.items())
        except OSError:
            return False

    until(keepers_are_back, what="the keeper brought the roles back")

    def well() -> bool:
        try:
            return len(pids(installation)) == 5 and all(
                agent["state"] == "ready" for agent in installation.agents().values()
            )
        except Exception:
            return False

    until(well, what="all agents are known and ready again")
    assert pids(installation) == before
    assert all(agent["restarts"] == 0 for agent in installation.agents().values())
    done = installation.json("task", "submit", "lab", "add", "--arg", "x:=1", "--wait")
    assert done["state"] == "done"
    os.kill(before["lab/1"], signal.SIGKILL)
    until(lambda: pids(installation)["lab/1"] not in (before["lab/1"], None), what="a death is noticed afterwards")


def test_killing_everything_but_the_agents_and_coming_up_again_adopts_them(
    installation: Installation, tmp_path: Path
) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    installation.up(tmp_path / "m.yaml")
    installation.ready("lab", 3)
    installation.ready("sleeper", 2)
    before = pids(installation)
    keeper = installation.running("keeper")["pid"]
    roles = [installation.running(role)["pid"] for role in ("server", "node", "fabric", "sync")]
    for pid in (keeper, *roles):
        os.kill(pid, signal.SIGKILL)
    for pid in before.values():
        assert psutil.pid_exists(pid)
    os.kill(before["lab/2"], signal.SIGKILL)
    os.kill(before["sleeper/1"], signal.SIGKILL)
    installation.up(tmp_path / "m.yaml")
    installation.ready("lab", 3)
    installation.ready("sleeper", 2)
    after = pids(installation)
    alive = {"lab/0", "lab/1", "sleeper/0"}
    assert {name: after[name] for name in alive} == {name: before[name] for name in alive}
    assert after["lab/2"] != before["lab/2"]
    assert after["sleeper/1"] != before["sleeper/1"]


def test_children_of_an_agent_that_died_with_its_node_are_ended(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "paddock: 1\nfleets:\n  parent: {command: [sh, -c, 'sleep 86399 & while :; do sleep 1; done']}\n"
    )
    installation.up(tmp_path / "m.yaml")
    agent = installation.ready("parent", 1)["parent/0"]["pid"]

    def child() -> psutil.Process | None:
        found = [process for process in psutil.Process(agent).children() if "86399" in process.cmdline()]
        return found[0] if found else None

    left = until(child, what="its child runs")
    assert left is not None
    os.kill(installation.running("node")["pid"], signal.SIGKILL)
    os.kill(agent, signal.SIGKILL)
    until(lambda: not left.is_running(), what="the child is ended with the return of the node")
    assert installation.ready("parent", 1)["parent/0"]["pid"] != agent


def test_down_leaves_nothing_running(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    installation.up(tmp_path / "m.yaml")
    installation.ready("lab", 3)
    assert installation.processes()
    assert installation.cli("down").returncode == 0
    assert installation.processes() == []


@pytest.mark.parametrize("marked", [True, False])
def test_down_ends_the_agents_whose_keepers_died(installation: Installation, tmp_path: Path, marked: bool) -> None:
    """Whatever is known of them: nothing but the agents themselves tells of them when the mark is gone, too."""
    (tmp_path / "m.yaml").write_text(MANIFEST)
    installation.up(tmp_path / "m.yaml")
    installation.ready("lab", 3)
    agents = [psutil.Process(pid) for pid in pids(installation).values()]
    for role in ("keeper", "node"):
        os.kill(installation.running(role)["pid"], signal.SIGKILL)
    if not marked:
        (installation.data / "run/started").unlink()
    installation.cli("down")
    assert [agent.pid for agent in agents if lives(agent)] == []
    assert installation.processes() == []


def test_two_who_take_it_down_at_once_both_see_it_down(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    installation.up(tmp_path / "m.yaml")
    with ThreadPoolExecutor(2) as both:
        told = list(both.map(lambda _: installation.cli("down", ok=False), range(2)))
    assert [one.returncode for one in told] == [0, 0], [one.stderr for one in told]
    assert installation.processes() == []


@pytest.mark.parametrize("how", ["down", "signal"])
def test_up_while_it_is_taken_down_waits_and_starts_it(installation: Installation, tmp_path: Path, how: str) -> None:
    slow = "import signal, time; signal.signal(15, lambda *_: (time.sleep(2), exit())); time.sleep(86400)"
    (tmp_path / "m.yaml").write_text(f"""
paddock: 1
fleets:
  slow: {{command: [{sys.executable}, -c, "{slow}"], stop_grace_s: 8}}
""")
    installation.up(tmp_path / "m.yaml")
    before = installation.ready("slow", 1)["slow/0"]["pid"]
    keeper = installation.running("keeper")["pid"]
    with ThreadPoolExecutor(1) as other:
        if how == "down":
            down = other.submit(installation.cli, "down")
            until(lambda: (installation.data / "run/down.json").exists(), what="it is being taken down")
        else:
            os.kill(keeper, signal.SIGTERM)
            until(lambda: installation.running("keeper")["stopping"], what="it stops")
        told = installation.cli("up", "--detach", "--port", "0")
        if how == "down":
            down.result()
    assert "waiting until it is down" in told.stderr
    assert installation.running("keeper")["pid"] != keeper
    assert installation.ready("slow", 1)["slow/0"]["pid"] != before


def test_down_tells_of_agents_that_are_left_and_ends_them_when_called_again(
    installation: Installation, tmp_path: Path
) -> None:
    stubborn = f"{sys.executable} -c 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(86400)'"
    (tmp_path / "m.yaml").write_text(f"""
paddock: 1
fleets:
  stubborn: {{command: [sh, -c, "exec {stubborn}"], stop_grace_s: 8}}
""")
    installation.up(tmp_path / "m.yaml")
    pid = installation.ready("stubborn", 1)["stubborn/0"]["pid"]
    for role in ("keeper", "server"):
        os.kill(installation.running(role)["pid"], signal.SIGKILL)
    node = installation.running("node")["pid"]
    killer = threading.Timer(4, os.kill, (node, signal.SIGKILL))
    killer.start()
    told = installation.cli("down", ok=False)
    killer.join()
    assert told.returncode != 0
    assert f"stubborn/0 (pid {pid})" in told.stderr
    assert "call 'paddock down' again" in told.stderr
    installation.cli("down")
    assert installation.processes() == []


def lives(process: psutil.Process) -> bool:
    """One that has ended and was not asked for by its parent yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
