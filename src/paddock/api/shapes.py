"""Shapes of answers that are not model structs themselves: pages, lists and small results."""

from __future__ import annotations

from typing import Any

import msgspec

from paddock.control.service import AlertTest
from paddock.model.agent import AgentStatus, NodeStatus
from paddock.model.health import HealthPoint, Score
from paddock.model.incident import Incident
from paddock.model.task import TaskView
from paddock.ports.record import Page, StoredEvent


class AgentPage(msgspec.Struct, frozen=True, kw_only=True):
    """Agents, in order of their ids."""

    items: list[AgentStatus]
    next: str | None
    """The cursor of the next page (`after`), or null at the end."""


class TaskPage(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks, newest first."""

    items: list[TaskView]
    next: str | None
    """The cursor of the next page (`after`), or null at the end."""


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, newest first."""

    items: list[StoredEvent]
    next: str | None
    """The cursor of the next page (`after`), or null at the end."""


class NodeList(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes."""

    items: list[NodeStatus]
    next: None = None


class LogText(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an agent's log."""

    text: str
    offset: int
    """Where it ends: ask with it for what comes after."""


class Healed(msgspec.Struct, frozen=True, kw_only=True):
    """Who is being restarted."""

    healed: list[str]
    """Ids of agents."""


class AlertTests(msgspec.Struct, frozen=True, kw_only=True):
    """Which channels reach people."""

    items: list[AlertTest]


class ScoreList(msgspec.Struct, frozen=True, kw_only=True):
    """Health of agents, the worst first."""

    items: list[Score]
    next: None = None


class AgentHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Health of one agent."""

    score: Score
    history: list[HealthPoint]
    """Oldest first: 24 h fine, then coarse."""


class IncidentPage(msgspec.Struct, frozen=True, kw_only=True):
    """Incidents, newest first."""

    items: list[Incident]
    next: str | None
    """The cursor of the next page (`after`), or null at the end."""


class OpsList(msgspec.Struct, frozen=True, kw_only=True):
    """Names of daily operations."""

    items: list[str]
    next: None = None


class RolledBack(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet that is what it was before."""

    fleet: str
    version: str
    """The one that is wanted now."""


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """The server answers."""

    status: str
    """`ok`"""
    version: str


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether all parts are there."""

    ready: bool
    parts: dict[str, str]
    """Part → `ok`, or what is wrong with it."""


class LiveAgents(msgspec.Struct, frozen=True, kw_only=True):
    """Agents that take work now."""

    count: int
    agents: list[AgentStatus]


class ClusterTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task, in the shape of the cluster routes."""

    task_id: str
    status: str
    """Its state."""
    result: Any
    error: str | None
    """The message of its failure."""
    task: TaskView


def cluster_task(task: TaskView) -> ClusterTask:
    return ClusterTask(
        task_id=task.id,
        status=task.state.value,
        result=task.result,
        error=task.error.message if task.error else None,
        task=task,
    )


def page(found: Page) -> dict[str, Any]:
    """A page as it goes out."""
    return {"items": list(found.items), "next": found.next}
