"""Routes about telling people."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from paddock.api.bodies import AlertTestBody, Json, optional_body_of
from paddock.api.callers import ByDep, ControlDep, known_query
from paddock.api.describe import answer, takes
from paddock.api.shapes import AlertTests

router = APIRouter(prefix="/api/v1/alerts", tags=["alerts"], dependencies=[Depends(known_query)])


@router.post(
    "/test",
    summary="Try channels",
    description="Sends a test message by one channel, or by all, now: past routes, cool-down and quiet hours.",
    responses=answer(AlertTests, "What came of it, a channel each."),
    openapi_extra=takes(AlertTestBody, {"channel": "mail"}, required=False),
)
async def test_alerts(
    control: ControlDep, by: ByDep, body: Annotated[AlertTestBody, Depends(optional_body_of(AlertTestBody))]
) -> Response:
    return Json(AlertTests(items=list(await control.test_alerts(body.channel, by=by))))
