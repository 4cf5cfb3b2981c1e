"""Routes of fleets, and of the manifests that declare them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends
from starlette.responses import Response

from paddock.api.bodies import MANIFESTS_MAX, Json, ManifestsBody, ScaleBody, body_of
from paddock.api.callers import ByDep, ControlDep, known_query
from paddock.api.describe import answer, takes
from paddock.control.service import FleetView
from paddock.model.errors import Refused
from paddock.model.manifest import ManifestSource
from paddock.model.names import check_name
from paddock.model.plan import Plan

router = APIRouter(prefix="/api/v1", tags=["fleets"], dependencies=[Depends(known_query)])

REPLICAS_MAX = 1_000_000
"""Beyond any sense; what a fleet may really have is control's to say."""


class FleetList(msgspec.Struct, frozen=True, kw_only=True):
    """All fleets, in order of their names."""

    items: list[FleetView]
    next: None = None


@router.get("/fleets", summary="List fleets", responses=answer(FleetList, "All fleets."))
async def list_fleets(control: ControlDep) -> Response:
    return Json(FleetList(items=list(control.fleets())))


@router.get("/fleets/{fleet}", summary="One fleet", responses=answer(FleetView, "The fleet: what is wanted, what is."))
async def get_fleet(control: ControlDep, fleet: str) -> Response:
    return Json(control.fleet(check_name("fleet", fleet)))


@router.post(
    "/fleets/{fleet}/scale",
    summary="Scale a fleet",
    description="Sets how many agents are wanted; they come and go in the background.",
    responses=answer(FleetView, "The fleet with its new wanted number."),
    openapi_extra=takes(ScaleBody, {"replicas": 50}),
)
async def scale_fleet(
    control: ControlDep, by: ByDep, fleet: str, body: Annotated[ScaleBody, Depends(body_of(ScaleBody))]
) -> Response:
    if not 0 <= body.replicas <= REPLICAS_MAX:
        raise Refused(f"replicas must be 0 to {REPLICAS_MAX:,}, got {str(body.replicas)[:30]}")
    return Json(await control.scale(check_name("fleet", fleet), body.replicas, by=by))


@router.delete(
    "/fleets/{fleet}",
    summary="Delete a fleet",
    description="Stops its agents; it is no longer wanted.",
    status_code=204,
    response_class=Response,
)
async def delete_fleet(control: ControlDep, by: ByDep, fleet: str) -> Response:
    await control.delete_fleet(check_name("fleet", fleet), by=by)
    return Response(status_code=204)


EXAMPLE = {
    "manifests": [
        {"name": "demo.yaml", "text": 'paddock: 1\nfleets:\n  demo: {command: ["sleep", "60"], replicas: 2}\n'}
    ]
}
Manifests = Annotated[ManifestsBody, Depends(body_of(ManifestsBody))]


def _sources(body: ManifestsBody) -> list[ManifestSource]:
    if not 1 <= len(body.manifests) <= MANIFESTS_MAX:
        raise Refused(f"manifests: give 1 to {MANIFESTS_MAX}, got {len(body.manifests)}")
    return [ManifestSource(name=one.name, text=one.text, folder=one.folder) for one in body.manifests]


@router.post(
    "/plan",
    summary="Plan manifests",
    description="What applying them would change; changes nothing.",
    responses=answer(Plan, "The plan."),
    openapi_extra=takes(ManifestsBody, EXAMPLE),
    tags=["manifests"],
)
async def plan(control: ControlDep, body: Manifests) -> Response:
    return Json(await control.plan(_sources(body), prune=body.prune))


@router.post(
    "/apply",
    summary="Apply manifests",
    description="Makes them what is wanted, all or nothing.",
    responses=answer(Plan, "The plan that was carried out."),
    openapi_extra=takes(ManifestsBody, EXAMPLE),
    tags=["manifests"],
)
async def apply(control: ControlDep, by: ByDep, body: Manifests) -> Response:
    return Json(await control.apply(_sources(body), prune=body.prune, by=by))
