"""Routes about health and healing: scores, incidents, explanations, reports, and what a person may ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import HTMLResponse, Response

from paddock.api.agents import agent_id
from paddock.api.bodies import CloseBody, HealActionBody, Json, body_of, optional_body_of
from paddock.api.callers import After, ByDep, ControlDep, FleetFilter, Limit, known_query
from paddock.api.describe import answer, takes
from paddock.api.report import health_page, kpi_page
from paddock.api.shapes import AgentHealth, IncidentPage, OpsList, RolledBack, ScoreList, page
from paddock.decide.explain import Explanation
from paddock.decide.rehearse import Rehearsal, Rehearsed
from paddock.model.health import Band
from paddock.model.incident import Incident
from paddock.model.kpi import HealthReport, KpiReport, OpsReport
from paddock.model.names import check_name

router = APIRouter(prefix="/api/v1", tags=["healing"], dependencies=[Depends(known_query)])

DAY_S = 86_400.0
SinceS = Annotated[float, Query(ge=60, le=366 * DAY_S, allow_inf_nan=False, description="Of the last so many seconds.")]
AsPage = Annotated[bool, Query(description="One self-contained HTML page instead of JSON.")]
Number = Annotated[int, Path(ge=1, le=2**53, description="The number of an incident.")]


@router.get("/health", summary="Health of all agents", responses=answer(ScoreList, "Scores, the worst first."))
async def list_health(
    control: ControlDep,
    fleet: FleetFilter = "",
    band: Annotated[Band | None, Query(description="Only those in this band.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="At most so many.")] = 1000,
) -> Response:
    found = control.care.scores(fleet=fleet, band=band.value if band else "")
    return Json({"items": list(found[:limit]), "next": None})


@router.get(
    "/agents/{fleet}/{name}/health", summary="Health of one agent", responses=answer(AgentHealth, "Now and before.")
)
async def get_health(control: ControlDep, fleet: str, name: str, since_s: SinceS = DAY_S) -> Response:
    agent = agent_id(fleet, name)
    score = control.care.score(agent)
    return Json({"score": score, "history": list(await control.care.history(agent, score.at - since_s))})


@router.post(
    "/agents/{fleet}/{name}/heal",
    summary="Do one recovery action",
    description="Done at once; whether it helped is verified, and recorded as a step of an incident.",
    responses=answer(Incident, "The incident with the step."),
    openapi_extra=takes(HealActionBody, {"action": "redeploy"}),
)
async def heal_agent(
    control: ControlDep,
    by: ByDep,
    fleet: str,
    name: str,
    body: Annotated[HealActionBody, Depends(body_of(HealActionBody))],
) -> Response:
    return Json(await control.care.heal(agent_id(fleet, name), body.action, by=by))


@router.get("/incidents", summary="List incidents", responses=answer(IncidentPage, "One page, newest first."))
async def list_incidents(
    control: ControlDep,
    about: Annotated[str, Query(max_length=130, description="An agent, a fleet with its agents, a node.")] = "",
    state: Annotated[str, Query(max_length=20, description="`open`: not over yet; or one state.")] = "",
    since: Annotated[float, Query(ge=0, allow_inf_nan=False, description="Opened at this unix time or later.")] = 0.0,
    limit: Limit = 100,
    after: After = "",
) -> Response:
    found = await control.care.incidents(about=about, state=state, since=since, after=after, limit=limit)
    return Json(page(found))


@router.get("/incidents/{number}", summary="One incident", responses=answer(Incident, "All that is known of it."))
async def get_incident(control: ControlDep, number: Number) -> Response:
    return Json(await control.care.incident(number))


@router.get(
    "/incidents/{number}/explain",
    summary="Why?",
    responses=answer(Explanation, "What was seen, what was done and why, what came of it."),
)
async def explain_incident(control: ControlDep, number: Number) -> Response:
    return Json(await control.care.explain(number))


@router.post(
    "/incidents/{number}/close",
    summary="End an incident by hand",
    responses=answer(Incident, "The incident as it ended."),
    openapi_extra=takes(CloseBody, {"why": "the disk was replaced"}, required=False),
)
async def close_incident(
    control: ControlDep, by: ByDep, number: Number, body: Annotated[CloseBody, Depends(optional_body_of(CloseBody))]
) -> Response:
    return Json(await control.care.close(number, by=by, why=body.why))


@router.post(
    "/fleets/{name}/rollback",
    summary="Bring back the version before",
    responses=answer(RolledBack, "The version that is wanted now."),
)
async def rollback_fleet(control: ControlDep, by: ByDep, name: str) -> Response:
    version = await control.care.rollback(check_name("fleet", name), by=by)
    return Json(RolledBack(fleet=name, version=version))


@router.post(
    "/policies/rehearse",
    summary="What would happen?",
    description="Climbs the ladder of a fleet's policy for an imagined incident, and does nothing.",
    responses=answer(Rehearsed, "What would happen, in order."),
    openapi_extra=takes(Rehearsal, {"fleet": "executor", "cause": "hang", "helps": ["redeploy"]}),
)
async def rehearse_policy(control: ControlDep, body: Annotated[Rehearsal, Depends(body_of(Rehearsal))]) -> Response:
    return Json(control.care.rehearse(body))


@router.get("/ops", summary="Daily operations", responses=answer(OpsList, "Their names."))
async def list_ops(control: ControlDep) -> Response:
    return Json({"items": list(control.daily.names()), "next": None})


@router.post(
    "/ops/{name}",
    summary="Run a daily operation now",
    description="Each runs once a day by itself. What it finds is in the answer, and in the history as `ops.<name>`.",
    responses=answer(OpsReport, "What it found."),
)
async def run_ops(control: ControlDep, by: ByDep, name: str) -> Response:
    return Json(await control.daily.do(name, by=by))


@router.get("/report/kpi", summary="Key figures", responses=answer(KpiReport, "Figures, objectives, what they are of."))
async def report_kpi(
    control: ControlDep, fleet: FleetFilter = "", since_s: SinceS = DAY_S, html: AsPage = False
) -> Response:
    report = await control.care.kpi_report(since_s=since_s, fleet=fleet)
    return HTMLResponse(kpi_page(report)) if html else Json(report)


@router.get(
    "/report/health", summary="Health report", responses=answer(HealthReport, "Bands, the worst, what is open.")
)
async def report_health(control: ControlDep, fleet: FleetFilter = "", html: AsPage = False) -> Response:
    report = control.care.health_report(fleet=fleet)
    return HTMLResponse(health_page(report)) if html else Json(report)
