"""Short ways to say what happened."""

from __future__ import annotations

from typing import Any

from paddock.model.agent import AgentState, AgentStatus, Event
from paddock.model.task import Task, TaskResult, TaskState
from paddock.ports.record import StoredEvent


def task(task_id: str = "t1", **fields: Any) -> Task:
    usual: dict[str, Any] = {"fleet": "critic", "method": "review", "submitted_at": 100.0}
    return Task(id=task_id, **usual | fields)


def result(task_id: str = "t1", **fields: Any) -> TaskResult:
    usual: dict[str, Any] = {
        "fleet": "critic",
        "method": "review",
        "state": TaskState.DONE,
        "agent": "critic/0",
        "submitted_at": 100.0,
        "started_at": 101.0,
        "finished_at": 102.0,
        "kept_s": 60.0,
    }
    return TaskResult(id=task_id, **usual | fields)


def running(
    task_id: str = "t1", agent: str = "critic/0", attempt: int = 1, at: float = 101.0
) -> tuple[str, str, str, int, float]:
    return task_id, agent.partition("/")[0], agent, attempt, at


def event(seq: int, kind: str = "agent.ready", about: str = "critic/0", **fields: Any) -> StoredEvent:
    usual: dict[str, Any] = {"at": float(seq), "text": "It is."}
    created = fields.pop("created", "")
    return StoredEvent(seq=seq, event=Event(kind=kind, about=about, **usual | fields), created=created)


def agent(agent_id: str = "critic/0", state: AgentState = AgentState.READY, epoch: int = 1) -> AgentStatus:
    return AgentStatus(id=agent_id, fleet=agent_id.partition("/")[0], state=state, epoch=epoch)
