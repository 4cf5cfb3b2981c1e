"""What the HTTP edge may ask of the controllers. `control/server.py` is the real thing; its tests use a fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from paddock.decide.explain import Explanation
from paddock.decide.rehearse import Rehearsal, Rehearsed
from paddock.model.agent import AgentStatus, NodeStatus
from paddock.model.fleet import FleetSpec
from paddock.model.health import HealthPoint, Score
from paddock.model.incident import Incident
from paddock.model.kpi import HealthReport, KpiReport, OpsReport
from paddock.model.manifest import ManifestSource
from paddock.model.plan import Plan
from paddock.model.task import TaskView
from paddock.ports.record import Page


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task as submitted. Exactly one of `fleet`, `agent` (`fleet/name`) and `capability` says for whom."""

    method: str
    fleet: str = ""
    agent: str = ""
    capability: str = ""
    args: dict[str, Any] = {}
    priority: str = "MEDIUM"
    timeout_s: float = 0.0
    delay_s: float = 0.0
    not_before: float = 0.0
    """Unix seconds."""
    max_attempts: int = 0
    key: str = ""
    """Idempotency key: the same key for the same fleet is the same task, for as long as its result is kept."""
    kept_s: float = 604_800.0
    repeatable: bool = True


class FleetView(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet: what is wanted, what is."""

    name: str
    wanted: int
    ready: int
    states: dict[str, int]
    queued: int
    queue_limit: int
    runtime: str
    capabilities: list[str]
    methods: list[str]
    version: str
    outdated: int = 0
    """Agents that run another version still: a rollout is on its way, or stopped."""
    spec: FleetSpec
    """With the values of secrets blanked."""


class AlertTest(msgspec.Struct, frozen=True, kw_only=True):
    """Whether people can be reached by one channel."""

    channel: str
    ok: bool
    text: str = ""
    """What is wrong; empty when the message was accepted."""


class CareDoor(Protocol):
    """What the HTTP edge may ask about health and healing. `control/care.py` is the real thing."""

    def scores(self, *, fleet: str = "", band: str = "") -> Sequence[Score]:
        """The worst first."""
        ...

    def score(self, agent: str) -> Score: ...
    async def history(self, agent: str, since: float) -> Sequence[HealthPoint]: ...
    async def incidents(
        self, *, about: str = "", state: str = "", since: float = 0.0, after: str = "", limit: int = 100
    ) -> Page: ...
    async def incident(self, number: int) -> Incident: ...
    async def explain(self, number: int) -> Explanation: ...
    async def heal(self, agent: str, action: str, *, by: str = "") -> Incident: ...
    async def close(self, number: int, *, by: str = "", why: str = "") -> Incident: ...
    async def rollback(self, fleet: str, *, by: str = "") -> str: ...
    def rehearse(self, case: Rehearsal) -> Rehearsed:
        """What a policy would do, without doing it."""
        ...

    async def kpi_report(self, *, since_s: float = 86_400.0, fleet: str = "") -> KpiReport: ...
    def health_report(self, *, fleet: str = "") -> HealthReport: ...


class DailyDoor(Protocol):
    """Daily operations. `control/daily.py` is the real thing."""

    def names(self) -> Sequence[str]: ...
    async def do(self, name: str, *, by: str = "") -> OpsReport: ...


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One live change, for SSE: `kind` is agent, task, fleet, node or event; `data` the same JSON as its GET."""

    id: int
    kind: str
    data: Any


class Control(Protocol):
    @property
    def care(self) -> CareDoor: ...
    @property
    def daily(self) -> DailyDoor: ...

    async def plan(self, sources: Sequence[ManifestSource], *, prune: bool = False) -> Plan: ...
    async def apply(self, sources: Sequence[ManifestSource], *, prune: bool = False, by: str = "") -> Plan: ...
    def fleets(self) -> Sequence[FleetView]: ...
    def fleet(self, name: str) -> FleetView: ...
    async def scale(self, name: str, replicas: int, *, by: str = "") -> FleetView: ...
    async def delete_fleet(self, name: str, *, by: str = "") -> None: ...
    def agents(self, *, fleet: str = "", state: str = "", after: str = "", limit: int = 100) -> Page: ...
    def agent(self, agent_id: str) -> AgentStatus: ...
    async def restart(self, agent_id: str, *, by: str = "") -> AgentStatus: ...
    async def heal_all(self, *, by: str = "") -> Sequence[str]:
        """Restart every agent that is failed or quarantined; returns their ids."""
        ...

    async def logs(self, agent_id: str, *, lines: int = 50, offset: int | None = None, wait_s: float = 0.0) -> Any:
        """{"text": str, "offset": int}; with `offset`, what came after it, waiting up to `wait_s` for more."""
        ...

    async def submit(self, request: TaskRequest, *, by: str = "") -> TaskView: ...
    async def task(self, task_id: str) -> TaskView: ...
    async def wait(self, task_id: str, timeout_s: float) -> TaskView:
        """The task once it has ended, or as it is when the time is over."""
        ...

    async def tasks(
        self, *, fleet: str = "", state: str = "", agent: str = "", after: str = "", limit: int = 100
    ) -> Page: ...
    async def cancel(self, task_id: str, *, by: str = "") -> TaskView: ...
    async def replay(self, task_id: str, *, by: str = "") -> TaskView:
        """A new task with the method and arguments of one that ended as dead, failed or cancelled."""
        ...

    def nodes(self) -> Sequence[NodeStatus]: ...
    async def history(self, *, about: str = "", kind: str = "", after: str = "", limit: int = 100) -> Page: ...
    async def status(self) -> Mapping[str, Any]:
        """Totals: agents by state, tasks by fleet and state, nodes, fabric, record, uptime, version."""
        ...

    async def ready(self) -> Mapping[str, str]:
        """Part → "ok" or what is wrong, for fabric, record and node."""
        ...

    async def test_alerts(self, channel: str = "", *, by: str = "") -> Sequence[AlertTest]:
        """Send a test message by one channel, or by all, and say what came of it."""
        ...

    def changes(self) -> AsyncIterator[Change]:
        """Live changes from now on. A reader that falls 1,000 behind is ended and must read state anew."""
        ...
