"""What is known of one agent, one node, and of how an incarnation ended."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class AgentState(StrEnum):
    """States of an agent; `node/` moves an agent between them (see the diagram in `node/supervisor.py`)."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    QUARANTINED = "quarantined"


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended. Both None: the system no longer knows (its parent died first)."""

    code: int | None = None
    signal: int | None = None
    oom: bool | None = False
    """Taken by the kernel for want of memory; None: perhaps, it took somebody at that time and does not say whom."""

    @property
    def clean(self) -> bool:
        return self.code == 0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of the end of one incarnation."""

    at: float
    epoch: int
    pid: int | None
    exit: Exit
    reason: str
    """One sentence: 'killed by SIGKILL', 'no beat for 10.0 s: hung', 'exit code 3 before it was ready'."""
    last_lines: list[str] = []
    tasks: list[str] = []
    """Ids of the tasks that it held."""
    uptime_s: float = 0.0
    probes: list[str] = []
    """The probes that failed last, each `name: what was wrong`."""
    version: str = ""
    """Of the template that ran; empty: an older node does not say."""


AS_TOLD = "as it was told to"
"""Stands in the reason of an agent that is degraded because that was wanted: it is not waited for to be ready."""


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The present of one agent, written by its node to the bucket `now`."""

    id: str
    fleet: str
    state: AgentState
    pid: int | None = None
    epoch: int = 0
    restarts: int = 0
    tasks_done: int = 0
    tasks_failed: int = 0
    log_lost: int = 0
    """Lines that this incarnation wrote to its log and the disk did not take."""
    health: int = 0
    """0-100; until probes exist: 100 ready, 50 starting or draining, 0 otherwise."""
    node: str = ""
    started_at: float | None = None
    template: str = ""
    """Version of the template it was started from."""
    ports: dict[str, int] = {}
    reason: str = ""
    """Why it is in this state, when that needs saying."""
    last_exit: Evidence | None = None


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The present of one node, written by itself to the bucket `now` every `beat_s`."""

    id: str
    host: str
    pid: int
    started_at: float
    seen_at: float
    agents: int = 0
    cpus: int = 0
    memory_bytes: int = 0
    version: str = ""
    agents_max: int = 0
    """How many agents it can hold, those that run included; 0: it does not say."""
    agents_max_why: str = ""
    """By which of its limits, and what to raise."""
    attributes: dict[str, Any] = {}


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened, stored in the stream EVENTS on `event.<kind>.<about>`."""

    at: float
    kind: str
    """Dotted: `agent.died`, `agent.ready`, `task.returned`, `fleet.applied`, …"""
    about: str
    """`fleet/name`, a fleet, a node or a task id."""
    text: str
    """One sentence for people."""
    by: str = ""
    data: dict[str, Any] = {}
