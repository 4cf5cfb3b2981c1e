"""Routes of tasks."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from paddock.api.bodies import Json, body_of
from paddock.api.callers import After, ByDep, ControlDep, FleetFilter, KeyDep, Limit, WaitS, known_query
from paddock.api.describe import answer, takes
from paddock.api.shapes import TaskPage, page
from paddock.api.waiting import unless_over
from paddock.control.service import Control, TaskRequest
from paddock.model.errors import Refused
from paddock.model.names import check_task_id, split_agent
from paddock.model.task import TaskState, TaskView

router = APIRouter(prefix="/api/v1", tags=["tasks"], dependencies=[Depends(known_query)])

EXAMPLE = {"fleet": "executor", "method": "run", "args": {"code": "print(6*7)"}}


async def ended_or_as_is(request: Request, control: Control, task: TaskView, wait_s: float) -> TaskView:
    """The task once it has ended, or as it is when the time is over or the server stops."""
    if not wait_s or task.state.ended:
        return task
    return await unless_over(request, control.wait(task.id, wait_s)) or task


def accepted(task: TaskView, *, new: bool) -> Response:
    """200 for one that has ended; 202 for one that was accepted and goes on."""
    status = 202 if new and not task.state.ended else 200
    return Json(task, status_code=status, headers={"Location": f"/api/v1/tasks/{task.id}"} if new else None)


@router.post(
    "/tasks",
    summary="Submit a task",
    description="Exactly one of `fleet`, `agent` and `capability` says for whom. Once accepted it is on disk and ends "
    "exactly once. With `wait_s` the answer waits for the end. A full queue answers 429 with Retry-After.",
    status_code=202,
    responses=answer(TaskView, "Accepted; `Location` says where to ask for it.", 202)
    | answer(TaskView, "It has ended within `wait_s`."),
    openapi_extra=takes(TaskRequest, EXAMPLE),
)
async def submit_task(
    request: Request,
    control: ControlDep,
    by: ByDep,
    key: KeyDep,
    body: Annotated[TaskRequest, Depends(body_of(TaskRequest))],
    wait_s: WaitS = 0.0,
) -> Response:
    if key and body.key and key != body.key:
        raise Refused("header Idempotency-Key and key of the body differ; give one of them")
    if key:
        body = msgspec.structs.replace(body, key=key)
    task = await control.submit(body, by=by)
    return accepted(await ended_or_as_is(request, control, task, wait_s), new=True)


@router.get("/tasks", summary="List tasks", responses=answer(TaskPage, "One page of tasks, newest first."))
async def list_tasks(
    control: ControlDep,
    fleet: FleetFilter = "",
    state: Annotated[TaskState | None, Query(description="Only those in this state.")] = None,
    agent: Annotated[str, Query(max_length=130, description="Only those that this agent (`fleet/name`) held.")] = "",
    limit: Limit = 100,
    after: After = "",
) -> Response:
    if agent:
        split_agent(agent)
    return Json(
        page(
            await control.tasks(fleet=fleet, state=state.value if state else "", agent=agent, after=after, limit=limit)
        )
    )


@router.get(
    "/tasks/{id}",
    summary="One task",
    description="With `wait_s`: once it has ended, or as it is when the time is over.",
    responses=answer(TaskView, "The task; look at its `state`."),
)
async def get_task(request: Request, control: ControlDep, id: str, wait_s: WaitS = 0.0) -> Response:
    task = await control.task(check_task_id(id))
    return accepted(await ended_or_as_is(request, control, task, wait_s), new=False)


@router.post(
    "/tasks/{id}/cancel",
    summary="Cancel a task",
    description="A queued one is taken out; who holds a running one is asked to give it up.",
    responses=answer(TaskView, "The task after the order was given."),
)
async def cancel_task(control: ControlDep, by: ByDep, id: str) -> Response:
    return Json(await control.cancel(check_task_id(id), by=by))


@router.post(
    "/tasks/{id}/replay",
    summary="Replay a task",
    description="A new task with the method and arguments of one that ended as dead, failed or cancelled.",
    status_code=202,
    responses=answer(TaskView, "The new task.", 202),
)
async def replay_task(control: ControlDep, by: ByDep, id: str) -> Response:
    return accepted(await control.replay(check_task_id(id), by=by), new=True)
