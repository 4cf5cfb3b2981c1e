"""The difference between what is wanted and what is: kinds, texts, restarts, and no secrets."""

from __future__ import annotations

from typing import Any

import msgspec

from paddock.decide.plan import plan
from paddock.model.fleet import FleetSpec, Method, Restart
from paddock.model.manifest_build import version
from paddock.model.plan import FleetChange


def spec(name: str = "mailer", **fields: Any) -> FleetSpec:
    made = FleetSpec(name=name, runtime="exec", **{"command": ["node", "mailer.js"], **fields})
    return msgspec.structs.replace(made, version=version(made))


def change(old: FleetSpec, new: FleetSpec, running: int = 0) -> FleetChange:
    [found] = plan({new.name: new}, {old.name: old}, prune=False, running={old.name: running}).changes
    return found


def test_a_new_fleet_is_created() -> None:
    wanted = {
        "mailer": spec(replicas=3),
        "executor": FleetSpec(name="executor", runtime="python", agent="paddock.foundry:Executor"),
    }
    changes = plan(wanted, {}, prune=True, running={}).changes
    assert [(one.kind, one.text) for one in changes] == [
        ("create", "create mailer: 3 agents, exec node mailer.js"),
        ("create", "create executor: 1 agent, python paddock.foundry:Executor"),
    ]


def test_a_secret_in_a_command_is_not_told() -> None:
    found = plan({"m": spec("m", command=["m", "--password", "hunter2"])}, {}, prune=True, running={}).changes
    assert found[0].text == "create m: 1 agent, exec m --password [redacted]"


def test_the_same_fleet_is_no_change() -> None:
    found = change(spec(), spec(), running=1)
    assert (found.kind, found.text, found.fields, found.restarts) == ("none", "mailer: no change", {}, 0)


def test_methods_that_were_found_out_are_no_change() -> None:
    python = msgspec.structs.replace(spec(), runtime="python")
    known = msgspec.structs.replace(python, methods=[Method(name="send")])
    assert change(known, python).kind == "none"


def test_methods_of_a_command_are_what_is_declared_and_no_longer_declaring_them_is_a_change() -> None:
    known = spec(methods=[Method(name="send")])
    assert change(known, spec()).fields == {"methods": [msgspec.to_builtins(known.methods), None]}
    assert change(known, spec(methods=[Method(name="other")])).fields == {
        "methods": [msgspec.to_builtins(known.methods), msgspec.to_builtins([Method(name="other")])]
    }


def test_another_number_of_agents_is_a_scale_without_restarts() -> None:
    found = change(spec(replicas=1), spec(replicas=50), running=1)
    assert (found.kind, found.text, found.restarts) == ("scale", "scale mailer: 1 → 50 agents", 0)
    assert found.fields == {"replicas": [1, 50]}


def test_other_owners_are_a_scale() -> None:
    found = change(spec(owners=["ann", "bob"]), spec(owners=["ann", "cem"]))
    assert (found.kind, found.text) == ("scale", "scale mailer: 2 agents with other names")


def test_what_an_agent_is_made_of_replaces_those_that_run_and_stay() -> None:
    found = change(spec(replicas=3), spec(replicas=2, command=["node", "new.js"]), running=3)
    assert found.kind == "update"
    assert found.restarts == 2
    assert found.text == "update mailer: command, 3 → 2 agents; replaces 2 agents"
    assert found.fields["command"] == [["node", "mailer.js"], ["node", "new.js"]]


def test_fewer_running_than_wanted_means_fewer_restarts() -> None:
    assert change(spec(replicas=9), spec(replicas=9, env={"A": "1"}), running=4).restarts == 4


def test_what_applies_to_running_agents_restarts_none() -> None:
    found = change(spec(), spec(restart=Restart(max=3), capabilities=["send"]), running=1)
    assert found.text == "update mailer: capabilities, restart.max 10 → 3; no restart"
    assert found.fields == {"capabilities": [[], ["send"]], "restart.max": [10, 3]}


def test_mappings_are_compared_key_by_key() -> None:
    found = change(spec(config={"a": {"x": 1, "y": 1}}), spec(config={"a": {"x": True}, "b": None}))
    assert found.fields == {"config.a.x": [1, True], "config.a.y": [1, None], "config.b": [None, None]}


def test_long_lists_of_changes_are_cut_in_the_text_only() -> None:
    found = change(spec(), spec(env={f"V{index}": str(index) for index in range(20)}))
    assert "V5 none → 5 and 14 more; no restart" in found.text
    assert len(found.fields) == 20


def test_secrets_are_blanked_however_they_change() -> None:
    old = spec(env={"KEY": "hunter2", "OLD": "hunter2", "WAS": "hunter2"}, secret_env=["KEY", "OLD", "WAS"])
    new = spec(env={"KEY": "hunter3", "NEW": "hunter3", "WAS": "hunter3"}, secret_env=["KEY", "NEW"])
    found = plan({"mailer": new}, {"mailer": old}, prune=False, running={"mailer": 1})
    [one] = found.changes
    assert one.fields["env.KEY"] == ["(secret)", "(secret, changed)"]
    assert one.fields["env.OLD"] == ["(secret)", None]
    assert one.fields["env.NEW"] == [None, "(secret)"]
    assert one.fields["env.WAS"] == ["(secret)", "(secret, changed)"]
    assert one.restarts == 1
    assert b"hunter" not in msgspec.json.encode(found)


def test_what_is_not_wanted_goes_only_with_prune() -> None:
    current = {"b": spec("b"), "a": spec("a")}
    assert plan({}, current, prune=False, running={}).changes == []
    changes = plan({"c": spec("c")}, current, prune=True, running={"a": 2}).changes
    assert [one.text for one in changes] == [
        "create c: 1 agent, exec node mailer.js",
        "delete a: stops 2 agents",
        "delete b: stops 0 agents",
    ]
