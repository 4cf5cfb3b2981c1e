"""The small parts of a node, each by itself."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.agent.clock import HostClock
from paddock.decide.redact import secrets_of
from paddock.fabric import subjects
from paddock.model.agent import AgentState, AgentStatus, Exit
from paddock.model.errors import TemplateBroken, Unavailable
from paddock.model.fleet import FleetSpec, Limits, Logs
from paddock.node import checks, limits, logs, publisher, web
from paddock.node.deadlines import Deadlines
from paddock.node.launching import port_env
from paddock.node.logs import Rotation
from paddock.node.ports import Ports
from paddock.node.publisher import Publisher
from paddock.node.requests import attempt
from paddock.runtimes import process
from paddock.testing import loop as virtual
from paddock.testing.broker import RealBroker
from paddock.testing.clock import VirtualClock
from paddock.testing.fabric import FakeBroker, FakeFabric
from paddock.testing.wait import until

# --- deadlines


def test_deadlines_fire_in_order_once_and_not_when_dropped_or_moved() -> None:
    async def main() -> None:
        deadlines, fired = Deadlines(VirtualClock()), []
        for key, delay_s in (("c", 3.0), ("a", 1.0), ("dropped", 1.5), ("moved", 2.0), ("b", 2.0)):
            deadlines.set(key, delay_s, lambda late_s, key=key: fired.append(key))  # type: ignore[misc]
        deadlines.drop("dropped")
        deadlines.set("moved", 4.0, lambda late_s: fired.append("moved"))
        await asyncio.sleep(10)
        assert fired == ["a", "b", "c", "moved"]
        assert len(deadlines) == 0
        deadlines.close()

    virtual.run(main)


def test_a_deadline_can_set_itself_again_and_others() -> None:
    async def main() -> None:
        deadlines, fired = Deadlines(VirtualClock()), []

        def again(late_s: float) -> None:
            fired.append(late_s)
            if len(fired) < 5:
                deadlines.set("x", 1.0, again)

        deadlines.set("x", 1.0, again)
        await asyncio.sleep(20)
        assert len(fired) == 5
        assert max(fired) < 0.01
        deadlines.close()

    virtual.run(main)


def test_many_moves_leave_no_litter() -> None:
    async def main() -> None:
        deadlines = Deadlines(VirtualClock())
        for _ in range(10_000):
            deadlines.set("x", 5.0, lambda late_s: None)
        assert len(deadlines._heap) < 200
        deadlines.close()
        deadlines.set("x", 1.0, lambda late_s: None)
        assert len(deadlines) == 0

    virtual.run(main)


# --- ports


def test_ports_are_given_once_kept_and_taken_back() -> None:
    ports = Ports()
    first = ports.give("a/0", ["port", "admin"], {})
    second = ports.give("a/1", ["port"], {})
    assert len({*first.values(), *second.values()}) == 3
    assert ports.give("a/0", ["port", "admin"], first) == first
    ports.take_back("a/0")
    assert ports.give("b/0", ["port"], {"port": first["port"]})["port"] == first["port"]


def test_a_port_that_somebody_else_took_is_replaced() -> None:
    ports = Ports()
    before = ports.give("a/0", ["port"], {})
    with socket.socket() as other:
        other.bind(("127.0.0.1", before["port"]))
        other.listen()
        assert ports.give("a/0", ["port"], before) != before


def test_a_fixed_port_is_given_to_one_agent_only() -> None:
    ports = Ports()
    assert ports.give("a/0", ["web=18080"], {}) == {"web": 18080}
    with pytest.raises(Unavailable, match="port 18080 is taken by a/0"):
        ports.give("a/1", ["web=18080"], {})
    with pytest.raises(TemplateBroken, match="not of the form"):
        ports.give("a/1", ["web=http"], {})
    ports.remember("b/0", {"port": 18081})
    with pytest.raises(Unavailable):
        ports.give("a/1", ["web=18081"], {})


def test_ports_that_are_taken_back_are_free_and_those_of_others_are_not_touched() -> None:
    ports = Ports()
    ports.give("a/0", ["web=18080"], {})
    ports.give("a/1", ["web=18081", "admin=18082"], {})
    ports.take_back("a/1")
    ports.take_back("a/9")
    assert ports.give("a/2", ["web=18081", "admin=18082"], {}) == {"web": 18081, "admin": 18082}
    with pytest.raises(Unavailable, match="port 18080 is taken by a/0"):
        ports.give("a/2", ["web=18080"], {})


def test_ports_are_told_in_the_environment() -> None:
    assert port_env({"admin-ui": 2, "port": 1}) == {"PORT_ADMIN_UI": "2", "PORT_PORT": "1", "PORT": "1"}
    assert port_env({"web": 3})["PORT"] == "3"
    assert port_env({}) == {}


# --- logs


def test_the_last_lines_are_read_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"line %d hunter22 \xff\n" % n for n in range(10_000)))
    spec = FleetSpec(name="a", runtime="exec", env={"PASS": "hunter22", "N": "1"}, secret_env=["PASS", "N", "GONE"])
    lines = logs.last_lines(str(path), secrets_of(spec))
    assert len(lines) == logs.EVIDENCE_LINES
    assert lines[-1] == "line 9999 [redacted] \ufffd"
    assert logs.last_lines(str(tmp_path / "none")) == []
    assert logs.tail(str(path), 0)[0] == ""


def test_what_agents_say_last_is_kept_without_secrets_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "log"
    key = ["-----BEGIN RSA PRIVATE KEY-----", *["MIIhunter"] * 60, "-----END RSA PRIVATE KEY-----"]
    path.write_text(
        "\n".join([*key, "\x1b[31mpassword\x1b[0m=hunter2", "postgres://u:p@hunter@h/db", "ValueError: no price"])
    )
    assert logs.last_lines(str(path), lines=4) == [
        "[redacted]",
        "password=[redacted]",
        "postgres://[redacted]@h/db",
        "ValueError: no price",
    ]
    path.write_text("\n".join(["x" * 5000, *key, "ValueError: no price"]))
    assert logs.last_lines(str(path), lines=40) == ["x" * 5000, "[redacted]", "ValueError: no price"]
    path.write_text("password=" + "hunter " * 10_000 + "\nValueError: no price")
    assert "ValueError: no price" in logs.last_lines(str(path))
    path.write_text("hunter2-hunter2" * 2000 + " end")
    assert logs.last_lines(str(path)) == ["end"]


async def test_a_log_is_followed_over_its_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\n")
    clock = HostClock()
    text, offset = await logs.follow(clock, str(path), 0, 0)
    assert text == "one\n"
    following = asyncio.ensure_future(logs.follow(clock, str(path), offset, 30))
    await asyncio.sleep(0)
    with path.open("a") as file:
        file.write("two\n")
    text, offset = await following
    assert text == "two\n"
    logs.rotate(str(path), Logs(keep=2))
    assert (tmp_path / "log.1").read_text() == "one\ntwo\n"
    with path.open("a") as file:
        file.write("3\n")
    assert (await logs.follow(clock, str(path), offset, 30))[0] == "3\n"
    assert await logs.follow(clock, str(path), 2, 0) == ("", 2)


async def test_full_logs_are_rotated_a_limited_number_is_kept_and_only_their_end_is_copied(tmp_path: Path) -> None:
    path, limit = tmp_path / "log", Logs(max_bytes=100, keep=2)
    rotation = Rotation()
    for number in range(5):
        path.write_text(f"{number}" * 150)
        assert await rotation.look([(str(path), limit)]) == 1
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]
    assert (tmp_path / "log.1").read_text() == "4" * 100
    assert path.read_text() == ""
    assert await rotation.look([(str(path), limit), (str(tmp_path / "none"), limit)]) == 0


async def test_a_log_whose_copy_fails_is_emptied_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("x" * 200)
    (tmp_path / "log.1").mkdir()
    (tmp_path / "log.1/full").touch()
    (tmp_path / "log.2").mkdir()
    (tmp_path / "log.2/full").touch()
    await Rotation().look([(str(path), Logs(max_bytes=100, keep=2))])
    assert path.read_text() == ""


# --- limits


def test_memory_is_limited_by_rlimit_without_cgroups() -> None:
    text = "input()\nx = bytearray(500_000_000)"
    child = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    limits.Rlimits().take("a/0", child.pid, Limits(memory_bytes=200_000_000))
    _, errors = child.communicate(b"\n")
    assert b"MemoryError" in errors
    limits.Rlimits().take("a/0", child.pid, Limits(memory_bytes=1000))  # it has ended: no error


def test_a_cgroup_is_written_and_tells_of_oom(tmp_path: Path) -> None:
    """The files of a cgroup, in a plain folder: what is written where, and how the kernel's answer is read."""
    groups = limits.Cgroups(tmp_path)
    groups.take("a/0", 123, Limits(memory_bytes=1000, cpus=0.5))
    group = tmp_path / "a.0"
    assert (group / "memory.max").read_text() == "1000"
    assert (group / "cpu.max").read_text() == "50000 100000"
    assert (group / "cgroup.procs").read_text() == "123"
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert groups.release("a/0", 123, Exit(signal=9)) == Exit(signal=9, oom=True)
    (group / "memory.events").write_text("oom_kill 0\n")
    assert groups.release("a/0", 123, Exit(signal=9)) == Exit(signal=9)
    groups.take("a/1", 123, Limits())
    assert groups.release("a/1", 123, Exit(code=0)) == Exit(code=0)


def test_cgroups_are_used_only_where_they_were_given_to_us(tmp_path: Path) -> None:
    own, base = tmp_path / "cgroup", tmp_path / "fs/mine"
    base.mkdir(parents=True)
    own.write_text("5:memory:/x\n0::/mine\n")
    assert limits.discover("n", mount=tmp_path / "fs", own=own).kind == "rlimits"
    (base / "cgroup.controllers").write_text("cpu memory pids")
    (base / "cgroup.procs").write_text("1\n")
    (base / "paddock-node-n").mkdir()
    assert limits.discover("n", mount=tmp_path / "fs", own=own).kind == "rlimits"
    (base / "cgroup.procs").write_text("")
    assert limits.discover("n", mount=tmp_path / "fs", own=own).kind == "cgroup v2"
    assert limits.discover("n", own=tmp_path / "none").kind == "rlimits"


# --- probes


async def test_what_a_probe_says_of_odd_answers() -> None:
    answers = {
        b"HTTP/1.1 204 No\r\n\r\n": "",
        b"HTTP/1.0 503 No\r\n\r\n": "answered 503",
        b"SSH-2\r\n": "did not answer with HTTP",
        b"": "did not answer with HTTP",
    }
    for answer, expected in answers.items():

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        problem = await web.get(checks.fill("http://127.0.0.1:{port}/x?y=1", {"port": port}), 5.0)
        assert expected in problem
        assert bool(problem) == bool(expected)
        server.close()
        await server.wait_closed()
    assert await web.get(f"http://127.0.0.1:{port}/", 5.0)
    assert await web.get(checks.fill("http://127.0.0.1:{port.gone}/", {}), 5.0)


# --- publisher


class Someone:
    def __init__(self, name: str) -> None:
        self.id = f"a/{name}"
        self.told = 0

    def status(self) -> AgentStatus:
        self.told += 1
        return AgentStatus(id=self.id, fleet="a", state=AgentState.READY, tasks_done=self.told)


FORGOTTEN: list[str] = []


async def publish(broker: FakeBroker) -> tuple[Publisher, FakeFabric, asyncio.Task[None]]:
    fabric = broker.connect("node")
    await fabric.ensure(*subjects.STREAMS)
    told = Publisher("n", fabric, HostClock(), boot="b", forgotten=FORGOTTEN.append)
    return told, fabric, asyncio.create_task(told.run(), name="publisher")


async def test_many_changes_of_one_agent_are_one_write() -> None:
    told, fabric, task = await publish(FakeBroker())
    agent = Someone("0")
    for _ in range(100):
        told.dirty(agent)
        told.counted(agent)
    await told.settled()
    assert agent.told == 1
    FORGOTTEN.clear()
    told.gone(agent.id)
    await told.settled()
    assert agent.id in FORGOTTEN
    last = await fabric.last(subjects.NOW, "$KV.now.agent.n.a.0")
    assert last is not None
    assert last.deleted
    task.cancel()


async def test_while_the_fabric_is_away_events_wait_and_the_oldest_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher, "EVENTS_MAX", 10)
    monkeypatch.setattr(publisher, "RETRY_S", 0.01)
    broker = FakeBroker()
    told, fabric, task = await publish(broker)
    broker.stop()
    for number in range(15):
        told.event("agent.died", "a/0", f"number {number}")
    told.dirty(Someone("0"))
    await asyncio.sleep(0)
    broker.start()
    await told.settled()
    found = await fabric.read(subjects.EVENTS, subject="event.>")
    assert [f"number {n}".encode() in stored.data for n, stored in zip(range(5, 15), found, strict=True)] == [True] * 10
    assert told.dropped == 5
    assert await fabric.last(subjects.NOW, "$KV.now.agent.n.a.0") is not None
    task.cancel()


async def test_an_event_whose_acknowledgement_was_lost_is_stored_once(tmp_path: Path) -> None:
    """Sent again after half a second and more: the fabric has to know its id for so long."""
    broker = RealBroker(tmp_path)
    await broker.start()
    fabric = await broker.connect()
    await fabric.ensure(*subjects.STREAMS)
    config = (await fabric._api(f"STREAM.INFO.{subjects.EVENTS}")).config
    assert config["duplicate_window"] >= 100 * publisher.RETRY_S * 1e9
    told = [await fabric.store("event.a.b", b"{}", headers={"Nats-Msg-Id": "n-b-1"}) for _ in range(2)]
    assert told[0] == told[1]
    assert len(await fabric.read(subjects.EVENTS)) == 1
    config = (await fabric._api(f"STREAM.INFO.{subjects.NOW}")).config
    assert config["duplicate_window"] < 1e9, "buckets are written much and have no ids"
    await broker.close()


# --- small things


def test_the_attempt_is_read_from_the_ack_subject() -> None:
    assert attempt("$JS.ACK.WORK_x.p2.3.9.1.0.0") == 3
    assert attempt("$JS.ACK.domain.account.WORK_x.p2.4.9.1.0.0.token") == 4
    assert attempt("rubbish") == 1


def test_orphans_are_reaped_and_watched_children_left_alone() -> None:
    text = (
        "import os, time\n"
        "from paddock.runtimes import process\n"
        "ours, orphan = os.fork() or os._exit(1), os.fork() or os._exit(2)\n"
        "os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)\n"
        "os.waitid(os.P_PID, ours, os.WEXITED | os.WNOWAIT)\n"
        "process._ours.add(ours)\n"
        "while process.reap_orphans(): pass\n"
        "assert process.reap_child(ours).code == 1\n"
        "process.reap_orphans()\n"
        "try: os.waitpid(-1, 0)\n"
        "except ChildProcessError: print('none left')\n"
    )
    out = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert out.stdout == "none left\n"


def test_a_process_is_found_by_its_environment() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"MARK": "x" * 30, "N": "5"})
    until(lambda: process.find_by_env({"MARK": "x" * 30, "N": "5"}) == child.pid, what="its environment is shown")
    assert process.find_by_env({"MARK": "x" * 30, "N": "6"}) == 0
    child.communicate(b"\n")
