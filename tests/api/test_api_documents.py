"""OpenAPI, the documentation pages, the figures and the access log."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from paddock.api import docs, openapi
from paddock.api.app import create_app
from paddock.model.agent import AgentState
from paddock.testing.control import FakeControl


def test_the_committed_openapi_is_what_the_code_makes(app: FastAPI) -> None:
    made = openapi.encode(app.openapi())
    assert openapi.COMMITTED.read_bytes() == made, "it changed: run python -m paddock.api.openapi and look at the diff"


def _operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def test_every_operation_says_what_it_does_takes_and_answers(app: FastAPI) -> None:
    document = app.openapi()
    known = set(document["components"]["schemas"])
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert used <= known
    for name, operation in _operations(document):
        assert operation["summary"], name
        assert operation["tags"], name
        assert "default" in operation["responses"], name
        assert "HTTPValidationError" not in json.dumps(operation), name
        good = [answer for status, answer in operation["responses"].items() if status in ("200", "202", "204")]
        assert good, name
        for answer in good:
            for content in answer.get("content", {}).values():
                assert content["schema"], name


def test_every_route_is_in_the_document_and_every_body_has_its_schema(app: FastAPI) -> None:
    document = app.openapi()
    assert {path for path in app.state.paths if path not in ("/", "/health")} == set(document["paths"])
    posts = {name for name, operation in _operations(document) if "requestBody" in operation}
    assert posts == {
        "post /api/v1/tasks",
        "post /api/v1/plan",
        "post /api/v1/apply",
        "post /api/v1/fleets/{fleet}/scale",
        "post /api/v1/alerts/test",
        "post /api/v1/agents/{fleet}/{name}/heal",
        "post /api/v1/incidents/{number}/close",
        "post /api/v1/policies/rehearse",
        "post /recover/{fleet}/{name}",
        "post /api/cluster/heal",
        "post /api/cluster/task/submit",
    }


def test_the_schemas_explain_their_fields(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    assert "Idempotency key" in schemas["TaskRequest"]["properties"]["key"]["description"]
    assert schemas["TaskRequest"]["required"] == ["method"]
    assert "state" in schemas["TaskView"]["required"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/agents/critic/0",
        "/api/v1/agents",
        "/api/v1/fleets",
        "/api/v1/tasks",
        "/api/v1/nodes",
        "/api/v1/history",
        "/readyz",
        "/healthz",
        "/api/cluster/agents/live",
    ],
)
async def test_the_answers_are_what_their_schemas_say(http: httpx.AsyncClient, app: FastAPI, path: str) -> None:
    await http.post("/api/v1/tasks", json={"fleet": "critic", "method": "review"})
    await http.post("/api/v1/agents/critic/0/restart")
    document = app.openapi()
    known = re.sub(r"critic/0", "{fleet}/{name}", path)
    schema = document["paths"][known]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate((await http.get(path)).json(), schema | {"components": document["components"]})


async def test_a_problem_is_what_its_schema_says(http: httpx.AsyncClient, app: FastAPI) -> None:
    problem = (await http.get("/api/v1/fleets/none")).json()
    jsonschema.validate(problem, app.openapi()["components"]["schemas"]["Problem"])


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline_scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.found += [str(values[name]) for name in ("src", "href") if values.get(name)]
        self.inline_scripts += tag == "script" and not values.get("src")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_pages_need_nothing_from_elsewhere(http: httpx.AsyncClient, path: str) -> None:
    del http.headers["Authorization"]
    page = await http.get(path)
    links = Links()
    links.feed(page.text)
    files = [url for url in links.found if not url.startswith("data:")]
    assert len(files) >= 4
    for url in files:
        assert re.match(r"/[a-z]", url), url
        asset = await http.get(url)
        assert (asset.status_code, len(asset.content) > 100) == (200, True), url
    assert links.inline_scripts == 0
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*", policy)


async def test_the_own_assets_name_no_other_server(http: httpx.AsyncClient) -> None:
    for file in Path(docs.OWN).iterdir():
        text = file.read_text()
        named = set(re.findall(r"https?://[\w.]+", text))
        assert named <= {"https://cdn.redoc.ly"}, file  # hidden there, as the policy forbids it
    assert "validatorUrl: null" in (docs.OWN / "swagger-start.js").read_text()


async def test_the_page_gets_its_document_without_a_token_and_the_root_leads_to_it(http: httpx.AsyncClient) -> None:
    del http.headers["Authorization"]
    assert (await http.get("/openapi.json")).json()["info"]["version"] == "1.2.3"
    assert (await http.get("/")).headers["location"] == "/docs"


def _samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_figures_are_those_of_control_and_name_no_agent(
    http: httpx.AsyncClient, control: FakeControl
) -> None:
    control.set_state("executor/1", AgentState.FAILED, restarts=4)
    for _ in range(2):
        await http.post("/api/v1/tasks", json={"fleet": "critic", "method": "review"})
    await control.finish("t1")
    await http.get("/api/v1/agents/critic/0")
    await http.get("/nonsense/1")
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = _samples(answer.text)
    assert samples["paddock_agents", (("fleet", "executor"), ("state", "failed"))] == 1
    assert samples["paddock_agents_wanted", (("fleet", "executor"),)] == 3
    assert samples["paddock_agent_restarts", (("fleet", "executor"),)] == 4
    assert samples["paddock_tasks", (("fleet", "critic"), ("state", "done"))] == 1
    assert samples["paddock_queue_depth", (("fleet", "critic"),)] == 1
    assert samples["paddock_nodes", ()] == 1
    route = ("route", "/api/v1/agents/{fleet}/{name}")
    assert samples["paddock_http_requests_total", (("method", "GET"), route, ("status", "200"))] == 1
    assert samples["paddock_http_request_duration_seconds_count", (("method", "GET"), route)] == 1
    assert samples["paddock_http_requests_total", (("method", "GET"), ("route", "none"), ("status", "404"))] == 1
    assert "critic/0" not in answer.text
    assert "nonsense" not in answer.text


async def test_restarts_are_summed_over_all_pages(http: httpx.AsyncClient, control: FakeControl) -> None:
    control.add_fleet("many", 2500)
    for name in ("0", "1", "2499"):
        control.set_state(f"many/{name}", AgentState.READY, restarts=2)
    samples = _samples((await http.get("/metrics")).text)
    assert samples["paddock_agent_restarts", (("fleet", "many"),)] == 6
    assert (await http.get("/api/cluster/agents/live")).json()["count"] == 2505


async def test_the_access_log_says_who_and_what_but_no_secret(http: httpx.AsyncClient, log_file: io.StringIO) -> None:
    body = {"fleet": "critic", "method": "review", "args": {"password": "hunter2"}, "key": "my-key"}
    await http.post("/api/v1/tasks?wait_s=0", json=body, headers={"Paddock-By": "cli:anna"})
    await http.post("/api/v1/tasks", content=b'{"args": hunter2}')
    await http.get("/healthz")
    text = log_file.getvalue()
    for secret in ("hunter2", "my-key", "the-token", "wait_s"):
        assert secret not in text
    good, bad = (json.loads(line) for line in text.splitlines())
    assert (good["method"], good["path"], good["status"], good["by"]) == ("POST", "/api/v1/tasks", 202, "cli:anna")
    assert (bad["status"], bad["problem"], bad["level"], bad["by"]) == (400, "not-json", "info", "api")
    assert good["duration_ms"] >= 0


async def test_a_configured_host_is_let_in(control: FakeControl) -> None:
    named = create_app(control, token="t", version="1", hosts=["Paddock.example", "[fd00::1]"])
    anywhere = create_app(control, token="t", version="1", hosts=["0.0.0.0"])  # noqa: S104  nothing is bound: it is what was configured
    for app, host, status in (
        (named, "paddock.example:8000", 200),
        (named, "[fd00::1]:8000", 200),
        (named, "10.1.2.3", 421),
        (anywhere, "10.1.2.3:8000", 200),
        (anywhere, "evil.example", 421),
    ):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            assert (await client.get("/healthz", headers={"Host": host})).status_code == status, host


def test_a_server_without_a_token_is_not_made(control: FakeControl) -> None:
    with pytest.raises(ValueError, match="token"):
        create_app(control, token="", version="1")
