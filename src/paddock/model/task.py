"""Tasks and their results, as they travel (JSON) and as the record keeps them.

queued ──> running ──> done
  │  ^        ├──────> failed      the code refused it or raised, and no retry is due
  │  └────────┤                    retry after an error, or its agent died
  │           └──────> dead        given up: see the reason; can be replayed by hand
  └──────────────────> cancelled
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any

import msgspec

PAYLOAD_BYTES_MAX = 900_000
"""Limit of one encoded task or result; the fabric's own message limit is 1 MiB."""

# What came as JSON is in no cycle, so the garbage collector need not look at tasks and results (`gc=False`).


class TaskState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (TaskState.QUEUED, TaskState.RUNNING)


class Priority(IntEnum):
    """Lower is sooner; the value is the `p<n>` of the task's subject."""

    CRITICAL = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One piece of work, as stored in the fabric. Times are unix seconds."""

    id: str
    fleet: str
    method: str
    args: dict[str, Any] = {}
    agent: str = ""
    """Name within the fleet when the task is for one agent, else empty."""
    priority: int = Priority.MEDIUM
    submitted_at: float = 0.0
    submitted_by: str = ""
    not_before: float = 0.0
    timeout_s: float = 0.0
    """0: the method's own time-out."""
    max_attempts: int = 0
    """How often it may be handed out at the most; 0: the method's own limit."""
    kept_s: float = 604_800.0
    """How long its result is kept, in seconds."""
    keyed: bool = False
    """Its id comes from an idempotency key: look for a result before running."""
    repeatable: bool = True
    """Whether it may run again after the agent that held it died."""
    attempts_before: int = 0
    """Attempts already used when the task was put back as a new message."""


class TaskFailure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a task ended without a result."""

    code: str
    message: str
    where: str = ""
    """File, line and function of the author's code, when it raised."""
    trace: str = ""


class TaskResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The one outcome of a task. It repeats what identifies the task, so that it can be recorded without it."""

    id: str
    fleet: str
    method: str
    state: TaskState
    result: Any = None
    error: TaskFailure | None = None
    attempts: int = 1
    agent: str = ""
    """`fleet/name` of who ended it."""
    epoch: int = 0
    priority: int = Priority.MEDIUM
    args: dict[str, Any] = {}
    submitted_at: float = 0.0
    submitted_by: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0
    kept_s: float = 604_800.0
    to_agent: str = ""
    """The task's own `agent`: whom it was addressed to."""
    timeout_s: float = 0.0
    """This and the next two as in the task, so that a replay is the same task again."""
    max_attempts: int = 0
    repeatable: bool = True


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task as people see it: the JSON of the API and the CLI."""

    id: str
    fleet: str
    method: str
    state: TaskState
    attempts: int = 0
    agent: str | None = None
    result: Any = None
    error: TaskFailure | None = None
    submitted_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    priority: str = "MEDIUM"
    args: dict[str, Any] = {}
    not_before: float | None = None
    progress: float | None = None
    progress_note: str | None = None
    kept_until: float | None = None
    submitted_by: str = ""
    to_agent: str = ""
    """`fleet/name` of whom it was addressed to; empty: any agent of the fleet."""
    kept_s: float = 604_800.0
    """How long its result is kept once it has ended."""
