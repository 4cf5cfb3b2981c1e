"""The net below everything else: no task that was ever told of stays open for ever.

A row that says queued or running for long, but is in no queue, held by nobody and without a result, came of a fact
that outlived its task, or of data that was lost. It ends as dead, with that reason, in the fabric first as every end.

    row open for long ──in LATER or its queue──> fine ──no──> has a result ──> recorded ──no──> held ──no──> dead
"""

from __future__ import annotations

import msgspec
import structlog

from paddock.control.archive import Archive
from paddock.control.intake import Holds, read_result
from paddock.control.mirror import Mirror
from paddock.control.owner import each
from paddock.control.recorder import Recorder
from paddock.fabric import subjects
from paddock.model.agent import AgentState
from paddock.model.errors import Conflict, NotFound
from paddock.model.task import Priority, TaskFailure, TaskResult, TaskState, TaskView
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric

log = structlog.get_logger(__name__)

OPEN_S = 600.0
"""A task younger than this is not looked for: its facts may still be on their way."""
UNSEEN_S_MAX = 86_400.0
"""How long a task is left to an agent whose node was not heard of: agents outlive their nodes."""
PAGE = 200
"""Rows looked at in one round, of each state; the next round goes on behind them."""
AT_ONCE = 8

_OVER = (AgentState.STOPPED, AgentState.FAILED, AgentState.QUARANTINED)


class Lost:
    def __init__(self, fabric: Fabric, clock: Clock, mirror: Mirror, archive: Archive, recorder: Recorder) -> None:
        self._fabric = fabric
        self._clock = clock
        self._mirror = mirror
        self._archive = archive
        self._recorder = recorder
        self._after: dict[TaskState, str] = {TaskState.QUEUED: "", TaskState.RUNNING: ""}
        """Where the next round goes on; a process that starts anew begins at the oldest."""

    async def close(self) -> int:
        """One round: look at the next rows of each open state; returns how many tasks were closed as dead."""
        if self._recorder.behind or self._recorder.problem:
            return 0  # what is missing may be what was not read yet
        suspects: list[TaskView] = []
        for state in self._after:
            suspects += await self._suspects(state)
        if not suspects:
            return 0
        held = await self._held()
        if held is None:
            return 0
        closed = [view for view in suspects if view.id not in held and not self._may_be_held(view)]
        for view in closed:
            await self._end(view)
        return len(closed)

    async def _suspects(self, state: TaskState) -> list[TaskView]:
        """Tasks of the next page that are nowhere. What has a result is told to the recorder at once."""
        before, after = self._clock.now() - OPEN_S, self._after[state]
        read = self._archive.record.unfinished
        page = await self._archive.read(lambda: read(state, before, after=after, limit=PAGE))
        found: list[TaskView] = []

        async def look(view: TaskView) -> None:
            if await self._nowhere(view):
                found.append(view)

        for error in await each("lost", page.items, look, at_once=AT_ONCE):
            raise error
        self._after[state] = page.next or ""
        return found

    async def _nowhere(self, view: TaskView) -> bool:
        """The order matters: a task is stored in the next place before it leaves the one before."""
        places = [(subjects.LATER, subjects.later(view.fleet, view.id))]
        places += [(subjects.work_stream(view.fleet), place) for place in subjects.work_anywhere(view.fleet, view.id)]
        for stream, subject in places:
            try:
                if await self._fabric.read(stream, subject=subject, limit=1):
                    return False
            except NotFound:
                continue  # its fleet is gone, and its queue with it
        return not await self._recorded(view)

    async def _recorded(self, view: TaskView) -> bool:
        """Whether it has a result; then the record is told of it (again)."""
        stored = await self._fabric.last(subjects.RESULTS, subjects.result(view.fleet, view.id))
        if stored is not None:
            self._recorder.ended(read_result(stored))
        return stored is not None

    async def _held(self) -> set[str] | None:
        """Ids of the tasks that agents hold, by all live nodes; None when one of them does not say."""
        held: set[str] = set()

        async def ask(node: str) -> None:
            reply = await self._fabric.request(subjects.node_op(node), b'{"op":"holds"}')
            held.update(hold.task for hold in msgspec.json.decode(reply.data, type=Holds).holds)

        errors = await each("lost-holds", [node.id for node in self._mirror.live()], ask)
        for error in errors:
            log.warning("a node does not say what it holds", error=str(error))
        return None if errors else held

    def _may_be_held(self, view: TaskView) -> bool:
        """Whether an agent out of sight may still be at it."""
        agent = self._mirror.agents.get(view.agent or "")
        if agent is None or agent.state in _OVER or agent.node in {node.id for node in self._mirror.live()}:
            return False
        return self._clock.now() - (view.started_at or view.submitted_at) < UNSEEN_S_MAX

    async def _end(self, view: TaskView) -> None:
        where = f"while it ran on {view.agent}" if view.state is TaskState.RUNNING and view.agent else "while queued"
        reason = f"lost sight of: {where}; it is in no queue, no agent holds it, and it has no result"
        result = TaskResult(
            id=view.id,
            fleet=view.fleet,
            method=view.method or "?",
            state=TaskState.DEAD,
            error=TaskFailure(code="dead", message=reason),
            attempts=view.attempts,
            agent=view.agent or "",
            priority=Priority[view.priority],
            args=view.args,
            submitted_at=view.submitted_at,
            submitted_by=view.submitted_by,
            started_at=view.started_at or 0.0,
            finished_at=self._clock.now(),
            kept_s=view.kept_s,
            to_agent=view.to_agent.partition("/")[2],
        )
        try:
            await self._fabric.store(subjects.result(view.fleet, view.id), msgspec.json.encode(result))
        except Conflict:
            await self._recorded(view)  # somebody ended it just now
            return
        self._recorder.ended(result)
        log.warning("task closed as dead", task=view.id, fleet=view.fleet, reason=reason)
