"""Routes about the whole: alive, ready, status, metrics, history and live changes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import RedirectResponse, Response

from paddock.api import metrics
from paddock.api.bodies import Json
from paddock.api.callers import After, ControlDep, Limit, known_query
from paddock.api.describe import answer
from paddock.api.problems import response_of
from paddock.api.shapes import Alive, HistoryPage, Readiness, page
from paddock.api.stream import EventStream
from paddock.model.errors import PaddockError

router = APIRouter(tags=["system"], dependencies=[Depends(known_query)])

TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events.",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'id: 17\nevent: agent\ndata: {"id":"executor/0","state":"ready"}\n\n',
            }
        },
    }
}


@router.get("/", include_in_schema=False)
async def root() -> Response:
    return RedirectResponse("/docs")


@router.get("/health", include_in_schema=False)
@router.get("/healthz", summary="Alive?", openapi_extra={"security": []}, responses=answer(Alive, "It answers."))
async def healthz(request: Request) -> Response:
    return Json({"status": "ok", "version": request.app.version})


@router.get(
    "/readyz",
    summary="Ready?",
    openapi_extra={"security": []},
    responses=answer(Readiness, "All parts are there.")
    | answer(Readiness, "A part is missing; `parts` says which.", 503),
)
async def readyz(request: Request, control: ControlDep) -> Response:
    try:
        parts = dict(await control.ready())
    except PaddockError as error:
        return response_of(error, path=request.url.path)
    ready = all(said == "ok" for said in parts.values())
    return Json({"ready": ready, "parts": parts}, status_code=200 if ready else 503)


@router.get("/status", summary="Totals", responses=answer(dict, "Agents by state, tasks by fleet and state, parts."))
async def status(control: ControlDep) -> Response:
    return Json(dict(await control.status()))


@router.get("/metrics", summary="Figures for Prometheus", responses=TEXT, response_class=Response)
async def get_metrics(request: Request, control: ControlDep) -> Response:
    text = await metrics.render(control, request.app.state.metrics)
    return Response(text, media_type=metrics.CONTENT_TYPE)


@router.get("/api/v1/history", summary="What happened", responses=answer(HistoryPage, "One page, newest first."))
async def history(
    control: ControlDep,
    about: Annotated[str, Query(max_length=130, description="An agent, a fleet with its agents, a node, a task.")] = "",
    kind: Annotated[str, Query(max_length=100, description="The kind or its beginning, such as `agent.`.")] = "",
    limit: Limit = 100,
    after: After = "",
) -> Response:
    return Json(page(await control.history(about=about, kind=kind, after=after, limit=limit)))


@router.get(
    "/api/v1/events",
    summary="Live changes",
    description="Server-sent events from now on: `agent`, `task`, `fleet`, `node`, `event`, each with the same JSON as "
    "its GET. `lost`: changes were missed (the reader was too slow, or it reconnected); read the state anew. "
    "A comment comes every 15 s when nothing else does.",
    responses=EVENTS,
    response_class=Response,
)
async def events(
    request: Request,
    control: ControlDep,
    last_event_id: Annotated[str | None, Header(description="Sent by clients that reconnect.")] = None,
) -> Response:
    request.state.streamed = True
    state = request.app.state
    return EventStream(
        control.changes(), stopping=state.stopping, heartbeat_s=state.heartbeat_s, missed=bool(last_event_id)
    )
