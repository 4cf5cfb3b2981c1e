"""Routes about health and healing, and those that operators of older systems know."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import httpx
import msgspec
import pytest

from paddock.api.report import health_page, kpi_page
from paddock.decide.explain import Explanation
from paddock.decide.rehearse import Rehearsed
from paddock.model.health import Band, Forecast, Score
from paddock.model.incident import Incident, IncidentState
from paddock.model.kpi import FleetPoint, HealthReport, KpiReport, OpsReport
from paddock.testing.care import AT
from paddock.testing.control import FakeControl

HOSTILE = "<script src=https://evil.example/x.js></script>\"'&\x00"


@pytest.fixture(autouse=True)
def _ill(control: FakeControl) -> None:
    control.care.add_score("critic/0", 100)
    control.care.add_score("critic/1", 12, "its probe http does not answer: -30", "dead 3 times in 10 min: -15")
    control.care.add_score("executor/0", 70)


async def test_scores_come_the_worst_first_and_are_filtered(http: httpx.AsyncClient) -> None:
    found = (await http.get("/api/v1/health")).json()["items"]
    assert [score["id"] for score in found] == ["critic/1", "executor/0", "critic/0"]
    assert found[0]["because"][0].startswith("its probe http")
    one = await http.get("/api/v1/health", params={"fleet": "critic", "band": "critical"})
    assert [score["id"] for score in one.json()["items"]] == ["critic/1"]
    assert len((await http.get("/api/v1/health", params={"limit": 1})).json()["items"]) == 1


async def test_one_agents_health_comes_with_its_history(http: httpx.AsyncClient) -> None:
    answer = (await http.get("/api/v1/agents/critic/1/health")).json()
    assert (answer["score"]["score"], answer["history"][0]["low"]) == (12, 70)
    short = (await http.get("/api/v1/agents/critic/1/health", params={"since_s": 60})).json()
    assert short["history"] == []
    assert (await http.get("/api/v1/agents/critic/9/health")).status_code == 404


async def test_an_action_is_done_in_the_name_of_who_asked(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/api/v1/agents/critic/1/heal", json={"action": "redeploy"}, headers={"Paddock-By": "cli:anna"}
    )
    [step] = msgspec.json.decode(answer.content, type=Incident).steps
    assert (step.action, step.by) == ("redeploy", "cli:anna")


async def test_incidents_come_in_pages_newest_first(http: httpx.AsyncClient, control: FakeControl) -> None:
    for number in range(5):
        control.care.add_incident(f"critic/{number}", action="restart" if number % 2 else "")
    seen: list[int] = []
    after = ""
    for _ in range(10):
        page = (await http.get("/api/v1/incidents", params={"limit": 2, "after": after})).json()
        seen += [one["id"] for one in page["items"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert seen == [5, 4, 3, 2, 1]
    still = (await http.get("/api/v1/incidents", params={"state": "open", "about": "critic"})).json()
    assert [one["id"] for one in still["items"]] == [5, 3, 1]


async def test_an_incident_is_told_explained_and_closed(http: httpx.AsyncClient, control: FakeControl) -> None:
    control.care.add_incident("critic/1")
    told = msgspec.json.decode((await http.get("/api/v1/incidents/1")).content, type=Incident)
    assert told == control.care.book[1]
    why = msgspec.json.decode((await http.get("/api/v1/incidents/1/explain")).content, type=Explanation)
    assert why.summary.startswith("critic/1: no beat for 10 s")
    closed = await http.post("/api/v1/incidents/1/close", json={"why": "mended"}, headers={"Paddock-By": "cli:anna"})
    assert (closed.json()["state"], closed.json()["note"]) == ("closed", "closed by cli:anna: mended")
    assert control.care.book[1].state is IncidentState.CLOSED


async def test_closing_needs_no_reason(http: httpx.AsyncClient, control: FakeControl) -> None:
    control.care.add_incident("critic/1")
    assert (await http.post("/api/v1/incidents/1/close")).json()["note"] == "closed by api"


async def test_a_fleet_is_rolled_back(http: httpx.AsyncClient, control: FakeControl) -> None:
    answer = await http.post("/api/v1/fleets/critic/rollback", headers={"Paddock-By": "cli:anna"})
    assert answer.json() == {"fleet": "critic", "version": "v0"}
    assert control.care.rolled_back == [("critic", "cli:anna")]


async def test_a_policy_is_rehearsed(http: httpx.AsyncClient, control: FakeControl) -> None:
    case = {"fleet": "critic", "cause": "hang", "helps": ["redeploy"]}
    told = msgspec.json.decode((await http.post("/api/v1/policies/rehearse", json=case)).content, type=Rehearsed)
    assert told.outcome == "recovered"
    assert control.care.book == {}


async def test_daily_operations_are_named_and_run(http: httpx.AsyncClient, control: FakeControl) -> None:
    assert (await http.get("/api/v1/ops")).json()["items"] == ["integrity-check", "clean-up"]
    control.daily.findings = ["2 wanted agents are nowhere"]
    told = await http.post("/api/v1/ops/integrity-check", headers={"Paddock-By": "cli:anna"})
    report = msgspec.json.decode(told.content, type=OpsReport)
    assert (report.ok, report.findings) == (False, ["2 wanted agents are nowhere"])
    assert control.daily.done == [("integrity-check", "cli:anna")]
    assert (await http.post("/api/v1/ops/make-coffee")).status_code == 404


async def test_reports_are_json_or_a_page(http: httpx.AsyncClient) -> None:
    kpi = await http.get("/api/v1/report/kpi", params={"since_s": 3600, "fleet": "critic"})
    report = msgspec.json.decode(kpi.content, type=KpiReport)
    assert (report.since_s, report.fleet, report.objectives[0].alarm) == (3600.0, "critic", "page")
    health = msgspec.json.decode((await http.get("/api/v1/report/health")).content, type=HealthReport)
    assert health.fleets["critic"] == {"lowest": 12.0, "mean": 56.0, "agents": 2.0}
    for name in ("kpi", "health"):
        page = await http.get(f"/api/v1/report/{name}", params={"html": "true"})
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.text.startswith("<!doctype html>")


async def test_old_routes_answer_with_the_same(http: httpx.AsyncClient, control: FakeControl) -> None:
    control.care.add_incident("critic/1")
    told = (await http.get("/dashboard")).json()
    assert set(told) == {"totals", "health", "incidents", "nodes"}
    assert told["health"]["bands"] == {"critical": 1, "fair": 1, "healthy": 1}
    assert [one["about"] for one in told["incidents"]] == ["critic/1"]
    assert told["nodes"][0]["id"] == "n1"
    for body, action in (({}, "restart"), ({"action": "recreate"}, "redeploy"), ({"action": "reboot"}, "reboot")):
        answer = await http.post("/recover/critic/1", json=body)
        assert answer.json()["steps"][0]["action"] == action
    assert (await http.post("/recover/critic/1")).json()["steps"][0]["action"] == "restart"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/v1/health?band=purple", None, 422),
        ("GET", "/api/v1/health?limit=0", None, 422),
        ("GET", "/api/v1/health?colour=red", None, 422),
        ("GET", "/api/v1/agents/critic/1/health?since_s=nan", None, 422),
        ("POST", "/api/v1/agents/critic/1/heal", {"action": "pray"}, 422),
        ("POST", "/api/v1/agents/critic/1/heal", {}, 422),
        ("POST", "/api/v1/agents/critic/1/heal", {"action": "restart", "force": True}, 422),
        ("POST", "/api/v1/agents/nobody/1/heal", {"action": "restart"}, 404),
        ("POST", "/api/v1/agents/cri tic/1/heal", {"action": "restart"}, 422),
        ("GET", "/api/v1/incidents?state=lost", None, 422),
        ("GET", "/api/v1/incidents?since=-1", None, 422),
        ("GET", "/api/v1/incidents/1", None, 404),
        ("GET", "/api/v1/incidents/one", None, 422),
        ("GET", "/api/v1/incidents/0", None, 422),
        ("GET", "/api/v1/incidents/99999999999999999999999999", None, 422),
        ("GET", "/api/v1/incidents/7/explain", None, 404),
        ("POST", "/api/v1/incidents/7/close", None, 404),
        ("POST", "/api/v1/fleets/CRITIC!/rollback", None, 422),
        ("POST", "/api/v1/policies/rehearse", {"cause": "bad luck"}, 422),
        ("POST", "/api/v1/policies/rehearse", {"causes": "hang"}, 422),
        ("GET", "/api/v1/report/kpi?since_s=1", None, 422),
        ("GET", "/api/v1/report/kpi?since_s=1e99", None, 422),
        ("GET", "/api/v1/report/kpi?html=perhaps", None, 422),
        ("POST", "/recover/critic/9", None, 404),
        ("GET", "/dashboard?x=1", None, 422),
    ],
)
async def test_what_makes_no_sense_is_refused_with_a_reason(
    http: httpx.AsyncClient, method: str, path: str, body: Any, status: int
) -> None:
    answer = await http.request(method, path, **({"json": body} if body is not None else {}))
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ({"cause": "hung"}, "body, at cause: 'hung' is none of crash, "),
        ({"cause": "han"}, "did you mean 'hang'?"),
        ({"helps": ["restart", "restrt"]}, "is none of restart, restart-clean, "),
        ({"state": "hung"}, "body, at state: 'hung' is none of pending, "),
        ({"score": 500}, "body, at score: "),
        ({"score": 10**20}, "body, at score: "),
    ],
)
async def test_what_an_imagined_incident_may_hold_is_told(
    http: httpx.AsyncClient, case: dict[str, Any], told: str
) -> None:
    answer = await http.post("/api/v1/policies/rehearse", json={"cause": "hang"} | case)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


async def test_without_the_token_nothing_is_told_or_done(http: httpx.AsyncClient, control: FakeControl) -> None:
    for method, path in (
        ("GET", "/api/v1/health"),
        ("GET", "/api/v1/incidents"),
        ("GET", "/api/v1/report/kpi?html=true"),
        ("GET", "/dashboard"),
        ("POST", "/recover/critic/1"),
        ("POST", "/api/v1/ops/clean-up"),
    ):
        answer = await http.request(method, path, headers={"Authorization": "Bearer wrong"})
        assert answer.status_code == 401
    assert control.care.book == {}
    assert control.daily.done == []


# --- pages


class Page(HTMLParser):
    """Whether a page is well-formed, and what it would load or run."""

    VOID = ("meta", "line", "rect", "!doctype")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            f"{tag} {name}={value}"
            for name, value in attrs
            if name in ("src", "href", "action", "srcset", "data", "poster") or name.startswith("on")
        ]
        if tag not in ("meta", "line") and not (tag == "rect" and self.get_starttag_text()[-2:] == "/>"):  # type: ignore[index]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def hostile_kpi(stretches: int) -> KpiReport:
    care = FakeControl().care
    incident = care.add_incident(HOSTILE, title=HOSTILE, note=HOSTILE, signature=HOSTILE, state=IncidentState.ESCALATED)
    points = [
        FleetPoint(
            fleet=HOSTILE,
            at=AT + 300 * n,
            span_s=300.0,
            wanted_s=0.0 if n % 7 == 0 else 900.0,
            ready_s=0.0 if n % 7 == 0 else 880.0,
            done=n % 5,
            latency_s=0.1 * (n % 5),
        )
        for n in range(stretches)
    ]
    kpis = [msgspec.structs.replace(care.kpis[0], name=HOSTILE, text=HOSTILE, unit=HOSTILE)]
    slos = [msgspec.structs.replace(care.slos[0], fleet=HOSTILE)]
    return KpiReport(
        at=AT, since_s=86_400.0, fleet=HOSTILE, kpis=kpis, objectives=slos, points=points, incidents=[incident]
    )


def hostile_health() -> HealthReport:
    score = Score(
        id=HOSTILE,
        fleet=HOSTILE,
        at=AT,
        score=3,
        band=Band.CRITICAL,
        because=[HOSTILE],
        forecasts=[Forecast(metric="m", now=1, limit=2, per_hour=1, in_s=60, text=HOSTILE)],
    )
    fleets = {HOSTILE: {"lowest": 3.0, "mean": 3.0, "agents": 1.0}}
    incident = FakeControl().care.add_incident(HOSTILE, title=HOSTILE)
    return HealthReport(at=AT, bands={HOSTILE: 1}, fleets=fleets, worst=[score], open=[incident])


@pytest.mark.parametrize(
    "text",
    [*(kpi_page(hostile_kpi(count)) for count in (0, 1, 2, 1000)), health_page(hostile_health())],
    ids=["no stretch", "one", "two", "more than bars", "health"],
)
def test_a_page_is_well_formed_loads_nothing_and_runs_nothing(text: str) -> None:
    page = Page(text)
    assert page.loads == []
    assert not {"script", "iframe", "img", "link", "object", "base", "form"} & set(page.tags)
    assert HOSTILE.rstrip("\x00") in "".join(page.text).replace("\x00", "")  # it is told, as a text
    assert not re.search(r"url\(|@import", text)
    assert "<script" not in text
    without_hostile = text.replace("https://evil.example", "")
    assert not re.search(r"https?://", without_hostile)


def test_a_page_of_a_long_time_has_few_bars_and_one_of_nothing_says_so() -> None:
    assert Page(kpi_page(hostile_kpi(100_00))).tags.count("rect") <= 3 * 240
    empty = kpi_page(KpiReport(at=AT, since_s=60.0, fleet="", kpis=[], objectives=[], points=[], incidents=[]))
    assert "None." in empty
    Page(empty)


def test_where_nothing_was_measured_there_is_a_gap_and_no_zero() -> None:
    still = FleetPoint(fleet="f", at=AT, span_s=300.0, done=3, latency_s=0.3)
    well = FleetPoint(fleet="f", at=AT + 300, span_s=300.0, wanted_s=300.0, ready_s=300.0)
    report = KpiReport(at=AT, since_s=600.0, fleet="", kpis=[], objectives=[], points=[still, well], incidents=[])
    text = kpi_page(report)
    assert "were not ready: from 0.000% to 0.000%" in text
    assert "Mean response time, s: from 0.1 to 0.1" in text
