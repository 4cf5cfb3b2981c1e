"""What the routes answer when all is well."""

from __future__ import annotations

import asyncio

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from paddock.model.agent import AgentState, AgentStatus
from paddock.model.plan import Plan
from paddock.model.task import TaskFailure, TaskView
from paddock.testing.control import FakeControl

from .helpers import turn_until

TASK = {"fleet": "critic", "method": "review", "args": {"source": "x = 1"}}


async def test_agents_come_in_pages_that_join_without_gap_or_double(http: httpx.AsyncClient) -> None:
    seen: list[str] = []
    after = ""
    for _ in range(10):
        page = (await http.get("/api/v1/agents", params={"limit": 2, "after": after})).json()
        seen += [agent["id"] for agent in page["items"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert seen == ["critic/0", "critic/1", "executor/0", "executor/1", "executor/2"]


async def test_agents_are_filtered_by_fleet_and_state(http: httpx.AsyncClient, control: FakeControl) -> None:
    control.set_state("executor/1", AgentState.FAILED)
    page = (await http.get("/api/v1/agents", params={"fleet": "executor", "state": "failed"})).json()
    assert [agent["id"] for agent in page["items"]] == ["executor/1"]


async def test_one_agent_is_the_whole_struct(http: httpx.AsyncClient, control: FakeControl) -> None:
    answer = await http.get("/api/v1/agents/critic/0")
    assert answer.headers["content-type"] == "application/json"
    assert msgspec.json.decode(answer.content, type=AgentStatus) == control.agent("critic/0")


async def test_a_restart_is_done_in_the_name_of_who_asked(http: httpx.AsyncClient, control: FakeControl) -> None:
    answer = await http.post("/api/v1/agents/critic/0/restart", headers={"Paddock-By": "cli:anna"})
    assert answer.json()["restarts"] == 1
    assert control.happened[-1].event.by == "cli:anna"


async def test_who_does_not_say_a_name_is_the_api(http: httpx.AsyncClient, control: FakeControl) -> None:
    await http.post("/api/v1/agents/critic/0/restart")
    assert control.happened[-1].event.by == "api"


async def test_the_log_gives_the_last_lines_and_goes_on_from_an_offset(
    http: httpx.AsyncClient, control: FakeControl
) -> None:
    await control.say("one\ntwo\nthree\n")
    first = (await http.get("/api/v1/agents/critic/0/logs", params={"lines": 2})).json()
    assert first == {"text": "two\nthree\n", "offset": 14}
    asking = asyncio.create_task(http.get("/api/v1/agents/critic/0/logs", params={"offset": 14, "wait_s": 60}))
    await turn_until(lambda: control.waiters)
    await control.say("four\n")
    assert (await asking).json() == {"text": "four\n", "offset": 19}


async def test_fleets_are_listed_scaled_and_deleted(http: httpx.AsyncClient) -> None:
    assert [fleet["name"] for fleet in (await http.get("/api/v1/fleets")).json()["items"]] == ["critic", "executor"]
    assert (await http.post("/api/v1/fleets/critic/scale", json={"replicas": 5})).json()["wanted"] == 5
    assert (await http.get("/api/v1/fleets/critic")).json()["ready"] == 5
    gone = await http.delete("/api/v1/fleets/critic")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await http.get("/api/v1/fleets/critic")).status_code == 404


async def test_a_manifest_is_planned_and_then_applied(http: httpx.AsyncClient, control: FakeControl) -> None:
    body = {"manifests": [{"name": "a.yaml", "text": "paddock: 1", "folder": "/srv"}]}
    plan = msgspec.json.decode((await http.post("/api/v1/plan", json=body)).content, type=Plan)
    assert [change.text for change in plan.changes] == ["create demo from a.yaml"]
    assert "demo" not in control.specs
    assert (await http.post("/api/v1/apply", json=body | {"prune": True})).json()["applied"] is True
    assert "demo" in control.specs


async def test_a_task_is_accepted_with_the_place_to_ask_for_it(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/tasks", json=TASK)
    assert answer.status_code == 202
    view = msgspec.json.decode((await http.get(answer.headers["location"])).content, type=TaskView)
    assert (view.id, view.args, view.submitted_by) == (answer.json()["id"], TASK["args"], "api")


async def test_a_submit_that_waits_answers_200_with_the_result(http: httpx.AsyncClient, control: FakeControl) -> None:
    asking = asyncio.create_task(http.post("/api/v1/tasks", params={"wait_s": 60}, json=TASK))
    await turn_until(lambda: control.waiters)
    await control.finish("t1", {"findings": []})
    answer = await asking
    assert (answer.status_code, answer.json()["result"]) == (200, {"findings": []})
    assert answer.headers["location"] == "/api/v1/tasks/t1"


async def test_a_wait_that_ends_first_answers_202_with_the_task_as_it_is(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/tasks", params={"wait_s": 0.01}, json=TASK)
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")


async def test_a_wait_ends_when_the_server_stops(http: httpx.AsyncClient, control: FakeControl, app: FastAPI) -> None:
    asking = asyncio.create_task(http.post("/api/v1/tasks", params={"wait_s": 300}, json=TASK))
    await turn_until(lambda: control.waiters)
    app.state.stopping.set()
    answer = await asking
    assert (answer.status_code, answer.json()["state"], control.waiters) == (202, "queued", 0)


async def test_asking_for_a_task_can_wait_for_its_failure(http: httpx.AsyncClient, control: FakeControl) -> None:
    await http.post("/api/v1/tasks", json=TASK)
    asking = asyncio.create_task(http.get("/api/v1/tasks/t1", params={"wait_s": 60}))
    await turn_until(lambda: control.waiters)
    await control.finish("t1", error=TaskFailure(code="task-failed", message="no"))
    answer = await asking
    assert (answer.status_code, answer.json()["error"]) == (200, {"code": "task-failed", "message": "no"})


@pytest.mark.parametrize("header", ["same", '"same"'])
async def test_the_same_idempotency_key_is_the_same_task(http: httpx.AsyncClient, header: str) -> None:
    first = await http.post("/api/v1/tasks", json=TASK | {"key": "same"})
    again = await http.post("/api/v1/tasks", json=TASK, headers={"Idempotency-Key": header})
    assert first.json()["id"] == again.json()["id"]


async def test_tasks_are_listed_newest_first_in_pages(http: httpx.AsyncClient) -> None:
    for _ in range(3):
        await http.post("/api/v1/tasks", json=TASK)
    page = (await http.get("/api/v1/tasks", params={"fleet": "critic", "state": "queued", "limit": 2})).json()
    assert [task["id"] for task in page["items"]] == ["t3", "t2"]
    rest = (await http.get("/api/v1/tasks", params={"limit": 2, "after": page["next"]})).json()
    assert ([task["id"] for task in rest["items"]], rest["next"]) == (["t1"], None)


async def test_a_task_is_cancelled_and_replayed_as_a_new_one(http: httpx.AsyncClient) -> None:
    await http.post("/api/v1/tasks", json=TASK)
    assert (await http.post("/api/v1/tasks/t1/cancel")).json()["state"] == "cancelled"
    again = await http.post("/api/v1/tasks/t1/replay")
    assert (again.status_code, again.json()["id"], again.headers["location"]) == (202, "t2", "/api/v1/tasks/t2")


async def test_heal_restarts_the_failed_and_the_quarantined(http: httpx.AsyncClient, control: FakeControl) -> None:
    control.set_state("executor/1", AgentState.FAILED)
    control.set_state("critic/1", AgentState.QUARANTINED)
    assert (await http.post("/api/v1/heal")).json() == {"healed": ["critic/1", "executor/1"]}


async def test_channels_are_tried_all_or_one(http: httpx.AsyncClient) -> None:
    chat = {"channel": "chat", "ok": False, "text": "chat answered 503"}
    all_of_them = await http.post("/api/v1/alerts/test")
    assert all_of_them.json() == {"items": [{"channel": "mail", "ok": True, "text": ""}, chat]}
    assert (await http.post("/api/v1/alerts/test", json={"channel": "chat"})).json() == {"items": [chat]}
    assert (await http.post("/api/v1/alerts/test", json={"channel": "pager"})).status_code == 404
    assert (await http.post("/api/v1/alerts/test", json={"chanel": "chat"})).status_code == 422


async def test_history_and_nodes_are_lists(http: httpx.AsyncClient) -> None:
    await http.post("/api/v1/agents/critic/0/restart")
    await http.post("/api/v1/fleets/critic/scale", json={"replicas": 1})
    page = (await http.get("/api/v1/history", params={"kind": "agent."})).json()
    assert [item["event"]["about"] for item in page["items"]] == ["critic/0"]
    assert [node["id"] for node in (await http.get("/api/v1/nodes")).json()["items"]] == ["n1"]


async def test_alive_and_ready_need_no_token(http: httpx.AsyncClient, control: FakeControl) -> None:
    del http.headers["Authorization"]
    assert (await http.get("/healthz")).json() == {"status": "ok", "version": "1.2.3"}
    assert (await http.get("/readyz")).json()["ready"] is True
    control.parts["record"] = "the database does not answer"
    bad = await http.get("/readyz")
    assert (bad.status_code, bad.json()["parts"]["record"]) == (503, "the database does not answer")
    assert (await http.get("/healthz")).status_code == 200


async def test_the_cluster_routes_answer_as_operators_know_them(http: httpx.AsyncClient, control: FakeControl) -> None:
    control.set_state("executor/0", AgentState.QUARANTINED)
    assert (await http.get("/api/cluster/status")).json() == (await http.get("/status")).json()
    live = (await http.get("/api/cluster/agents/live")).json()
    assert (live["count"], len(live["agents"])) == (4, 4)
    control.care.add_score("critic/1", 12)
    assert (await http.post("/api/cluster/heal", json={"agent": "critic/1"})).json() == {"healed": ["critic/1"]}
    assert [(held.about, held.steps[0].action) for held in control.care.book.values()] == [("critic/1", "restart")]
    assert (await http.post("/api/cluster/heal")).json() == {"healed": ["executor/0"]}


@pytest.mark.parametrize(
    "body",
    [
        {"agent_type": "executor", "task": "run", "payload": {"code": "1"}},
        {"fleet": "executor", "method": "run", "args": {"code": "1"}, "priority": 1},
        {"agent": "executor", "task_type": "run", "params": {"code": "1"}, "priority": "high"},
        {"agent": "executor/0", "method": "run", "args": {"code": "1"}, "timeout": 5},
    ],
)
async def test_older_ways_to_submit_mean_the_same(http: httpx.AsyncClient, body: dict[str, object]) -> None:
    answer = await http.post("/api/cluster/task/submit", json=body)
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    task = (await http.get(f"/api/cluster/task/{answer.json()['task_id']}")).json()["task"]
    assert (task["fleet"], task["method"], task["args"]) == ("executor", "run", {"code": "1"})
