from __future__ import annotations

import asyncio

import msgspec

from paddock.fabric import subjects
from paddock.model.fleet import Method

from .conftest import World, command, script


async def test_logs_are_told_from_the_end_and_followed(world: World) -> None:
    await world.node()
    text = "import time; print('one hunter22', flush=True); input() if 0 else time.sleep(600)"
    await world.place(script(text, env={"P": "hunter22"}, secret_env=["P"]), "0")
    await world.ready("tool/0")
    await world.until(lambda: "one" in world.log("tool/0"), "its output")
    answer = await world.ask(op="logs", agent="tool/0", lines=50)
    assert answer["text"] == "one ***\n"
    following = asyncio.ensure_future(world.ask(op="logs", agent="tool/0", offset=answer["offset"], wait_s=20))
    await asyncio.sleep(0)
    with (world.folder / "agents/tool/0/agent.log").open("a") as file:
        file.write("two\n")
    assert (await following)["text"] == "two\n"


async def test_a_template_is_checked(world: World) -> None:
    await world.node()
    good = command("true", methods=[Method(name="m")])
    assert (await world.ask(op="check", spec=msgspec.to_builtins(good)))["methods"][0]["name"] == "m"
    answer = await world.ask(op="check", spec=msgspec.to_builtins(command("no-such-command")))
    assert answer["error"]["code"] == "template-broken"
    assert "was not found in PATH" in answer["error"]["message"]
    assert (await world.ask(op="check"))["error"]["message"] == "op check needs a spec"


async def test_bad_requests_are_answered_with_what_is_wrong(world: World) -> None:
    await world.node()
    assert (await world.ask(op="restart", agent="no/one"))["error"]["code"] == "not-found"
    assert "none of cancel, check" in (await world.ask(op="dance"))["error"]["message"]
    assert (await world.ask(op=5))["error"]["code"] == "refused"
    reply = await world.server.request(subjects.node_op("n1"), b"\xff{")
    assert msgspec.json.decode(reply.data)["error"]["code"] == "refused"


async def test_of_all_nodes_only_the_one_that_has_the_agent_answers(world: World) -> None:
    await world.node()
    await world.place(script("import time; time.sleep(600)"), "0")
    await world.ready("tool/0")
    reply = await world.server.request(subjects.node_op("all"), b'{"op":"logs","agent":"tool/0"}')
    assert msgspec.json.decode(reply.data)["ok"] is True
    silent = asyncio.ensure_future(
        world.server.request(subjects.node_op("all"), b'{"op":"logs","agent":"tool/9"}', timeout_s=0.2)
    )
    (outcome,) = await asyncio.gather(silent, return_exceptions=True)
    assert isinstance(outcome, Exception)


async def test_the_node_tells_its_own_status(world: World) -> None:
    node = await world.node()
    stored = await world.until_told(lambda: world.server.last(subjects.NOW, "$KV.now.node.n1"), "its status")
    status = msgspec.json.decode(stored.data)
    assert status["id"] == "n1"
    assert status["cpus"] > 0
    assert status["memory_bytes"] > 0
    assert status["attributes"]["limits"] == node._limiter.kind


async def test_a_placement_that_cannot_be_read_changes_nothing(world: World) -> None:
    node = await world.node()
    await world.place(script("import time; time.sleep(600)"), "0")
    before = await world.ready("tool/0")
    await world.server.store("$KV.wanted.place.n1.tool", b"{broken")
    await world.place(script("import time; time.sleep(600)", name="other"), "0")
    await world.ready("other/0")
    assert node.fleets.agents["tool/0"].row.epoch == before.epoch
