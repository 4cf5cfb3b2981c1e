"""What is refused, and how it is said."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from paddock.api.problems import response_of
from paddock.model.errors import QueueFull, TaskError, TimedOut, Unavailable
from paddock.testing.control import FakeControl

KEYS = {"type", "title", "status", "detail", "instance"}


def problem_of(answer: httpx.Response, status: int, code: str) -> str:
    """Check that the answer is that problem; its detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) == KEYS
    assert (body["status"], body["type"]) == (status, f"urn:paddock:problem:{code}")
    assert body["title"]
    detail: str = body["detail"]
    return detail


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic the-token-of-the-tests", "the-token-of-the-tests", "Bearer é"]
)
async def test_without_the_right_token_nothing_is_answered(http: httpx.AsyncClient, header: str | None) -> None:
    del http.headers["Authorization"]
    headers = {} if header is None else {"Authorization": header.encode()}
    for path in ("/api/v1/agents", "/metrics", "/status", "/nowhere", "/docs/assets/../../api/v1/agents"):
        answer = await http.get(path, headers=headers)
        assert "data directory" in problem_of(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "", "[::2]"],
)
async def test_another_host_is_refused_even_with_the_token(http: httpx.AsyncClient, host: str) -> None:
    for path in ("/api/v1/agents", "/healthz", "/docs"):
        assert "127.0.0.1" in problem_of(await http.get(path, headers={"Host": host}), 421, "misdirected")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.9.9.9:1", "[::1]:8000", "x.localhost"]
)
async def test_loopback_has_many_names(http: httpx.AsyncClient, host: str) -> None:
    assert (await http.get("/api/v1/agents", headers={"Host": host})).status_code == 200


async def test_a_route_that_is_not_there_names_the_nearest(http: httpx.AsyncClient) -> None:
    assert "did you mean '/api/v1/agents'" in problem_of(await http.get("/api/v1/agent"), 404, "no-route")
    problem_of(await http.get("/docs/assets/none.js"), 404, "no-route")


async def test_a_wrong_method_names_the_right_ones(http: httpx.AsyncClient) -> None:
    answer = await http.put("/api/v1/agents")
    assert "GET" in problem_of(answer, 405, "wrong-method")
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (b"", 400, "not-json", "empty"),
        (b"fleet=critic", 400, "not-json", "invalid character at line 1"),
        (b'{"fleet": "critic",\n "method": }', 400, "not-json", "line 2, column 12"),
        (b'{"fleet": "critic"', 400, "not-json", "truncated"),
        (b'{"fleet": "critic", "method": "x"} x', 400, "not-json", "trailing"),
        (b'{"args": {"x": NaN}}', 400, "not-json", "NaN at line 1, column 16"),
        (b'{"args": {"x": -Infinity}}', 400, "not-json", "finite"),
        (b'{"args": {"x": 1e999}}', 422, "refused", "number out of range"),
        (b'{"fleet": "\xff"}', 400, "not-json", "not UTF-8: byte 11 is 0xff"),
        (b'\xef\xbb\xbf{"fleet": "critic"}', 400, "not-json", "byte order mark"),
        (b'{"args": {"x": ' + b"[" * 200 + b"]" * 200 + b"}}", 422, "refused", "100 levels"),
        (b"[" * 100_000, 422, "refused", "100 levels"),
        (b"[]", 422, "refused", "expected 'object', got 'array'"),
        (b'{"fleet": "critic"}', 422, "refused", "method"),
        (b'{"fleat": "critic", "method": "x"}', 422, "refused", "unknown field 'fleat'; did you mean 'fleet'?"),
        (b'{"fleet": 7, "method": "x"}', 422, "refused", "at fleet: expected 'str', got 'int'"),
        (b'{"fleet": "critic", "method": "x", "args": [1]}', 422, "refused", "at args"),
    ],
)
async def test_a_bad_body_is_told_with_its_place(
    http: httpx.AsyncClient, control: FakeControl, body: bytes, status: int, code: str, words: str
) -> None:
    assert words in problem_of(await http.post("/api/v1/tasks", content=body), status, code)
    assert not control.views


async def test_deep_brackets_within_text_are_only_text(http: httpx.AsyncClient) -> None:
    body = {"fleet": "critic", "method": "review", "args": {"source": '"' + "[{" * 500 + '\\"'}}
    assert (await http.post("/api/v1/tasks", json=body)).status_code == 202


async def test_an_unknown_field_of_a_manifest_names_its_place_and_the_nearest(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/plan", json={"manifests": [{"txt": "paddock: 1"}]})
    detail = problem_of(answer, 422, "refused")
    assert "manifests" in detail
    assert "did you mean 'text'" in detail


@pytest.mark.parametrize("number", [0, 101])
async def test_no_manifest_and_too_many_are_refused(http: httpx.AsyncClient, number: int) -> None:
    answer = await http.post("/api/v1/apply", json={"manifests": [{"text": "paddock: 1"}] * number})
    assert f"got {number}" in problem_of(answer, 422, "refused")


async def test_a_manifest_that_control_refuses_keeps_its_message(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/apply", json={"manifests": [{"name": "a.yaml", "text": "nope"}]})
    assert "a.yaml, line 1" in problem_of(answer, 422, "refused")


async def test_a_body_over_the_limit_is_refused_by_its_length(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/tasks", content=b"x" * 2_000_001)
    assert "2,000,000" in problem_of(answer, 413, "too-large")
    assert answer.headers["connection"] == "close"


async def test_a_body_of_unknown_length_is_given_up_when_it_is_over(http: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 100_000
            yield b" " * 100_000

    problem_of(await http.post("/api/v1/tasks", content=endless()), 413, "too-large")
    assert sent <= 11_000_000


async def test_a_compressed_body_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/tasks", content=b"{}", headers={"Content-Encoding": "gzip"})
    assert "gzip" in problem_of(answer, 415, "unsupported-body")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/v1/agents?limit=0", "query limit"),
        ("/api/v1/agents?limit=5001", "5000"),
        ("/api/v1/agents?limit=many", "'many'"),
        ("/api/v1/agents?state=redy", "'ready'"),
        ("/api/v1/agents?fleat=critic", "unknown query parameter 'fleat'; did you mean 'fleet'?"),
        ("/api/v1/fleets?limit=3", "known: none"),
        ("/api/v1/tasks?agent=critic", "fleet/name"),
        ("/api/v1/tasks/t1?wait_s=301", "300"),
        ("/api/v1/tasks/t1?wait_s=-1", "wait_s"),
        ("/api/v1/tasks/t1?wait_s=nan", "wait_s"),
        ("/api/v1/tasks/t1?wait_s=inf", "wait_s"),
        ("/api/v1/tasks/bad.id", "task id"),
        ("/api/v1/agents/Critic/0", "fleet 'Critic'"),
        ("/api/v1/agents/critic/0/logs?lines=2&offset=3", "not both"),
        ("/api/v1/agents/critic/0/logs?wait_s=3", "needs offset"),
        ("/api/v1/agents/critic/0/logs?offset=-1", "offset"),
    ],
)
async def test_a_bad_parameter_is_told_with_its_name(http: httpx.AsyncClient, path: str, words: str) -> None:
    assert words in problem_of(await http.get(path), 422, "refused")


@pytest.mark.parametrize("replicas", ["-1", "1000001", "1.5", '"3"', "null", "9" * 40])
async def test_a_number_of_agents_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, control: FakeControl, replicas: str
) -> None:
    answer = await http.post("/api/v1/fleets/critic/scale", content=f'{{"replicas": {replicas}}}'.encode())
    assert "replicas" in problem_of(answer, 422, "refused")
    assert control.fleet("critic").wanted == 2


@pytest.mark.parametrize("name", ["", " ", "a" * 65, "a;b", "é"])
async def test_a_name_of_who_asks_that_could_mislead_is_refused(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.post("/api/v1/heal", headers={"Paddock-By": name.encode()})
    assert "Paddock-By" in problem_of(answer, 422, "refused")


@pytest.mark.parametrize("key", ["", '""', "a" * 201, "é"])
async def test_a_bad_idempotency_key_is_refused(http: httpx.AsyncClient, key: str) -> None:
    body = {"fleet": "critic", "method": "review"}
    answer = await http.post("/api/v1/tasks", json=body, headers={"Idempotency-Key": key.encode()})
    assert "Idempotency-Key" in problem_of(answer, 422, "refused")


async def test_two_keys_that_differ_are_refused(http: httpx.AsyncClient) -> None:
    body = {"fleet": "critic", "method": "review", "key": "one"}
    answer = await http.post("/api/v1/tasks", json=body, headers={"Idempotency-Key": "two"})
    assert "differ" in problem_of(answer, 422, "refused")


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/api/v1/agents/critic/9", "GET"),
        ("/api/v1/agents/critic/9/logs", "GET"),
        ("/api/v1/agents/critic/9/restart", "POST"),
        ("/api/v1/fleets/none", "DELETE"),
        ("/api/v1/tasks/none", "GET"),
        ("/api/v1/tasks/none?wait_s=1", "GET"),
        ("/api/v1/tasks/none/cancel", "POST"),
        ("/api/v1/tasks/none/replay", "POST"),
        ("/api/cluster/task/none", "GET"),
    ],
)
async def test_what_is_not_there_is_404_by_name(http: httpx.AsyncClient, path: str, method: str) -> None:
    assert "there is no" in problem_of(await http.request(method, path), 404, "not-found")


async def test_a_full_queue_says_when_to_try_again(http: httpx.AsyncClient, control: FakeControl) -> None:
    control.add_fleet("small", queue_limit=0)
    answer = await http.post("/api/v1/tasks", json={"fleet": "small", "method": "x"})
    problem_of(answer, 429, "queue-full")
    assert answer.headers["retry-after"] == "7"


async def test_an_ended_task_cannot_be_cancelled(http: httpx.AsyncClient, control: FakeControl) -> None:
    await http.post("/api/v1/tasks", json={"fleet": "critic", "method": "review"})
    await control.finish("t1")
    problem_of(await http.post("/api/v1/tasks/t1/cancel"), 409, "conflict")
    problem_of(await http.post("/api/v1/tasks/t1/replay"), 409, "conflict")


@pytest.mark.parametrize(("error", "status"), [(Unavailable("the fabric is away"), 503), (TimedOut("no answer"), 504)])
async def test_what_may_work_later_says_so(
    http: httpx.AsyncClient, control: FakeControl, error: Unavailable, status: int
) -> None:
    control.fail = error
    answer = await http.get("/status")
    assert problem_of(answer, status, error.code) == error.message
    assert int(answer.headers["retry-after"]) >= 1


def test_an_error_that_is_no_http_failure_is_not_answered_as_success() -> None:
    answer = response_of(TaskError("it failed"), path="/x")
    assert answer.status_code == 500
    assert response_of(QueueFull(retry_after_s=0), path="/x").headers["retry-after"] == "1"


async def test_a_bug_is_500_with_a_number_that_the_log_has_and_nothing_of_the_inside(
    http: httpx.AsyncClient, control: FakeControl, log_file: io.StringIO
) -> None:
    control.fail = RuntimeError("secret-inside")
    answer = await http.get("/status")
    detail = problem_of(answer, 500, "internal")
    assert "secret-inside" not in answer.text
    name = answer.json()["instance"].rpartition(":")[2]
    assert name in detail
    lines = [json.loads(line) for line in log_file.getvalue().splitlines()]
    crash = next(line for line in lines if line["event"] == "unexpected error")
    assert (crash["error_id"], crash["kind"]) == (name, "RuntimeError")
    assert any("_maybe_fail" in frame for frame in crash["where"])
    assert "secret-inside" not in log_file.getvalue()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"fleet": "executor"}, "give method"),
        ({"fleet": "executor", "method": "run", "task": "walk"}, "mean the same"),
        ({"fleet": "executor", "metod": "run"}, "did you mean 'method'"),
        ({"fleet": ["executor"], "method": "run"}, "fleet must be text"),
        ({"fleet": "executor", "method": "run", "payload": "1"}, "payload must be an object"),
        ({"fleet": "executor", "method": "run", "max_attempts": True}, "whole number"),
        ({"fleet": "executor", "method": "run", "priority": 9}, "priority must be text"),
    ],
)
async def test_the_lenient_submit_still_refuses_what_it_cannot_mean(
    http: httpx.AsyncClient, body: dict[str, object], words: str
) -> None:
    assert words in problem_of(await http.post("/api/cluster/task/submit", json=body), 422, "refused")


async def test_heal_of_something_that_is_no_agent_is_refused(http: httpx.AsyncClient) -> None:
    assert "fleet/name" in problem_of(await http.post("/api/cluster/heal", json={"agent": "critic"}), 422, "refused")
    problem_of(await http.post("/api/cluster/heal", json={"agnt": "critic/0"}), 422, "refused")
