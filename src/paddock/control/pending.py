"""What the recorder knows and the record does not yet: rows waiting to be written, and the newest view of each task."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import msgspec

from paddock.control import views
from paddock.model.agent import AgentStatus
from paddock.model.task import Task, TaskResult, TaskState, TaskView
from paddock.ports.record import Batch, StoredEvent

ROWS_MAX = 10_000
"""Beyond this the tails wait until rows have been written; nothing is lost, the fabric keeps it."""

Running = tuple[str, str, str, int, float]


class Place(msgspec.Struct, frozen=True):
    """A message of a stream; `created` tells apart streams of one name."""

    stream: str = ""
    seq: int = 0
    created: str = ""


NOWHERE = Place()


class Row(msgspec.Struct, frozen=True):
    """One thing to write; `place` says how far its stream has been read with it."""

    what: Task | TaskResult | StoredEvent | Running | None
    place: Place = NOWHERE


class Pending:
    def __init__(self) -> None:
        self._rows: deque[Row] = deque()
        self._agents: dict[str, AgentStatus] = {}
        self._views: dict[str, TaskView] = {}
        self._open: Counter[str] = Counter()
        """task id → rows about it that wait, so that its view is dropped with the last."""
        self._taken: tuple[list[Row], list[AgentStatus]] = ([], [])

    def __len__(self) -> int:
        return len(self._rows) + len(self._agents) + len(self._taken[0]) + len(self._taken[1])

    @property
    def full(self) -> bool:
        return len(self._rows) + len(self._taken[0]) >= ROWS_MAX

    def add(self, row: Row) -> TaskView | None:
        """Queue a row; returns the task's newest view when the row is about a task."""
        self._rows.append(row)
        task_id = _task_id(row.what)
        if task_id is None:
            return None
        self._open[task_id] += 1
        view = self._advance(self._views.get(task_id), row.what)
        self._views[task_id] = view
        return view

    def add_agent(self, status: AgentStatus) -> None:
        """Queue an agent's status; only its newest is written."""
        self._agents[status.id] = status

    def view(self, task_id: str) -> TaskView | None:
        return self._views.get(task_id)

    def take(self, rows_max: int) -> Batch:
        """The next batch. It stays visible until `done` says that it was written; taken again until then."""
        if not self._taken[0] and not self._taken[1]:
            rows = [self._rows.popleft() for _ in range(min(rows_max, len(self._rows)))]
            agents = [self._agents.pop(key) for key in list(self._agents)[: rows_max - len(rows)]]
            self._taken = (rows, agents)
        return batch_of(*self._taken)

    def taken_singly(self) -> list[Batch]:
        """The taken batch as batches of one row each, to find the one that the record cannot take."""
        rows, agents = self._taken
        return [batch_of([row], []) for row in rows] + [batch_of([], [agent]) for agent in agents]

    def done(self) -> None:
        rows, _ = self._taken
        self._taken = ([], [])
        for row in rows:
            task_id = _task_id(row.what)
            if task_id is not None:
                self._open[task_id] -= 1
                if not self._open[task_id]:
                    del self._open[task_id]
                    self._views.pop(task_id, None)

    @staticmethod
    def _advance(known: TaskView | None, what: Any) -> TaskView:
        if isinstance(what, Task):
            return views.later_of(known, views.of_task(what)) or views.of_task(what)
        if isinstance(what, TaskResult):
            return views.later_of(known, views.of_result(what)) or views.of_result(what)
        task_id, fleet, agent, attempt, started_at = what
        base = known or TaskView(id=task_id, fleet=fleet, method="", state=TaskState.QUEUED)
        return started(base, agent, attempt, started_at)


def started(view: TaskView, agent: str, attempt: int, started_at: float) -> TaskView:
    """The view of a task that has not ended once it runs on `agent`."""
    if view.state.ended:
        return view
    return msgspec.structs.replace(
        view, state=TaskState.RUNNING, agent=agent, attempts=attempt, started_at=started_at or None
    )


def batch_of(rows: list[Row], agents: list[AgentStatus]) -> Batch:
    places: dict[str, Place] = {}
    queued: list[Task] = []
    results: list[TaskResult] = []
    events: list[StoredEvent] = []
    running: list[Running] = []
    for row in rows:
        if row.place.stream:
            places[row.place.stream] = row.place
        if isinstance(row.what, Task):
            queued.append(row.what)
        elif isinstance(row.what, TaskResult):
            results.append(row.what)
        elif isinstance(row.what, StoredEvent):
            events.append(row.what)
        elif row.what is not None:
            running.append(row.what)
    return Batch(
        queued=queued,
        running=running,
        results=results,
        agents=agents,
        events=events,
        cursors={stream: place.seq for stream, place in places.items()},
        created={stream: place.created for stream, place in places.items()},
    )


def _task_id(what: Task | TaskResult | StoredEvent | Running | None) -> str | None:
    if isinstance(what, Task | TaskResult):
        return what.id
    return what[0] if isinstance(what, tuple) else None
