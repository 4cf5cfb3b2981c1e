"""The cluster routes that operators of older systems know: thin aliases, lenient in how they are asked."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from paddock.api.bodies import HealBody, Json, body_of, optional_body_of
from paddock.api.callers import ByDep, ControlDep, known_query
from paddock.api.describe import answer, takes
from paddock.api.problems import nearest, shown
from paddock.api.shapes import ClusterTask, Healed, LiveAgents, cluster_task
from paddock.control.service import TaskRequest
from paddock.model.agent import AgentState, AgentStatus
from paddock.model.errors import Refused
from paddock.model.names import check_task_id, split_agent
from paddock.model.policy import Action
from paddock.model.task import Priority

router = APIRouter(prefix="/api/cluster", tags=["cluster"], dependencies=[Depends(known_query)])

LIVE = (AgentState.READY, AgentState.DEGRADED)
PAGE = 1000

SYNONYMS = {
    "fleet": "fleet",
    "agent_type": "fleet",
    "agent": "agent",
    "agent_id": "agent",
    "capability": "capability",
    "method": "method",
    "task": "method",
    "task_type": "method",
    "type": "method",
    "args": "args",
    "payload": "args",
    "params": "args",
    "priority": "priority",
    "timeout_s": "timeout_s",
    "timeout": "timeout_s",
    "delay_s": "delay_s",
    "max_attempts": "max_attempts",
    "key": "key",
    "idempotency_key": "key",
}
"""Every name that is understood, and the field of TaskRequest that it means."""


@router.get("/status", summary="Totals", responses=answer(dict, "The same as /status."))
async def cluster_status(control: ControlDep) -> Response:
    return Json(dict(await control.status()))


@router.get("/agents/live", summary="Live agents", responses=answer(LiveAgents, "All agents that take work now."))
async def live_agents(control: ControlDep) -> Response:
    agents: list[AgentStatus] = []
    for state in LIVE:
        found = control.agents(state=state.value, limit=PAGE)
        agents.extend(found.items)
        while found.next:
            found = control.agents(state=state.value, after=found.next, limit=PAGE)
            agents.extend(found.items)
    return Json(LiveAgents(count=len(agents), agents=agents))


@router.post(
    "/heal",
    summary="Heal one or all",
    responses=answer(Healed, "Who is being restarted."),
    openapi_extra=takes(HealBody, {"agent": "executor/0"}, required=False),
)
async def cluster_heal(
    control: ControlDep, by: ByDep, body: Annotated[HealBody, Depends(optional_body_of(HealBody))]
) -> Response:
    if not body.agent:
        return Json({"healed": list(await control.heal_all(by=by))})
    split_agent(body.agent)
    return Json({"healed": [(await control.care.heal(body.agent, Action.RESTART, by=by)).about]})


def request_of(body: dict[str, Any]) -> TaskRequest:
    """What an older client means. Unknown names and two names for one thing are refused, as everywhere."""
    fields: dict[str, Any] = {}
    said: dict[str, str] = {}
    for name, value in body.items():
        field = SYNONYMS.get(name)
        if field is None:
            raise Refused(f"unknown field {shown(name)}{nearest(name, SYNONYMS)} (known: {', '.join(SYNONYMS)})")
        if field in fields:
            raise Refused(f"{said[field]} and {name} mean the same; give one of them")
        fields[field], said[field] = value, name
    agent = fields.get("agent")
    if isinstance(agent, str) and "/" not in agent and "fleet" not in fields:
        fields["fleet"] = fields.pop("agent")  # "agent": "critic" has always meant any critic
    priority = fields.get("priority")
    if isinstance(priority, int) and priority in list(Priority):
        fields["priority"] = Priority(priority).name
    elif isinstance(priority, str):
        fields["priority"] = priority.upper()
    for field, kind, word in _KINDS:
        if field in fields and (not isinstance(fields[field], kind) or isinstance(fields[field], bool)):
            raise Refused(f"{said[field]} must be {word}, got {shown(fields[field])}")
    if not fields.get("method"):
        raise Refused("give method (or task): the name of the task to run")
    return TaskRequest(**fields)


_KINDS: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
    *((name, str, "text") for name in ("fleet", "agent", "capability", "method", "priority", "key")),
    ("args", dict, "an object"),
    ("timeout_s", (int, float), "a number"),
    ("delay_s", (int, float), "a number"),
    ("max_attempts", int, "a whole number"),
)


@router.post(
    "/task/submit",
    summary="Submit a task, leniently",
    description="Understands `agent_type`, `fleet` or `agent` for whom; `method`, `task` or `task_type` for what; "
    "`args`, `payload` or `params` for with what.",
    status_code=202,
    responses=answer(ClusterTask, "Accepted.", 202),
    openapi_extra=takes(dict, {"agent_type": "executor", "task": "run", "payload": {"code": "print(6*7)"}}),
)
async def cluster_submit(
    control: ControlDep, by: ByDep, body: Annotated[dict[str, Any], Depends(body_of(dict[str, Any]))]
) -> Response:
    task = await control.submit(request_of(body), by=by)
    location = f"/api/cluster/task/{task.id}"
    return Json(cluster_task(task), status_code=202, headers={"Location": location})


@router.get("/task/{id}", summary="One task", responses=answer(ClusterTask, "The task."))
async def cluster_get_task(control: ControlDep, id: str) -> Response:
    return Json(cluster_task(await control.task(check_task_id(id))))
