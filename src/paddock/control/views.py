"""How facts look to people: pure translations of specs, tasks and results; no I/O."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec

from paddock.model import errors
from paddock.model.fleet import FleetSpec
from paddock.model.task import Priority, Task, TaskResult, TaskState, TaskView

BLANK = "***"
NEAREST_AMONG_MAX = 1000
"""Beyond this many candidates no nearest name is looked for: it would take too long."""

_ORDER = {TaskState.QUEUED: 0, TaskState.RUNNING: 1}


def priority_name(value: int) -> str:
    try:
        return Priority(value).name
    except ValueError:  # a foreign submitter's number: show it as the nearest that exists
        return Priority.CRITICAL.name if value < 0 else Priority.LOW.name


def of_task(task: Task) -> TaskView:
    """A task that is queued, now or for later."""
    return TaskView(
        id=task.id,
        fleet=task.fleet,
        method=task.method,
        state=TaskState.QUEUED,
        attempts=task.attempts_before,
        agent=_full(task.fleet, task.agent) or None,
        submitted_at=task.submitted_at,
        priority=priority_name(task.priority),
        args=task.args,
        not_before=task.not_before or None,
        submitted_by=task.submitted_by,
        to_agent=_full(task.fleet, task.agent),
        kept_s=task.kept_s,
    )


def of_result(result: TaskResult) -> TaskView:
    return TaskView(
        id=result.id,
        fleet=result.fleet,
        method=result.method,
        state=result.state,
        attempts=result.attempts,
        agent=result.agent or None,
        result=result.result,
        error=result.error,
        submitted_at=result.submitted_at,
        started_at=result.started_at or None,
        finished_at=result.finished_at,
        priority=priority_name(result.priority),
        args=result.args,
        kept_until=result.finished_at + result.kept_s,
        submitted_by=result.submitted_by,
        to_agent=_full(result.fleet, result.to_agent),
        kept_s=result.kept_s,
    )


def later_of(one: TaskView | None, other: TaskView | None) -> TaskView | None:
    """Of two views of one task the one that is further on: queued < running < ended; the first end wins."""
    if one is None or other is None:
        return one or other
    return other if _ORDER.get(other.state, 2) > _ORDER.get(one.state, 2) else one


def _full(fleet: str, name: str) -> str:
    return f"{fleet}/{name}" if name else ""


def blanked(spec: FleetSpec) -> FleetSpec:
    """The spec as people may see it: without the values of secrets."""
    if not spec.secret_env:
        return spec
    env = {name: (BLANK if name in spec.secret_env else value) for name, value in spec.env.items()}
    return msgspec.structs.replace(spec, env=env)


def nearest(word: str, among: Iterable[str]) -> str:
    """`; did you mean 'critic'?`, or nothing when none is near."""
    candidates = list(among)
    if len(candidates) > NEAREST_AMONG_MAX:
        return ""
    close = difflib.get_close_matches(word, candidates, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def error_of(code: str, message: str) -> errors.PaddockError:
    """The error that a node answered with, as our own class."""
    return _BY_CODE.get(code, errors.PaddockError)(message)


_BY_CODE: dict[str, type[errors.PaddockError]] = {
    kind.code: kind
    for kind in (
        errors.Refused,
        errors.NotFound,
        errors.Conflict,
        errors.TooLarge,
        errors.Unavailable,
        errors.TimedOut,
        errors.Denied,
        errors.TemplateBroken,
    )
}
