from __future__ import annotations

import os
import signal

from paddock.model.agent import AgentState
from paddock.model.fleet import Health, Logs, Restart

from .conftest import QUICK, World, command, python, script


async def test_an_agent_that_is_wanted_becomes_ready(world: World) -> None:
    await world.node()
    await world.place(python(), "0", "1")
    status = await world.ready("crew/0")
    await world.ready("crew/1")
    assert status.node == "n1"
    assert status.restarts == 0
    assert status.health == 100
    assert (world.folder / "agents/crew/0/agent.creds").read_text() == "creds of crew/0"
    assert (world.folder / "agents/crew/0/agent.creds").stat().st_mode & 0o777 == 0o600


async def test_a_killed_agent_is_replaced_and_its_tasks_are_returned(world: World) -> None:
    await world.node()
    ack = await world.handed_out("T1")
    await world.place(python(config={"hold": {"T1": ack}}), "0")
    before = await world.ready("crew/0")
    assert before.pid is not None
    await world.until(lambda: world.nodes[0].fleets.agents["crew/0"].holds, "hold known")
    os.kill(before.pid, signal.SIGKILL)
    after = await world.ready("crew/0", after=before.epoch)
    assert after.restarts == 1
    assert after.last_exit is not None
    assert after.last_exit.reason == "killed by SIGKILL"
    assert after.last_exit.tasks == ["T1"]
    assert any("hello from" in line for line in after.last_exit.last_lines)
    assert await world.handed_out_again() == "work.x.p2.T1"
    assert (await world.event("agent.died", "crew/0")).text.endswith("died: killed by SIGKILL")
    assert (await world.event("task.returned", "T1")).data["agent"] == "crew/0"


async def test_an_agent_that_is_wanted_no_more_drains_and_is_forgotten(world: World) -> None:
    await world.node()
    await world.place(python(), "0", "1")
    await world.ready("crew/0")
    await world.ready("crew/1")
    await world.place(python(), "0")
    await world.gone("crew/1")
    assert "drained" in world.log("crew/1")
    assert (await world.ready("crew/0")).restarts == 0
    assert await world.events("agent.died", "crew/1") == []


async def test_a_hung_agent_is_replaced(world: World) -> None:
    await world.node()
    await world.place(python(config={"hang": True}, health=Health(hang_s=0.5), stop_grace_s=0.2), "0")
    before = await world.ready("crew/0")
    (world.folder / "agents/crew/0/hang").touch()
    died = await world.event("agent.died", "crew/0")
    (world.folder / "agents/crew/0/hang").unlink()
    assert died.data["reason"] == "no beat for 0.5 s: hung"
    await world.ready("crew/0", after=before.epoch)


async def test_a_process_that_will_not_die_is_killed_after_the_grace(world: World) -> None:
    await world.node()
    await world.place(python(config={"deaf": True}, stop_grace_s=0.2), "0")
    await world.ready("crew/0")
    await world.place(python(config={"deaf": True}, stop_grace_s=0.2))
    await world.gone("crew/0")
    assert "drain" in world.log("crew/0")


async def test_a_stopped_process_is_found_hung_and_replaced(world: World) -> None:
    await world.node()
    await world.place(python(health=Health(hang_s=0.4), stop_grace_s=0.2), "0")
    before = await world.ready("crew/0")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGSTOP)
    after = await world.ready("crew/0", after=before.epoch)
    assert after.last_exit is not None
    assert after.last_exit.reason == "no beat for 0.4 s: hung"
    assert after.last_exit.exit.signal == signal.SIGKILL


async def test_a_stopped_process_that_is_to_go_is_not_waited_for(world: World) -> None:
    await world.node()
    await world.place(script("import time; time.sleep(1000)", stop_grace_s=1000.0), "0")
    before = await world.ready("tool/0")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGSTOP)
    await world.ask(op="heal", agent="tool/0", action="restart", epoch=before.epoch)
    await world.ready("tool/0", after=before.epoch)


async def test_an_agent_that_is_not_ready_in_time_is_replaced(world: World) -> None:
    await world.node()
    await world.place(python(config={"mute": True}, health=Health(start_s=0.3)), "0")
    assert (await world.event("agent.died", "crew/0")).data["reason"] == "not ready within 0.3 s"


async def test_a_crash_loop_is_quarantined_and_said(world: World) -> None:
    await world.node()
    policy = Restart(max=3, window_s=60, backoff_s_min=0.01, backoff_s_max=0.02)
    spec = python(config={"die": True}, restart=policy, env={"SECRET": "hunter22"}, secret_env=["SECRET"])
    await world.place(spec, "0")
    status = await world.agent("crew/0", lambda s: s.state is AgentState.QUARANTINED, "quarantined")
    assert status.reason == "crash loop: 4 deaths in 60 s, last: exit code 3"
    assert status.last_exit is not None
    assert status.last_exit.reason == "exit code 3, before it was ready"
    assert "I die [redacted]" in status.last_exit.last_lines
    assert status.pid is None
    assert "crash loop" in (await world.event("agent.quarantined", "crew/0")).text


async def test_a_quarantine_is_lifted_by_a_restart(world: World) -> None:
    await world.node()
    policy = Restart(max=1, backoff_s_min=0.01, backoff_s_max=0.02)
    await world.place(python(config={"die": True}, restart=policy), "0")
    status = await world.agent("crew/0", lambda s: s.state is AgentState.QUARANTINED, "quarantined")
    assert (await world.ask(op="restart", agent="crew/0"))["ok"] is True
    await world.agent("crew/0", lambda s: s.epoch > status.epoch, "started again")


async def test_a_quarantine_ends_by_itself(world: World) -> None:
    await world.node()
    policy = Restart(max=0, quarantine_s=0.3)
    await world.place(python(config={"die": True}, restart=policy), "0")
    status = await world.agent("crew/0", lambda s: s.state is AgentState.QUARANTINED, "quarantined")
    await world.agent("crew/0", lambda s: s.epoch > status.epoch, "started again")


async def test_a_new_version_goes_through_the_fleet_gradually(world: World) -> None:
    await world.node()
    names = [str(number) for number in range(8)]
    await world.place(python(), *names)
    first = [await world.ready(f"crew/{name}") for name in names]
    await world.place(python(version="v2"), *names)
    for status in first:
        after = await world.ready(status.id, after=status.epoch)
        assert after.template == "v2"
        assert after.restarts == 1
    assert max(len(here.renewing) for here in world.nodes[0].fleets.fleets.values()) <= 2


async def test_a_new_version_lifts_a_quarantine(world: World) -> None:
    await world.node()
    await world.place(python(config={"die": True}, restart=Restart(max=0)), "0")
    await world.agent("crew/0", lambda s: s.state is AgentState.QUARANTINED, "quarantined")
    await world.place(python(version="v2"), "0")
    assert (await world.ready("crew/0")).template == "v2"


async def test_a_restart_that_is_asked_for_is_graceful_and_counts_no_death(world: World) -> None:
    await world.node()
    await world.place(python(), "0")
    before = await world.ready("crew/0")
    answer = await world.ask(op="restart", agent="crew/0")
    assert answer["ok"] is True
    assert answer["epoch"] > before.epoch
    await world.ready("crew/0", after=before.epoch)
    assert "drained" in world.log("crew/0")
    assert await world.events("agent.died", "crew/0") == []


async def test_a_command_is_ready_by_running_and_gets_ports(world: World) -> None:
    await world.node()
    text = "import os, time; print(os.environ['PORT'], os.environ['PORT_ADMIN'], flush=True); time.sleep(60)"
    await world.place(script(text, ports=["port", "admin"]), "a")
    status = await world.ready("tool/a")
    assert set(status.ports) == {"port", "admin"}
    ports = f"{status.ports['port']} {status.ports['admin']}"
    await world.until(lambda: ports in world.log("tool/a"), "ports in its environment")
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)
    assert (await world.ready("tool/a", after=status.epoch)).ports == status.ports


async def test_a_command_that_does_not_exist_fails_with_one_sentence(world: World) -> None:
    await world.node()
    await world.place(command("no-such-command-here"), "0")
    status = await world.agent("tool/0", lambda s: s.state is AgentState.FAILED, "failed")
    assert status.reason == "fleet tool: command 'no-such-command-here' was not found in PATH"


async def test_a_command_that_ends_at_once_was_never_ready(world: World) -> None:
    await world.node(alive_s=0.5)
    await world.place(script("raise SystemExit(3)"), "0")
    assert "exit code 3" in (await world.event("agent.died", "tool/0")).text
    assert await world.events("agent.ready", "tool/0") == []
    await world.place(script("import time; time.sleep(1000)", version="2"), "0")
    found = await world.ready("tool/0")
    ready = await world.event("agent.ready", "tool/0")
    assert ready.at - found.started_at >= 0.5


async def test_a_probe_makes_ready_and_its_failures_replace(world: World) -> None:
    await world.node()
    text = (
        "import http.server, os, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(500 if os.path.exists('ill') else 200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    spec = script(text, ports=["port"], health=Health(http="http://127.0.0.1:{port}/health", every_s=0.05, fails=3))
    spec.command.append("{port}")
    await world.place(spec, "0")
    before = await world.ready("tool/0")
    (world.folder / "agents/tool/0/ill").touch()
    died = await world.event("agent.died", "tool/0")
    assert "health probe failed 3 times in a row" in died.data["reason"]
    (world.folder / "agents/tool/0/ill").unlink()
    await world.ready("tool/0", after=before.epoch)


async def test_a_command_that_ends_well_is_done_when_its_mode_is_on_failure(world: World) -> None:
    await world.node()
    await world.place(script("print('done')", restart=Restart(mode="on-failure")), "0")
    status = await world.agent("tool/0", lambda s: s.state is AgentState.STOPPED, "stopped")
    assert "ended with exit code 0" in status.reason


async def test_the_node_stops_its_agents_in_order_when_told_so(world: World) -> None:
    node = await world.node()
    await world.place(python("base"), "0")
    await world.place(python("upper", depends_on=["base"]), "0")
    base, upper = await world.ready("base/0"), await world.ready("upper/0")
    await node.stop(agents=True)
    world.nodes.clear()
    stopped = {agent: (await world.events("agent.stopped", agent))[-1].at for agent in ("base/0", "upper/0")}
    assert stopped["upper/0"] <= stopped["base/0"]
    for status in (base, upper):
        assert not os.path.exists(f"/proc/{status.pid}")
        assert "drained" in world.log(status.id)
        assert (await world.agent(status.id, lambda s: s.state is AgentState.STOPPED, "stopped")).pid is None
    await world.node()
    for status in (base, upper):
        await world.ready(status.id, after=status.epoch)


async def test_an_agent_that_fills_its_stdout_fills_no_disk(world: World) -> None:
    node = await world.node()
    text = "import time\nwhile True: print('y' * 65535, flush=True); time.sleep(0.001)"
    await world.place(script(text, logs=Logs(max_bytes=100_000, keep=2), restart=QUICK), "0")
    await world.ready("tool/0")
    path = world.folder / "agents/tool/0"
    await world.until(lambda: (path / "agent.log.2").exists(), "rotated twice")
    assert not (path / "agent.log.3").exists()
    answer = await world.ask(op="logs", agent="tool/0", lines=2)
    assert answer["text"].count("\n") <= 2
    assert node.status().agents == 1
