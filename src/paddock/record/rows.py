"""Rows from what the streams say, and what people see from rows. Pure; knows no SQL.

What comes in was written by agents in any language, so nothing here may stop the recorder for ever: numbers are
brought into range, text into what both databases can hold, and what cannot be read back is shown as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from paddock.model.agent import AgentStatus, Event
from paddock.model.task import Priority, Task, TaskFailure, TaskResult, TaskState, TaskView
from paddock.ports.record import StoredEvent

Row = dict[str, Any]

INTEGER_MAX = 2**63 - 1
KEY_CHARACTERS_MAX = 200
"""Longer keys are cut: PostgreSQL refuses an index entry above 2,700 bytes. Good names have at most 127."""

KEPT_S = 604_800.0
"""Of a task that only a note told of."""

TOLD_BY_NOTE, TOLD_BY_RESULT, TOLD_BY_TASK = 0, 1, 2

_STATES = frozenset(state.value for state in TaskState)


def queued_rows(tasks: Iterable[Task]) -> list[Row]:
    """One row per task; of several messages of one task the first, with the latest `not_before`."""
    rows: dict[str, Row] = {}
    for task in tasks:
        key = key_text(task.id)
        row = rows.get(key)
        if row is None:
            rows[key] = _asked(task, key) | {
                "to_agent": _text(task.agent),
                "state": TaskState.QUEUED.value,
                "attempts": _integer(task.attempts_before),
                "agent": "",
                "epoch": 0,
                "not_before": task.not_before,
                "told_by": TOLD_BY_TASK,
            }
        else:
            row["not_before"] = max(row["not_before"], task.not_before)
            row["attempts"] = max(row["attempts"], _integer(task.attempts_before))
    return _by_id(rows)


def running_rows(notes: Iterable[tuple[str, str, str, int, float]]) -> list[Row]:
    """One row per task; of several hand-outs the latest."""
    rows: dict[str, Row] = {}
    for task_id, fleet, agent, attempt, started_at in notes:
        key = key_text(task_id)
        row = {
            "id": key,
            "fleet": key_text(fleet),
            "method": "",
            "priority": int(Priority.MEDIUM),
            "to_agent": "",
            "state": TaskState.RUNNING.value,
            "attempts": _integer(attempt),
            "agent": key_text(agent),
            "epoch": 0,
            "args": "{}",
            "submitted_at": started_at,  # until the task itself comes; it keeps the list's order about right
            "submitted_by": "",
            "kept_s": KEPT_S,
            "not_before": 0.0,
            "started_at": started_at,
            "told_by": TOLD_BY_NOTE,
        }
        earlier = rows.get(key)
        if earlier is not None:
            row["attempts"] = max(row["attempts"], earlier["attempts"])
            if (earlier["started_at"], earlier["agent"]) > (started_at, row["agent"]):
                row |= {name: earlier[name] for name in ("agent", "started_at", "submitted_at")}
        rows[key] = row
    return _by_id(rows)


def result_rows(results: Iterable[TaskResult]) -> list[Row]:
    """One row per task; of several results the first."""
    rows: dict[str, Row] = {}
    for result in results:
        key = key_text(result.id)
        if key in rows:
            continue
        state, error = result.state, result.error
        if not state.ended:
            error = TaskFailure(code="bad-result", message=f"a result with the state {state.value!r} was stored")
            state = TaskState.FAILED
        finished_at = result.finished_at or result.started_at or result.submitted_at
        rows[key] = _asked(result, key) | {
            "to_agent": _text(result.to_agent),
            "state": state.value,
            "attempts": _integer(result.attempts),
            "agent": key_text(result.agent),
            "epoch": _integer(result.epoch),
            "result": None if result.result is None else json_text(result.result),
            "error": None if error is None else json_text(error),
            "not_before": 0.0,
            "started_at": result.started_at or None,
            "finished_at": finished_at,
            "kept_until": finished_at + result.kept_s,
            "told_by": TOLD_BY_RESULT,
        }
    return _by_id(rows)


def agent_rows(agents: Iterable[AgentStatus], seen_at: float) -> list[Row]:
    """One row per agent: its highest epoch, and of that the last status."""
    rows: dict[str, Row] = {}
    for agent in agents:
        row: Row = {
            "id": key_text(agent.id),
            "fleet": key_text(agent.fleet),
            "state": agent.state.value,
            "epoch": _integer(agent.epoch),
            "status": json_text(agent),
            "seen_at": seen_at,
        }
        earlier = rows.get(row["id"])
        if earlier is None or earlier["epoch"] <= row["epoch"]:
            rows[row["id"]] = row
    return _by_id(rows)


def event_rows(events: Iterable[StoredEvent]) -> list[Row]:
    rows: dict[tuple[str, int], Row] = {}
    for stored in events:
        event = stored.event
        about = key_text(event.about)
        row = {
            "created": key_text(stored.created),
            "seq": stored.seq,
            "at": event.at,
            "kind": key_text(event.kind),
            "about": about,
            "root": about.partition("/")[0],
            "text": _text(event.text),
            "by": _text(event.by),
            "data": json_text(event.data),
        }
        rows.setdefault((stored.created, stored.seq), row)
    return list(rows.values())


def cursor_rows(cursors: Mapping[str, int], created: Mapping[str, str]) -> list[Row]:
    return [
        {"stream": stream, "created": created.get(stream, ""), "seq": seq} for stream, seq in sorted(cursors.items())
    ]


def task_view(row: Mapping[Any, Any]) -> TaskView:
    """What people see of a row. A damaged row is shown, with an error that says so, and stops no list."""
    try:
        return _task_view(row)
    except (ValueError, TypeError, ArithmeticError) as error:
        return TaskView(
            id=str(row["id"]),
            fleet=str(row["fleet"]),
            method=str(row["method"]),
            state=TaskState(row["state"]) if row["state"] in _STATES else TaskState.FAILED,
            submitted_at=number(row["submitted_at"]),
            error=TaskFailure(code="unreadable", message=f"this row of the record is damaged: {error}"),
        )


def _task_view(row: Mapping[Any, Any]) -> TaskView:
    error = row["error"]
    view = TaskView(
        id=row["id"],
        fleet=row["fleet"],
        method=row["method"],
        state=TaskState(row["state"]),
        attempts=row["attempts"],
        agent=row["agent"] or None,
        result=None if row["result"] is None else msgspec.json.decode(row["result"]),
        error=None if error is None else msgspec.json.decode(error, type=TaskFailure),
        submitted_at=row["submitted_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        priority=Priority(min(max(row["priority"], Priority.CRITICAL), Priority.LOW)).name,
        args=msgspec.json.decode(row["args"], type=dict[str, Any]),
        not_before=row["not_before"] or None,
        kept_until=row["kept_until"],
        submitted_by=row["submitted_by"],
        to_agent=f"{row['fleet']}/{row['to_agent']}" if row["to_agent"] else "",
        kept_s=row["kept_s"],
    )
    # SQLite keeps any type in any column; one pass over the small fields finds what a damaged page left there.
    msgspec.convert({name: getattr(view, name) for name in _PLAIN_FIELDS}, _PlainFields)
    return view


class _PlainFields(msgspec.Struct):
    id: str
    fleet: str
    method: str
    attempts: int
    agent: str | None
    submitted_at: float
    started_at: float | None
    finished_at: float | None
    not_before: float | None
    kept_until: float | None
    submitted_by: str
    to_agent: str
    kept_s: float


_PLAIN_FIELDS = _PlainFields.__struct_fields__


def stored_event(row: Mapping[Any, Any]) -> StoredEvent:
    """An event as it was; of a damaged row what can be read."""
    try:
        data = msgspec.json.decode(row["data"], type=dict[str, Any])
    except (ValueError, TypeError) as error:
        data = {"unreadable": f"this row of the record is damaged: {error}"}
    texts = {name: str(row[name]) for name in ("kind", "about", "text", "by")}
    event = Event(at=number(row["at"]), data=data, **texts)
    return StoredEvent(seq=int(row["seq"]), event=event, created=str(row["created"]))


def agent_status(text: str) -> AgentStatus | None:
    """A status as it was; None when its row is damaged: the node will say it anew."""
    try:
        return msgspec.json.decode(text, type=AgentStatus)
    except (ValueError, TypeError):
        return None


def number(value: object) -> float:
    """`value` if it is a number, else 0.0."""
    return float(value) if isinstance(value, int | float) else 0.0


def _asked(said: Task | TaskResult, key: str) -> Row:
    """What was asked for; a task and its result both say it."""
    return {
        "id": key,
        "fleet": key_text(said.fleet),
        "method": _text(said.method),
        "priority": _integer(said.priority),
        "args": json_text(said.args),
        "submitted_at": said.submitted_at,
        "submitted_by": _text(said.submitted_by),
        "kept_s": said.kept_s,
    }


def _by_id(rows: Mapping[str, Row]) -> list[Row]:
    """In the order of ids, so that two writers lock the same rows in the same order."""
    return [rows[key] for key in sorted(rows)]


def json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def key_text(text: str) -> str:
    return _text(text[:KEY_CHARACTERS_MAX])


def _text(text: str) -> str:
    """PostgreSQL has no place for NUL, and neither database for half a surrogate pair."""
    return text if text.isascii() and "\0" not in text else text.replace("\0", "�").encode(errors="replace").decode()


def _integer(value: int) -> int:
    return min(max(value, -INTEGER_MAX), INTEGER_MAX)
