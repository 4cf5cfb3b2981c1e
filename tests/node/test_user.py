"""Agents of another user than the node's: what they can do, and what is refused."""

from __future__ import annotations

import os

import msgspec

from paddock.model.agent import AgentState
from paddock.model.fleet import FleetSpec, Method

from .conftest import World, command, python

SHOW = 'id -u; touch mine && echo made; echo "[$PADDOCK_CREDS$PADDOCK_SOCKET$PADDOCK_SOCKET_TOKEN]"; exec sleep 600'
OTHER = "nobody"


async def refusal(world: World, spec: FleetSpec) -> str:
    answer = await world.ask(op="check", spec=msgspec.to_builtins(spec))
    return str(answer["error"]["message"])


async def test_a_command_of_another_user_has_its_folder_and_no_way_to_the_node(world: World) -> None:
    await world.node()
    await world.place(command("/bin/sh", "-c", SHOW, user=OTHER), "0")
    if os.geteuid() != 0:
        status = await world.agent("tool/0", lambda s: s.state is AgentState.FAILED, "refused")
        assert "only a node that runs as root" in status.reason
        return
    await world.ready("tool/0")
    await world.until(lambda: world.log("tool/0").endswith("]\n"), "it spoke")
    uid, made, secrets = world.log("tool/0").splitlines()[:3]
    assert (int(uid) != 0, made, secrets) == (True, "made", "[]")
    assert not (world.folder / "agents/tool/0/agent.creds").exists()


async def test_what_needs_the_node_is_refused_for_another_user(world: World) -> None:
    await world.node()
    expected = "only" if os.geteuid() == 0 else "only a node that runs as root"
    assert expected in await refusal(world, python(user=OTHER))
    assert expected in await refusal(world, command("true", user=OTHER, methods=[Method(name="work", args={})]))
    if os.geteuid() == 0:
        await world.place(python(user=OTHER), "0")
        status = await world.agent("crew/0", lambda s: s.state is AgentState.FAILED, "refused")
        assert "only the node's own user can reach" in status.reason
