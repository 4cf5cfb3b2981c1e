"""Every query of the record, by name. What a page or a merge means is said here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from paddock.model.task import TaskState
from paddock.record.rows import TOLD_BY_NOTE, TOLD_BY_TASK
from paddock.record.tables import agents, cursors, events, tasks

Insert = postgresql.Insert | sqlite.Insert
Value = sa.ColumnElement[Any]

INSERTS: dict[str, Callable[[sa.Table], Insert]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Dialect → its INSERT that knows ON CONFLICT."""

_REQUEST = ("fleet", "method", "priority", "to_agent", "args", "submitted_at", "submitted_by", "kept_s")
_OUTCOME = ("state", "attempts", "agent", "epoch", "result", "error", "started_at", "finished_at", "kept_until")
# Constants stand in the text: with many rows, each bound one would be sent with every row.
_OPEN = tasks.c.state.in_([sa.literal_column(f"'{state.value}'") for state in TaskState if not state.ended])
_TOLD_BY_NOTE = tasks.c.told_by == sa.literal_column(str(TOLD_BY_NOTE))
_NOT_TOLD_BY_TASK = tasks.c.told_by < sa.literal_column(str(TOLD_BY_TASK))


def put_queued(dialect: str) -> Insert:
    """Record what was asked for; tells a known task nothing new except a later `not_before`."""
    new = INSERTS[dialect](tasks)
    return new.on_conflict_do_update(
        index_elements=["id"],
        set_={
            **_taken_when(_NOT_TOLD_BY_TASK, new, (*_REQUEST, "told_by")),
            "not_before": _larger(new.excluded.not_before, tasks.c.not_before),
            "attempts": sa.case((_OPEN, _larger(new.excluded.attempts, tasks.c.attempts)), else_=tasks.c.attempts),
        },
        # Most conflicts are a replay of the stream; they must not write.
        where=_NOT_TOLD_BY_TASK
        | (new.excluded.not_before > tasks.c.not_before)
        | (new.excluded.attempts > tasks.c.attempts),
    )


def put_running(dialect: str) -> Insert:
    """Record who holds a task, unless it has ended; of several holders the latest to start."""
    new = INSERTS[dialect](tasks)
    later = sa.tuple_(new.excluded.started_at, new.excluded.agent) > sa.tuple_(
        sa.func.coalesce(tasks.c.started_at, sa.literal_column("-1.0")), tasks.c.agent
    )
    return new.on_conflict_do_update(
        index_elements=["id"],
        set_={
            "state": new.excluded.state,
            "attempts": _larger(new.excluded.attempts, tasks.c.attempts),
            **_taken_when(later, new, ("agent", "started_at")),
            **_taken_when(later & _TOLD_BY_NOTE, new, ("submitted_at",)),
        },
        where=_OPEN,
    )


def put_result(dialect: str) -> Insert:
    """Record how a task ended, unless it has ended already."""
    new = INSERTS[dialect](tasks)
    return new.on_conflict_do_update(
        index_elements=["id"],
        set_={
            **{name: new.excluded[name] for name in _OUTCOME},
            **_taken_when(_TOLD_BY_NOTE, new, (*_REQUEST, "told_by")),
        },
        where=_OPEN,
    )


def put_agent(dialect: str) -> Insert:
    """Record the latest status of an agent; an earlier incarnation has nothing more to say."""
    new = INSERTS[dialect](agents)
    return new.on_conflict_do_update(
        index_elements=["id"],
        set_={name: new.excluded[name] for name in ("fleet", "state", "epoch", "status", "seen_at")},
        where=new.excluded.epoch >= agents.c.epoch,
    )


def put_event(dialect: str) -> Insert:
    """Record an event once."""
    return INSERTS[dialect](events).on_conflict_do_nothing(index_elements=["created", "seq"])


def put_cursor(dialect: str) -> Insert:
    """Move a stream's cursor forward, never back; to another place only when it is another stream."""
    new = INSERTS[dialect](cursors)
    return new.on_conflict_do_update(
        index_elements=["stream"],
        set_={"created": new.excluded.created, "seq": new.excluded.seq},
        where=(new.excluded.created != cursors.c.created) | (new.excluded.seq > cursors.c.seq),
    )


def get_cursor(stream: str, created: str) -> sa.Select[Any]:
    """How far this very stream has been read."""
    return sa.select(cursors.c.seq).where(cursors.c.stream == stream, cursors.c.created == created)


def get_task(task_id: str) -> sa.Select[Any]:
    """One task by its id."""
    return sa.select(tasks).where(tasks.c.id == task_id)


def list_tasks(*, fleet: str, state: str, agent: str, after: tuple[float, str] | None, limit: int) -> sa.Select[Any]:
    """Tasks, newest first, that come after a (submitted_at, id)."""
    query = sa.select(tasks)
    if fleet:
        query = query.where(tasks.c.fleet == fleet)
    if state:
        query = query.where(tasks.c.state == state)
    if agent:
        query = query.where(tasks.c.agent == agent)
    if after is not None:
        here = sa.tuple_(tasks.c.submitted_at, tasks.c.id)
        query = query.where(here < sa.tuple_(sa.literal(after[0]), sa.literal(after[1])))
    return query.order_by(tasks.c.submitted_at.desc(), tasks.c.id.desc()).limit(limit)


def list_unfinished(*, state: str, before: float, after: tuple[float, str] | None, limit: int) -> sa.Select[Any]:
    """Tasks of one state, oldest first, that were submitted before a time and come after a (submitted_at, id)."""
    query = sa.select(tasks).where(tasks.c.state == state, tasks.c.submitted_at < before)
    if after is not None:
        here = sa.tuple_(tasks.c.submitted_at, tasks.c.id)
        query = query.where(here > sa.tuple_(sa.literal(after[0]), sa.literal(after[1])))
    return query.order_by(tasks.c.submitted_at, tasks.c.id).limit(limit)


def count_tasks() -> sa.Select[Any]:
    """How many tasks each fleet has in each state; reads an index only."""
    return sa.select(tasks.c.fleet, tasks.c.state, sa.func.count()).group_by(tasks.c.fleet, tasks.c.state)


def list_agents(*, fleet: str) -> sa.Select[Any]:
    """Latest statuses, of all agents or of one fleet's, in the order of ids."""
    query = sa.select(agents.c.status).order_by(agents.c.id)
    return query.where(agents.c.fleet == fleet) if fleet else query


def list_events(*, about: str, kind: str, after: int | None, limit: int) -> sa.Select[Any]:
    """Events, newest first, that come after one of them. A name without a slash also means what is under it."""
    query = sa.select(events)
    if about:
        query = query.where((events.c.about if "/" in about else events.c.root) == about)
    if kind:
        query = query.where(events.c.kind >= kind, events.c.kind < kind + "\U0010ffff")
    if after is not None:
        query = query.where(events.c.id < after)
    return query.order_by(events.c.id.desc()).limit(limit)


def forget_tasks(now: float, limit: int) -> sa.Delete:
    """Delete the ended tasks whose kept-for time was over first."""
    over = sa.select(tasks.c.id).where(tasks.c.kept_until <= now).order_by(tasks.c.kept_until).limit(limit)
    return sa.delete(tasks).where(tasks.c.id.in_(over))


def prune_events(before: float, limit: int) -> sa.Delete:
    """Delete the oldest events from before a time."""
    old = sa.select(events.c.id).where(events.c.at < before).order_by(events.c.at).limit(limit)
    return sa.delete(events).where(events.c.id.in_(old))


def prune_agents(before: float, limit: int) -> sa.Delete:
    """Delete the agents that were seen last before a time."""
    old = sa.select(agents.c.id).where(agents.c.seen_at < before).order_by(agents.c.seen_at).limit(limit)
    return sa.delete(agents).where(agents.c.id.in_(old))


def ping() -> sa.Select[Any]:
    """Touch a table, so that a database without ours does not count as one that answers."""
    return sa.select(cursors.c.seq).limit(1)


def _taken_when(condition: Value, new: Insert, names: Sequence[str]) -> dict[str, Value]:
    return {name: sa.case((condition, new.excluded[name]), else_=tasks.c[name]) for name in names}


def _larger(left: Value, right: Value) -> Value:
    """`max(a, b)` in SQLite and `greatest(a, b)` in PostgreSQL, in words that both know."""
    return sa.case((left > right, left), else_=right)
