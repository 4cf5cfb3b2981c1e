"""What the recorder knows and the record does not yet: rows waiting to be written, and what they say of each task.

A view is made when somebody asks for it: of most tasks nobody does in the moment before they are written.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from paddock.control import views
from paddock.model.agent import AgentStatus
from paddock.model.task import Task, TaskResult, TaskState, TaskView
from paddock.ports.record import Batch, StoredEvent

ROWS_MAX = 10_000
"""Beyond this the tails wait until rows have been written; nothing is lost, the fabric keeps it."""

Running = tuple[str, str, str, int, float]


class Place(msgspec.Struct, frozen=True, gc=False):
    """A message of a stream; `created` tells apart streams of one name."""

    stream: str = ""
    seq: int = 0
    created: str = ""


NOWHERE = Place()


class Row(msgspec.Struct, frozen=True, gc=False):
    """One thing to write; `place` says how far its stream has been read with it."""

    what: Task | TaskResult | StoredEvent | Running | None
    place: Place = NOWHERE


class Pending:
    def __init__(self) -> None:
        self._rows: deque[Row] = deque()
        self._agents: dict[str, AgentStatus] = {}
        self._told: dict[str, _Told] = {}
        self._taken: tuple[list[Row], list[AgentStatus]] = ([], [])

    def __len__(self) -> int:
        return len(self._rows) + len(self._agents) + len(self._taken[0]) + len(self._taken[1])

    @property
    def full(self) -> bool:
        return len(self._rows) + len(self._taken[0]) >= ROWS_MAX

    def add(self, row: Row) -> None:
        """Queue a row."""
        self._rows.append(row)
        task_id = task_of(row.what)
        if task_id is not None:
            told = self._told.get(task_id)
            if told is None:
                told = self._told[task_id] = _Told()
            told.what.append(row.what)
            told.unwritten += 1

    def add_agent(self, status: AgentStatus) -> None:
        """Queue an agent's status; only its newest is written."""
        self._agents[status.id] = status

    def view(self, task_id: str) -> TaskView | None:
        """What the rows that wait, and those written since the first of them, say of a task."""
        told = self._told.get(task_id)
        if told is None:
            return None
        view: TaskView | None = None
        for what in told.what:
            view = self._advance(view, what)
        return view

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
            task_id = task_of(row.what)
            if task_id is not None:
                told = self._told[task_id]
                told.unwritten -= 1
                if not told.unwritten:
                    del self._told[task_id]

    @staticmethod
    def _advance(known: TaskView | None, what: Any) -> TaskView:
        if isinstance(what, Task):
            return views.later_of(known, views.of_task(what)) or views.of_task(what)
        if isinstance(what, TaskResult):
            return views.later_of(known, views.of_result(what)) or views.of_result(what)
        task_id, fleet, agent, attempt, started_at = what
        base = known or TaskView(id=task_id, fleet=fleet, method="", state=TaskState.QUEUED)
        return started(base, agent, attempt, started_at)


class _Told:
    """What was told of one task since it was last written to the end; `unwritten` of it waits."""

    __slots__ = ("unwritten", "what")

    def __init__(self) -> None:
        self.what: list[Any] = []
        self.unwritten = 0


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


def task_of(what: Task | TaskResult | StoredEvent | Running | None) -> str | None:
    """The id of the task that a row is about, if it is about one."""
    if isinstance(what, Task | TaskResult):
        return what.id
    return what[0] if isinstance(what, tuple) else None
