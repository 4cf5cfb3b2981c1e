"""The record: what happened, in SQL. All calls block; callers run them in the record's own thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from paddock.model.agent import AgentStatus, Event
from paddock.model.errors import DataDirError, Unavailable
from paddock.model.health import HealthPoint
from paddock.model.incident import Incident
from paddock.model.kpi import FleetPoint, StepTally
from paddock.model.task import Task, TaskResult, TaskView


class RecordGone(Unavailable):
    """The record is not the one that was opened: what is written now would be found by nobody. Open it anew."""


class RecordDamaged(Unavailable, DataDirError):
    """The record is damaged, and a person has to act. To who opens it that is final; who has it open already goes on
    without it, and writes what waits once it is mended or was replaced (`RecordGone`)."""


class StoredEvent(msgspec.Struct, frozen=True):
    seq: int
    event: Event
    created: str = ""
    """Of which stream `seq` is; see `Batch.created`."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction: rows and how far each stream has been read. Applying a batch twice changes nothing more.

    A task row never goes back: queued < running < ended; the first end wins."""

    queued: Sequence[Task] = ()
    running: Sequence[tuple[str, str, str, int, float]] = ()
    """(task id, fleet, agent `fleet/name`, attempt, started_at)"""
    results: Sequence[TaskResult] = ()
    agents: Sequence[AgentStatus] = ()
    events: Sequence[StoredEvent] = ()
    incidents: Sequence[Incident] = ()
    """As they are now; of one that is over its steps are kept for `tallies`."""
    health: Sequence[HealthPoint] = ()
    fleets: Sequence[FleetPoint] = ()
    cursors: Mapping[str, int] = {}
    """stream → last sequence that this batch covers"""
    created: Mapping[str, str] = {}
    """stream → its identity (`Depth.created`). A cursor is worth something for that very stream only."""
    at: float = 0.0
    """When this was seen; for `agents`, that they are there."""


class Page(msgspec.Struct, frozen=True):
    """One page of a list; `next` is the cursor of the next page, or None at the end."""

    items: Sequence[Any]
    next: str | None = None


class Record(Protocol):
    def apply(self, batch: Batch) -> None: ...

    def cursor(self, stream: str, created: str = "") -> int:
        """Last sequence that was applied of the stream of this name and identity; 0 at first."""
        ...

    def task(self, task_id: str) -> TaskView | None: ...

    def tasks(self, *, fleet: str = "", state: str = "", agent: str = "", after: str = "", limit: int = 100) -> Page:
        """TaskViews, newest first."""
        ...

    def unfinished(self, state: str, before: float, *, after: str = "", limit: int = 100) -> Page:
        """TaskViews in this state that were submitted before `before`, oldest first."""
        ...

    def counts(self) -> Mapping[tuple[str, str], int]:
        """(fleet, task state) → number of tasks in the record."""
        ...

    def events(self, *, about: str = "", kind: str = "", after: str = "", limit: int = 100) -> Page:
        """StoredEvents, newest first. `about` also matches the agents of a fleet; `kind` is a prefix."""
        ...

    def incident(self, number: int) -> Incident | None: ...

    def incidents(
        self, *, about: str = "", state: str = "", since: float = 0.0, after: str = "", limit: int = 100
    ) -> Page:
        """Incidents, newest first. `about` also matches the agents of a fleet; `state` may be `open`: not over yet."""
        ...

    def last_incident(self) -> int:
        """The largest number ever given; 0 at first."""
        ...

    def tallies(self, now: float, *, half_life_s: float) -> Sequence[StepTally]:
        """What helped against what; a step counts half for every `half_life_s` of its age."""
        ...

    def health(self, agent: str, since: float) -> Sequence[HealthPoint]:
        """The history of one agent's score, oldest first."""
        ...

    def fleet_points(self, since: float, *, fleet: str = "") -> Sequence[FleetPoint]:
        """What fleets did, oldest first."""
        ...

    def coarsen(self, before: float, *, span_s: float) -> int:
        """Sum up the points of health in the oldest stretch of `span_s` that is all before `before` into one for each
        agent; returns how many finer ones went, 0 when nothing is left to do."""
        ...

    def forget(self, now: float, *, limit: int = 1000) -> int:
        """Delete up to `limit` tasks whose kept-for time is over; returns how many."""
        ...

    def prune(self, now: float, *, events_kept_s: float, agents_kept_s: float, limit: int = 1000) -> int:
        """Delete up to `limit` events that are older, and up to `limit` agents that were not seen for longer; returns
        how many rows."""
        ...

    def prune_history(self, now: float, *, kept_s: float, limit: int = 1000) -> int:
        """Delete up to `limit` each of incidents that ended, points of health and points of fleets that are older;
        returns how many rows."""
        ...

    def check(self) -> str:
        """What is wrong with the database itself, as far as it can say; empty: nothing. May take seconds."""
        ...

    def ping(self) -> None:
        """Raise `Unavailable` when the database does not answer."""
        ...

    def close(self) -> None: ...
