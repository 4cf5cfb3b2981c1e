"""What a task may count on, with real agents that fail in every way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from paddock.testing.installation import Installation
from paddock.testing.wait import until

pytestmark = pytest.mark.xdist_group("tasks")

MANIFEST = """
paddock: 1
fleets:
  lab:
    agent: lab_agents:Lab
    pythonpath: ["{here}"]
    replicas: 2
    concurrency: 2
    capabilities: [torment]
    health: {{hang_s: 2}}
    restart: {{max: 50}}
  single:
    agent: lab_agents:Lab
    pythonpath: ["{here}"]
    replicas: 1
    queue_limit: 20
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "lab.yaml").write_text(MANIFEST.format(here=Path(__file__).parent))
    held = Installation(folder / "data")
    try:
        held.up(folder / "lab.yaml")
        yield held
    finally:
        held.down()


@pytest.fixture
def http(lab: Installation) -> Iterator[httpx.Client]:
    with lab.http() as client:
        yield client


def submit(http: httpx.Client, method: str, *, wait_s: float = 0, expect: int = 0, **fields: Any) -> Any:
    target = {} if {"fleet", "agent", "capability"} & fields.keys() else {"fleet": "lab"}
    answer = http.post(
        "/api/v1/tasks", params={"wait_s": wait_s} if wait_s else {}, json={**target, "method": method, **fields}
    )
    assert answer.status_code in ((expect,) if expect else (200, 202)), answer.text
    return answer.json()


def run(http: httpx.Client, method: str, **fields: Any) -> Any:
    """Submit and wait; the task as it ended."""
    done = submit(http, method, wait_s=60, **fields)
    assert done["finished_at"], done
    return done


def state(http: httpx.Client, task: Any) -> Any:
    return http.get(f"/api/v1/tasks/{task['id']}").raise_for_status().json()


def test_a_result_comes_back_typed_and_whole(http: httpx.Client) -> None:
    value = {"ä": [1, 2.5, None, True], "nested": {"deep": "x" * 1000}}
    assert run(http, "echo", args={"value": value})["result"] == value
    assert run(http, "add", args={"x": 2})["result"] == 3


def test_a_task_for_one_agent_is_done_by_that_agent(http: httpx.Client) -> None:
    for name in ("lab/0", "lab/1", "lab/0"):
        assert run(http, "add", agent=name, args={"x": 1})["agent"] == name


def test_a_task_for_a_capability_finds_a_fleet_that_has_it(http: httpx.Client) -> None:
    assert run(http, "add", capability="torment", args={"x": 1})["fleet"] == "lab"


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"fleet": "lob", "method": "add"}, 404, "lab"),
        ({"fleet": "lab", "method": "ad"}, 404, "add"),
        ({"agent": "lab/77", "method": "add", "args": {"x": 1}}, 404, "77"),
        ({"capability": "flying", "method": "add"}, 404, "flying"),
        ({"fleet": "lab", "method": "add", "args": {"x": "two"}}, 422, "x"),
        ({"fleet": "lab", "method": "add", "args": {}}, 422, "x"),
        ({"fleet": "lab", "method": "add", "args": {"x": 1, "z": 2}}, 422, "z"),
        ({"fleet": "lab", "method": "add", "args": {"x": 1}, "priority": "URGENT"}, 422, "CRITICAL"),
        ({"fleet": "lab", "agent": "lab/0", "method": "add"}, 422, "one"),
        ({"method": "add"}, 422, "fleet"),
        ({"fleet": "lab", "method": "echo", "args": {"value": "x" * 1_000_000}}, 413, "limit"),
        ({"fleet": "lab", "method": "add", "args": {"x": 1}, "delay_s": -1}, 422, "delay_s"),
        ({"fleet": "lab", "method": "add", "args": {"x": 1}, "colour": "red"}, 422, "colour"),
    ],
)
def test_what_cannot_be_done_is_refused_at_the_door(
    http: httpx.Client, fields: dict[str, Any], status: int, says: str
) -> None:
    answer = http.post("/api/v1/tasks", json=fields)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert says in answer.json()["detail"]


@pytest.mark.parametrize(
    "body", [b'{"fleet":"lab","method":"echo","args":{"value":NaN}}', b"\xff\xfe{", b"{", b"[]", b""]
)
def test_bodies_that_are_no_good_json_are_refused(http: httpx.Client, body: bytes) -> None:
    answer = http.post("/api/v1/tasks", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "code", "says"),
    [
        ("refuse", "task-failed", "not on a Sunday"),
        ("unserialisable", "bad-result", "object"),
        ("not_a_number", "bad-result", ""),
        ("too_slow", "timed-out", "0.2"),
    ],
)
def test_a_failure_says_what_and_why(http: httpx.Client, method: str, code: str, says: str) -> None:
    done = run(http, method)
    assert done["state"] == "failed"
    assert done["error"]["code"] == code
    assert says in done["error"]["message"]


def test_an_error_is_tried_again_until_it_works(http: httpx.Client, tmp_path: Path) -> None:
    done = run(http, "flaky", args={"path": str(tmp_path / "tries")})
    assert (done["state"], done["result"], done["attempts"]) == ("done", 3, 3)


def test_what_never_works_ends_in_the_dead_letters_and_can_be_replayed(http: httpx.Client) -> None:
    done = run(http, "hopeless")
    assert (done["state"], done["attempts"]) == ("dead", 2)
    assert "never works" in done["error"]["message"]
    dead = http.get("/api/v1/tasks", params={"state": "dead"}).json()["items"]
    assert done["id"] in [task["id"] for task in dead]
    again = http.post(f"/api/v1/tasks/{done['id']}/replay").raise_for_status().json()
    assert again["id"] != done["id"]
    assert http.get(f"/api/v1/tasks/{again['id']}", params={"wait_s": 30}).json()["state"] == "dead"


def test_a_task_whose_agent_dies_is_done_by_another_at_once(http: httpx.Client, tmp_path: Path) -> None:
    done = run(http, "die_once", args={"path": str(tmp_path / "died")})
    assert (done["state"], done["result"], done["attempts"]) == ("done", "survived", 2)


def test_a_task_that_kills_every_agent_is_found_out(http: httpx.Client) -> None:
    done = run(http, "die")
    assert done["state"] == "dead"
    assert "died" in done["error"]["message"]


def test_a_task_that_may_not_run_twice_does_not(http: httpx.Client) -> None:
    done = run(http, "die", repeatable=False)
    assert (done["state"], done["attempts"]) == ("dead", 1)
    again = http.post(f"/api/v1/tasks/{done['id']}/replay").raise_for_status().json()
    assert http.get(f"/api/v1/tasks/{again['id']}", params={"wait_s": 30}).json()["attempts"] == 1


def test_an_agent_that_hangs_is_replaced_and_its_task_given_up(http: httpx.Client) -> None:
    done = run(http, "hang", repeatable=False)
    assert done["state"] == "dead"


def test_a_plain_function_may_block_longer_than_the_hang_limit(http: httpx.Client) -> None:
    assert run(http, "block", args={"seconds": 3})["result"] == "done"


def test_a_running_task_is_shown_as_running_with_its_progress_and_can_be_cancelled(
    http: httpx.Client, tmp_path: Path
) -> None:
    task = submit(http, "half_way", args={"path": str(tmp_path / "never")})
    until(lambda: state(http, task)["state"] == "running", what="running")
    until(lambda: state(http, task)["progress"] == 0.5, what="half way")
    assert http.post(f"/api/v1/tasks/{task['id']}/cancel").json()["state"] == "cancelled"
    assert state(http, task)["state"] == "cancelled"
    assert http.post(f"/api/v1/tasks/{task['id']}/cancel").json()["state"] == "cancelled"
    done = run(http, "add", args={"x": 1})
    assert http.post(f"/api/v1/tasks/{done['id']}/cancel").status_code == 409


def test_a_queued_task_can_be_cancelled_and_never_runs(http: httpx.Client, tmp_path: Path) -> None:
    gate, seen = tmp_path / "gate", tmp_path / "seen"
    first = submit(http, "wait_for", fleet="single", args={"path": str(gate)})
    until(lambda: state(http, first)["state"] == "running", what="the only agent is busy")
    second = submit(http, "note", fleet="single", args={"path": str(seen), "text": "ran"})
    assert http.post(f"/api/v1/tasks/{second['id']}/cancel").json()["state"] == "cancelled"
    gate.touch()
    run(http, "add", fleet="single", args={"x": 1})
    assert not seen.exists()


def test_priorities_are_honoured_and_low_does_not_starve(http: httpx.Client, tmp_path: Path) -> None:
    gate, seen = tmp_path / "gate", tmp_path / "seen"
    submit(http, "wait_for", fleet="single", args={"path": str(gate)})
    until(
        lambda: http.get("/api/v1/tasks", params={"fleet": "single", "state": "running"}).json()["items"], what="busy"
    )
    tasks = [
        submit(http, "note", fleet="single", args={"path": str(seen), "text": priority}, priority=priority)
        for priority in ["LOW"] * 4 + ["MEDIUM"] * 4 + ["HIGH"] * 4 + ["CRITICAL"] * 4
    ]
    gate.touch()
    for task in tasks:
        until(lambda task=task: state(http, task)["state"] == "done", what="done")  # type: ignore[misc]  # bound now
    order = seen.read_text().split()
    place = {name: sum(i for i, text in enumerate(order) if text == name) / 4 for name in set(order)}
    assert place["CRITICAL"] < place["HIGH"] < place["MEDIUM"] < place["LOW"]


def test_a_full_queue_refuses_with_when_to_come_back(http: httpx.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    submit(http, "wait_for", fleet="single", args={"path": str(gate)})
    until(
        lambda: http.get("/api/v1/tasks", params={"fleet": "single", "state": "running"}).json()["items"], what="busy"
    )
    answers = [
        http.post("/api/v1/tasks", json={"fleet": "single", "method": "add", "args": {"x": 1}}) for _ in range(25)
    ]
    full = [answer for answer in answers if answer.status_code == 429]
    accepted = [answer.json() for answer in answers if answer.status_code == 202]
    assert len(full) >= 5
    assert int(full[0].headers["retry-after"]) >= 1
    gate.touch()
    for task in accepted:
        until(lambda task=task: state(http, task)["state"] == "done", what="accepted is done")  # type: ignore[misc]  # bound now


def test_the_same_key_is_the_same_task(http: httpx.Client, tmp_path: Path) -> None:
    args = {"path": str(tmp_path / "seen"), "text": "once"}
    first = run(http, "note", args=args, key="order-17")
    second = run(http, "note", args=args, key="order-17")
    assert first["id"] == second["id"]
    assert (tmp_path / "seen").read_text() == "once\n"
    other = http.post("/api/v1/tasks", json={"fleet": "lab", "method": "add", "args": {"x": 1}, "key": "order-17"})
    assert other.status_code == 409


def test_a_delayed_task_waits_its_time(http: httpx.Client) -> None:
    task = submit(http, "add", args={"x": 1}, delay_s=1.0)
    assert state(http, task)["state"] == "queued"
    done = http.get(f"/api/v1/tasks/{task['id']}", params={"wait_s": 30}).json()
    assert done["state"] == "done"
    assert done["started_at"] - done["submitted_at"] >= 1.0


def test_agents_ask_publish_and_remember(http: httpx.Client) -> None:
    assert run(http, "ask_other", agent="lab/0", args={"whom": "lab/1"})["result"] == 3
    run(http, "remember", agent="lab/0", args={"key": "k", "value": "v"})
    assert run(http, "recall", agent="lab/0", args={"key": "k"})["result"] == "v"
    assert run(http, "recall", agent="lab/1", args={"key": "k"})["result"] is None
    run(http, "tell", agent="lab/0", args={"text": "extra"})
    until(lambda: run(http, "recall", agent="lab/1", args={"key": "heard"})["result"] == "extra", what="heard")


def test_an_agent_does_not_inherit_the_environment_of_its_keepers(http: httpx.Client, lab: Installation) -> None:
    environment = run(http, "environment", agent="lab/0")["result"]
    assert environment["PADDOCK_AGENT"] == "lab/0"
    token = (lab.data / "token").read_text().strip()
    assert token not in json.dumps(environment)
    assert not [name for name in environment if name.startswith("PYTEST")]


def test_tasks_are_known_after_a_restart_of_everything(lab: Installation, tmp_path: Path) -> None:
    with lab.http() as http:
        done = run(http, "add", args={"x": 40, "y": 2})
        waiting = submit(http, "add", args={"x": 1}, delay_s=3.0)
        pids = {agent["pid"] for agent in lab.agents().values()}
    lab.down()
    lab.up(lab.data.parent / "lab.yaml")
    assert not pids & {agent["pid"] for agent in lab.ready("lab", 2).values()}
    with lab.http() as http:
        assert state(http, done)["result"] == 42
        assert http.get(f"/api/v1/tasks/{waiting['id']}", params={"wait_s": 30}).json()["state"] == "done"
        assert state(http, done)["finished_at"] < time.time()
