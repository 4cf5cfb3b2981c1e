"""What a node does for the health of its agents: measures, heals as it is asked, and stops what dies alike."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import msgspec

from paddock.fabric import subjects
from paddock.model.agent import AgentState
from paddock.model.fleet import FleetSpec, Health, Limits, Restart
from paddock.model.health import Probe, Vitals
from paddock.model.policy import Policy, Storm
from paddock.node import folders
from paddock.ports.fabric import Message

from .conftest import QUICK, World, python, script

RUNS = "import time\nprint('up', flush=True)\ntime.sleep(1000)"
SERVES = (
    "import http.server, os, sys\n"
    "class H(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(500 if os.path.exists('ill') else 200); self.end_headers()\n"
    "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n"
)


class Told:
    """All vitals that a node tells."""

    def __init__(self, world: World) -> None:
        self.all: list[Vitals] = []
        world.server.subscribe(subjects.vitals("n1"), self._take)

    def _take(self, message: Message) -> None:
        self.all += msgspec.json.decode(message.data, type=list[Vitals])

    def last(self, agent: str) -> Vitals | None:
        return next((vitals for vitals in reversed(self.all) if vitals.id == agent), None)

    def probe(self, agent: str, name: str) -> Any:
        last = self.last(agent)
        return last.probes.get(name) if last is not None else None


def probed(*probes: Probe, text: str = RUNS, **settings: Any) -> FleetSpec:
    return script(text, health=Health(probes=list(probes)), **settings)


def http(name: str = "page", **fields: Any) -> Probe:
    fields = {"every_s": 0.2, "timeout_s": 5.0, "fails": 2, **fields}
    return Probe(name=name, kind="http", url="http://127.0.0.1:{port}/", **fields)


async def heal(world: World, agent: str, action: str, epoch: int) -> dict[str, Any]:
    return await world.ask(op="heal", agent=agent, action=action, epoch=epoch, incident=17)


def folder(world: World, agent: str = "tool/0") -> Path:
    return world.folder / "agents" / agent


# --- measuring


async def test_what_is_measured_of_a_process_is_told(world: World) -> None:
    told = Told(world)
    node = await world.node()
    await world.place(script(RUNS, limits=Limits(open_files=100)), "0")
    await world.place(python(), "0")
    tool, crew = await world.ready("tool/0"), await world.ready("crew/0")
    vitals = await world.until(lambda: told.last("tool/0"), "vitals of a command")
    assert (vitals.epoch, vitals.linked) == (tool.epoch, None)
    assert vitals.open_files > 0
    assert vitals.threads == 1
    agent = node.fleets.agents["tool/0"]
    # The first look may come before the new program has touched a page.
    await world.until(lambda: (seen := agent.vitals(0.0)) and seen.memory_bytes > 1_000_000, "it uses memory")
    await world.until(lambda: (seen := agent.vitals(0.0)) and seen.cpus >= 0, "it uses the processor, or not")
    vitals = await world.until(lambda: told.last("crew/0"), "vitals of an agent")
    assert (vitals.epoch, vitals.linked) == (crew.epoch, True)
    assert vitals.beat_age_share < 1


async def test_a_failed_liveness_probe_is_told_at_once_and_the_node_replaces_nobody(world: World) -> None:
    told = Told(world)
    await world.node()
    await world.place(probed(http(), text=SERVES, ports=["port"]), "0")
    before = await world.ready("tool/0")
    await world.until(lambda: (fact := told.probe("tool/0", "page")) and not fact.fails, "it passes")
    (folder(world) / "ill").touch()
    fact = await world.until(lambda: (fact := told.probe("tool/0", "page")) and fact.fails >= 2 and fact, "it failed")
    assert (fact.limit, fact.phase) == (2, "liveness")
    assert "answered 500" in fact.text
    (folder(world) / "ill").unlink()
    await world.until(lambda: (fact := told.probe("tool/0", "page")) and not fact.fails, "it passes again")
    assert await world.status("tool/0") == before


async def test_a_failed_readiness_probe_degrades_until_it_passes(world: World) -> None:
    await world.node()
    probe = Probe(name="mark", kind="exec", command=["test", "-f", "mark"], phase="readiness", every_s=0.2, fails=2)
    await world.place(probed(probe), "0")
    found = await world.agent("tool/0", lambda s: s.state is AgentState.DEGRADED, "degraded")
    assert found.reason == "its probe mark failed: test ended with 1"
    (folder(world) / "mark").touch()
    assert (await world.ready("tool/0")).epoch == found.epoch


async def test_an_agent_is_not_ready_before_its_startup_probe_passes_and_is_then_asked_no_more(world: World) -> None:
    node = await world.node()
    text = "touch asked; test -f mark"
    probe = Probe(name="warm", kind="exec", command=["sh", "-c", text], phase="startup", every_s=0.1)
    await world.place(probed(probe), "0")
    await world.until(lambda: (folder(world) / "asked").exists(), "it was asked")
    starting = await world.agent("tool/0", lambda s: s.pid is not None, "started")
    assert starting.state is AgentState.STARTING
    (folder(world) / "mark").touch()
    ready = await world.ready("tool/0")
    (folder(world) / "mark").unlink()
    await world.crash(node)
    await world.node()
    assert (await world.ready("tool/0")).epoch == ready.epoch, "a new node does not ask again, either"


async def test_one_that_does_not_pass_its_startup_probe_in_time_says_which(world: World) -> None:
    await world.node()
    probe = Probe(name="warm", kind="tcp", url="127.0.0.1:{port}", phase="startup", every_s=0.1)
    spec = script(RUNS, ports=["port"], restart=QUICK, health=Health(start_s=1.0, probes=[probe]))
    await world.place(spec, "0")
    died = await world.event("agent.died", "tool/0")
    assert died.data["reason"].startswith("not ready within 1 s; its probe warm: 127.0.0.1:")
    assert died.data["probes"]


async def test_other_probes_for_a_running_agent_take_effect_on_it(world: World) -> None:
    told = Told(world)
    await world.node()
    await world.place(script(RUNS), "0")
    before = await world.ready("tool/0")
    probe = Probe(name="memory", kind="metric", metric="memory_bytes", above=1.0, every_s=0.2, fails=1)
    log = Probe(name="log", kind="log", match="up", every_s=0.2)
    await world.place(probed(probe, log), "0")
    await world.until(lambda: (fact := told.probe("tool/0", "memory")) and fact.fails >= 1, "it uses too much")
    await world.until(lambda: (fact := told.probe("tool/0", "log")) and not fact.fails, "what is old does not count")
    with (folder(world) / "agent.log").open("a") as file:
        file.write("going up in flames\n")
    await world.until(lambda: any(v.probes["log"].fails for v in told.all if "log" in v.probes), "its log failed")
    assert (await world.ready("tool/0")).pid == before.pid


async def test_who_was_replaced_for_a_failed_health_http_has_the_reason_in_its_evidence(world: World) -> None:
    await world.node()
    health = Health(http="http://127.0.0.1:{port}/", every_s=0.1, fails=2)
    await world.place(script(SERVES, ports=["port"], health=health), "0")
    await world.ready("tool/0")
    (folder(world) / "ill").touch()
    died = await world.event("agent.died", "tool/0")
    assert "answered 500" in died.data["reason"]
    assert [text for text in died.data["probes"] if text.startswith("health.http: ") and "answered 500" in text]
    (folder(world) / "ill").unlink()


# --- healing


async def test_the_node_says_what_each_runtime_offers(world: World) -> None:
    node = await world.node()
    actions = node.status().attributes["actions"]
    assert actions["exec"] == ["restart", "restart-clean", "redeploy"]
    assert set(actions["exec"]) < set(actions["python"])


async def test_a_restart_is_done_once_however_often_it_is_asked_for(world: World) -> None:
    await world.node()
    await world.place(script(RUNS), "0")
    before = await world.ready("tool/0")
    first = await heal(world, "tool/0", "restart", before.epoch)
    assert (first["ok"], first["detail"]) == (True, "restart: begun")
    after = await world.ready("tool/0", after=before.epoch)
    again = await heal(world, "tool/0", "restart", before.epoch)
    assert (again["ok"], again["detail"]) == (True, "already a newer incarnation")
    assert await world.status("tool/0") == after


async def test_a_clean_restart_has_an_empty_folder_and_keeps_the_last_three(world: World) -> None:
    await world.node()
    await world.place(script(RUNS), "0")
    status = await world.ready("tool/0")
    epochs = []
    for number in range(5):
        await world.until(lambda: "up" in world.log("tool/0"), "it is up")
        (folder(world) / "cache").write_text(str(number))
        epochs.append(status.epoch)
        await heal(world, "tool/0", "restart-clean", status.epoch)
        status = await world.ready("tool/0", after=status.epoch)
        assert not (folder(world) / "cache").exists()
    kept = folders.kept(str(folder(world)))
    assert [path.name for path in kept] == [f"0.kept-{epoch}" for epoch in reversed(epochs[-3:])]
    assert (kept[0] / "cache").read_text() == "4"
    assert "up" in (kept[0] / "agent.log").read_text()


async def test_a_redeployed_agent_has_another_port_and_another_image(world: World) -> None:
    await world.node()
    await world.place(python(ports=["port"]), "0", "1")
    before, other = await world.ready("crew/0"), await world.ready("crew/1")
    parent = _parent(before.pid)
    await heal(world, "crew/0", "redeploy", before.epoch)
    after = await world.ready("crew/0", after=before.epoch)
    assert after.ports["port"] != before.ports["port"]
    assert _parent(after.pid) != parent
    assert (await world.ready("crew/1")).pid == other.pid, "what else came from the old image goes on"
    await heal(world, "crew/1", "redeploy", other.epoch)
    assert _parent((await world.ready("crew/1", after=other.epoch)).pid) == _parent(after.pid), "it is new enough"


async def test_an_action_that_was_begun_goes_on_when_the_node_dies_before_it_is_done(world: World) -> None:
    node = await world.node()
    await world.place(python(config={"deaf": True}, stop_grace_s=30.0), "0")
    before = await world.ready("crew/0")
    (folder(world, "crew/0") / "cache").touch()
    assert (await heal(world, "crew/0", "restart-clean", before.epoch))["ok"]
    await world.agent("crew/0", lambda s: s.state is AgentState.DRAINING, "draining")
    await world.crash(node)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    node = await world.node()
    await world.ready("crew/0", after=before.epoch)
    assert not (folder(world, "crew/0") / "cache").exists()
    assert (world.folder / f"agents/crew/0.kept-{before.epoch}/cache").exists()
    await world.place(python(config={"deaf": True}, stop_grace_s=0.3), "0")
    agent = node.fleets.agents["crew/0"]
    await world.until(lambda: agent.running.stop_grace_s == 0.3, "it may be stopped sooner")


async def test_a_node_that_died_before_it_stopped_the_agent_stops_it_afterwards(world: World) -> None:
    node = await world.node()
    await world.place(python(config={"deaf": True}, stop_grace_s=0.3), "0")
    before = await world.ready("crew/0")
    agent = node.fleets.agents["crew/0"]
    agent.row = msgspec.structs.replace(agent.row, mend="restart-clean")  # as far as the journal, and no further
    agent._save()
    await world.crash(node)
    await world.node()
    await world.ready("crew/0", after=before.epoch)


async def test_an_agent_is_told_what_it_must_do_itself(world: World) -> None:
    node = await world.node()
    await world.place(python(), "0")
    before = await world.ready("crew/0")
    for action, word in (("reset-connection", "reset"), ("redistribute", "rest"), ("degrade", "degrade")):
        for _ in range(2):
            assert (await heal(world, "crew/0", action, before.epoch))["ok"]
        await world.until(lambda word=word: f'"op":"{word}"' in world.log("crew/0"), f"told to {word}")
    degraded = await world.agent("crew/0", lambda s: s.state is AgentState.DEGRADED, "degraded")
    assert degraded.epoch == before.epoch
    assert "takes no more work" in degraded.reason
    assert "does less" in degraded.reason
    await heal(world, "crew/0", "restart", before.epoch)
    assert (await world.ready("crew/0", after=before.epoch)).reason == ""
    assert node.status().agents == 1


async def test_what_cannot_be_done_is_refused_in_words(world: World) -> None:
    await world.node()
    await world.place(script(RUNS), "0")
    await world.place(python(config={"silent": True}), "0")
    before = await world.ready("tool/0")
    silent = await world.agent("crew/0", lambda s: s.pid is not None, "running")
    for agent, action, epoch, words in (
        ("tool/0", "degrade", before.epoch, "nothing that runtime 'exec' offers"),
        ("tool/0", "reboot", before.epoch, "nothing that runtime 'exec' offers"),
        ("tool/0", "pray", before.epoch, "action 'pray' is none of restart"),
        ("tool/9", "restart", 1, "not on this node"),
        ("crew/0", "degrade", silent.epoch, "does not speak to its node"),
    ):
        answer = await heal(world, agent, action, epoch)
        assert not answer["ok"]
        assert words in answer["error"]["message"]
    assert await world.status("tool/0") == before


async def test_healing_lifts_a_quarantine(world: World) -> None:
    await world.node()
    text = "import os, sys, time\nif not os.path.exists('good'): sys.exit(3)\ntime.sleep(1000)"
    await world.place(script(text, restart=Restart(max=1, backoff_s_min=0.01, backoff_s_max=0.02)), "0")
    found = await world.agent("tool/0", lambda s: s.state is AgentState.QUARANTINED, "quarantined")
    (folder(world) / "good").touch()
    assert (await heal(world, "tool/0", "restart", found.epoch))["ok"]
    await world.ready("tool/0", after=found.epoch)


# --- storms

BAD = (
    "import os, sys, time\n"
    "if not os.path.exists(sys.argv[1]): sys.exit('ValueError: no table prices')\n"
    "time.sleep(1000)"
)
POLICY = Policy(storm=Storm(failures=3))


def bad(world: World, version: str = "bad", **settings: Any) -> FleetSpec:
    settings = {"restart": Restart(stable_s=0.5, max=100, backoff_s_min=0.05), "policy": POLICY, **settings}
    spec = script(BAD, version=version, **settings)
    spec.command.append(str(world.folder / "good"))
    return spec


NAMES = [str(number) for number in range(6)]


async def held(world: World) -> None:
    for name in NAMES:
        found = await world.agent(f"tool/{name}", lambda s: s.state is AgentState.QUARANTINED, "held")
        assert found.reason.startswith("common cause: ")


async def test_a_release_that_dies_everywhere_alike_is_held_and_a_stable_canary_lets_all_start(world: World) -> None:
    node = await world.node()
    await world.place(bad(world), *NAMES)
    event = await world.event("node.held", "tool")
    assert len(event.data["agents"]) == 3
    assert event.data["version"] == "bad"
    assert "no table prices" in event.data["signature"]
    await held(world)
    (world.folder / "good").touch()
    for name in NAMES:
        await world.ready(f"tool/{name}")
    assert len(await world.events("node.held", "tool")) == 1
    released = await world.event("node.released", "tool")
    assert "is stable" in released.text
    assert node.fleets.agents["tool/0"].reason == ""


async def test_a_fleet_of_two_that_cannot_start_is_held_at_the_second_death(world: World) -> None:
    await world.node()
    await world.place(bad(world), "0", "1")
    event = await world.event("node.held", "tool")
    assert sorted(event.data["agents"]) == ["tool/0", "tool/1"]
    (world.folder / "good").touch()
    for name in ("0", "1"):
        await world.ready(f"tool/{name}")


async def test_a_new_version_releases_at_once(world: World) -> None:
    await world.node()
    await world.place(bad(world), *NAMES)
    await held(world)
    await world.place(script(RUNS, version="good", policy=POLICY), *NAMES)
    for name in NAMES:
        await world.ready(f"tool/{name}")
    assert "another version" in (await world.event("node.released", "tool")).text


async def test_one_that_a_person_heals_is_started_whatever_the_others_die_of(world: World) -> None:
    await world.node()
    restart = Restart(stable_s=1000.0, max=100, backoff_s_min=0.05)
    await world.place(bad(world, restart=restart), *NAMES)
    await held(world)
    (world.folder / "good").touch()
    found = await world.status("tool/5")
    assert found is not None
    assert (await heal(world, "tool/5", "restart", found.epoch))["ok"]
    await world.ready("tool/5")


async def test_what_cannot_be_started_is_held_too(world: World) -> None:
    await world.node()
    await world.place(bad(world, cwd=str(world.folder / "not-there")), *NAMES)
    await held(world)
    (world.folder / "not-there").mkdir()
    (world.folder / "good").touch()
    for name in NAMES:
        await world.ready(f"tool/{name}")


async def test_who_is_killed_from_outside_comes_back_at_once(world: World) -> None:
    await world.node()
    await world.place(script(RUNS, policy=POLICY), *NAMES)
    for number in (signal.SIGKILL, signal.SIGTERM):
        before = [await world.ready(f"tool/{name}") for name in NAMES]
        for status in before:
            assert status.pid is not None
            os.kill(status.pid, number)
        for status in before:
            await world.ready(status.id, after=status.epoch)
    assert await world.events("node.held", "tool") == []


async def test_a_hold_of_which_nobody_is_left_is_over(world: World) -> None:
    await world.node()
    await world.place(bad(world), *NAMES)
    dead = (await world.event("node.held", "tool")).data["agents"]
    await held(world)
    await world.place(bad(world), "9")
    await world.event("node.released", "tool")
    assert len(dead) == 3
    (world.folder / "good").touch()
    await world.ready("tool/9")


def _parent(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


LATE = "import sys, time\ntime.sleep(0.3 if sys.argv[1] == 'bad' else 1000)\nsys.exit('ValueError: no table prices')"
"""Ready, and dead soon after."""


def late(version: str, **settings: Any) -> FleetSpec:
    settings = {"restart": Restart(stable_s=5.0, max=100, backoff_s_min=0.05), "policy": POLICY, **settings}
    spec = script(LATE, version=version, **settings)
    spec.command.append(version)
    return spec


async def test_a_release_that_dies_soon_after_it_was_ready_goes_to_a_quarter_and_no_further(world: World) -> None:
    node = await world.node()
    names = [str(number) for number in range(12)]
    await world.place(late("good"), *names)
    before = {name: await world.ready(f"tool/{name}") for name in names}
    await world.place(late("bad"), *names)
    dead = (await world.event("node.held", "tool")).data["agents"]
    assert len(dead) == 3
    canary = node.fleets.agents[dead[0]]
    begun = canary.row.epoch
    await world.until(lambda: canary.row.epoch > begun and canary.live is None, "a canary died")
    well = [status for status in before.values() if status.id not in dead]
    assert [await world.status(status.id) for status in well] == well

    await world.place(late("good"), *names)
    for agent in dead:
        await world.ready(agent)
    assert [await world.status(status.id) for status in well] == well


async def test_a_release_that_was_held_and_is_mended_goes_through_the_fleet(world: World) -> None:
    await world.node()
    names = [str(number) for number in range(12)]
    await world.place(script(RUNS, version="old", policy=POLICY), *names)
    before = [await world.ready(f"tool/{name}") for name in names]
    await world.place(bad(world), *names)
    await world.event("node.held", "tool")
    (world.folder / "good").touch()
    for status in before:
        assert (await world.ready(status.id, after=status.epoch)).template == "bad"
    assert "is stable" in (await world.event("node.released", "tool")).text


async def test_a_release_need_not_reach_three_agents_to_be_held(world: World) -> None:
    """A quarter of eight are two, and the rollout waits for them."""
    await world.node()
    names = [str(number) for number in range(8)]
    await world.place(script(RUNS, version="old", policy=POLICY), *names)
    for name in names:
        await world.ready(f"tool/{name}")
    await world.place(bad(world), *names)
    assert len((await world.event("node.held", "tool")).data["agents"]) == 2
