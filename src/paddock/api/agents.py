"""Routes of agents and nodes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from paddock.api.bodies import Json
from paddock.api.callers import After, AgentsLimit, ByDep, ControlDep, FleetFilter, known_query
from paddock.api.describe import answer
from paddock.api.shapes import AgentPage, Healed, LogText, NodeList, page
from paddock.api.waiting import unless_over
from paddock.model.agent import AgentState, AgentStatus
from paddock.model.errors import Refused
from paddock.model.names import check_name

router = APIRouter(prefix="/api/v1", tags=["agents"], dependencies=[Depends(known_query)])

LogWaitS = Annotated[
    float, Query(ge=0, le=60, allow_inf_nan=False, description="With `offset`: wait so long for more.")
]


def agent_id(fleet: str, name: str) -> str:
    return f"{check_name('fleet', fleet)}/{check_name('agent', name)}"


@router.get("/agents", summary="List agents", responses=answer(AgentPage, "One page of agents."))
async def list_agents(
    control: ControlDep,
    fleet: FleetFilter = "",
    state: Annotated[AgentState | None, Query(description="Only those in this state.")] = None,
    limit: AgentsLimit = 100,
    after: After = "",
) -> Response:
    return Json(page(control.agents(fleet=fleet, state=state.value if state else "", after=after, limit=limit)))


@router.get("/agents/{fleet}/{name}", summary="One agent", responses=answer(AgentStatus, "The agent as it is now."))
async def get_agent(control: ControlDep, fleet: str, name: str) -> Response:
    return Json(control.agent(agent_id(fleet, name)))


@router.post(
    "/agents/{fleet}/{name}/restart",
    summary="Restart one agent",
    description="Stops it gracefully and starts a new incarnation; lifts a quarantine.",
    responses=answer(AgentStatus, "The agent after the order was given."),
)
async def restart_agent(control: ControlDep, by: ByDep, fleet: str, name: str) -> Response:
    return Json(await control.restart(agent_id(fleet, name), by=by))


@router.get(
    "/agents/{fleet}/{name}/logs",
    summary="An agent's log",
    description="The last `lines`, or with `offset` what came after it. Follow a log by asking again with the "
    "`offset` of the answer and a `wait_s`.",
    responses=answer(LogText, "A piece of the log."),
)
async def get_logs(
    request: Request,
    control: ControlDep,
    fleet: str,
    name: str,
    lines: Annotated[int | None, Query(ge=1, le=10_000, description="50 when neither is given.")] = None,
    offset: Annotated[int | None, Query(ge=0, description="`offset` of the answer before.")] = None,
    wait_s: LogWaitS = 0.0,
) -> Response:
    if lines is not None and offset is not None:
        raise Refused("give lines or offset, not both")
    if wait_s and offset is None:
        raise Refused("wait_s needs offset: without it the answer is there at once")
    about = agent_id(fleet, name)
    found = await unless_over(request, control.logs(about, lines=lines or 50, offset=offset, wait_s=wait_s))
    return Json({"text": "", "offset": offset or 0} if found is None else found)


@router.post(
    "/heal",
    summary="Heal all",
    description="Restarts every agent that is failed or quarantined.",
    responses=answer(Healed, "Who is being restarted."),
)
async def heal_all(control: ControlDep, by: ByDep) -> Response:
    return Json({"healed": list(await control.heal_all(by=by))})


@router.get("/nodes", summary="List nodes", tags=["nodes"], responses=answer(NodeList, "All nodes."))
async def list_nodes(control: ControlDep) -> Response:
    return Json({"items": list(control.nodes()), "next": None})
