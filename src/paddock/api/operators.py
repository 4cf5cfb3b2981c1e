"""Routes that operators of older bot systems know: `/dashboard` as data, `/recover/<fleet>/<name>`. Thin aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from paddock.api.agents import agent_id
from paddock.api.bodies import Json, RecoverBody, optional_body_of
from paddock.api.callers import ByDep, ControlDep, known_query
from paddock.api.describe import answer, takes
from paddock.model.incident import Incident

router = APIRouter(tags=["cluster"], dependencies=[Depends(known_query)])


@router.get("/dashboard", summary="All that a dashboard shows", responses=answer(dict, "Totals, health, incidents."))
async def dashboard(control: ControlDep) -> Response:
    health = control.care.health_report()
    return Json(
        {
            "totals": dict(await control.status()),
            "health": {"bands": health.bands, "fleets": health.fleets, "worst": health.worst},
            "incidents": health.open,
            "nodes": list(control.nodes()),
        }
    )


@router.post(
    "/recover/{fleet}/{name}",
    summary="Recover one agent",
    description="`action` is restart (the default), reboot, redeploy, or any other that its runtime offers.",
    responses=answer(Incident, "The incident with the step."),
    openapi_extra=takes(RecoverBody, {"action": "restart"}, required=False),
)
async def recover(
    control: ControlDep,
    by: ByDep,
    fleet: str,
    name: str,
    body: Annotated[RecoverBody, Depends(optional_body_of(RecoverBody))],
) -> Response:
    return Json(await control.care.heal(agent_id(fleet, name), body.action, by=by))
