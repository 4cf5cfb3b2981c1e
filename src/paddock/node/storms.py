"""When many agents of one fleet and version die alike: only a canary is started, as `decide/storm.py` says.

    deaths ──enough alike──> held: `node.held` ──canary stable · other version wanted──> over: `node.released`

Nothing of it is written down: a node that restarts learns it anew from as many deaths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from paddock.decide import storm
from paddock.model.fleet import FleetSpec
from paddock.node.publisher import Publisher
from paddock.ports.clock import Clock


class Member(Protocol):
    """An agent that may be held."""

    id: str
    spec: FleetSpec

    def held(self, text: str) -> None:
        """It is not started now, and that is why."""
        ...

    def look(self) -> None:
        """Its time to start, or to be called stable, may have changed."""
        ...

    def released(self) -> None:
        """The cause is gone: it may start, and what it died of before does not count."""
        ...


class _Release:
    """One fleet and version on this node."""

    def __init__(self) -> None:
        self.deaths: dict[str, tuple[storm.Death, frozenset[str]]] = {}
        """The last of each agent, in order, with the tasks it held."""
        self.hold: storm.Hold | None = None


class Storms:
    """All times are monotonic."""

    def __init__(
        self,
        clock: Clock,
        publisher: Publisher,
        agents: Callable[[str], Mapping[str, Member] | None],
        reached: Callable[[str], float],
        released: Callable[[str], None],
    ) -> None:
        """`agents`: fleet → its agents on this node, by their ids; `reached`: fleet → see `storm.hold`; `released` is
        told a fleet that is held no more."""
        self._clock, self._publisher = clock, publisher
        self._agents, self._reached, self._released = agents, reached, released
        self._releases: dict[tuple[str, str], _Release] = {}

    def died(
        self, spec: FleetSpec, version: str, death: storm.Death, tasks: frozenset[str], blamed: frozenset[str]
    ) -> None:
        """Note a death, or a start that did not succeed. Deaths that a task is to blame for do not count."""
        release = self._releases.setdefault((spec.name, version), _Release())
        release.deaths.pop(death.agent, None)
        release.deaths[death.agent] = death, tasks
        if release.hold is not None and blamed and self._judge(release, spec, version, blamed) is None:
            self._release(spec.name, version, "tasks are to blame")
        elif release.hold is not None:
            before, release.hold = release.hold, storm.after_held_death(release.hold, death, death.at)
            self._hold(spec.name, release.hold, [agent for agent in release.hold.agents if agent not in before.agents])
            self._look(spec.name, {release.hold.canary, before.canary, death.agent})
        elif storm.counts(death) and not tasks & blamed:
            hold = release.hold = self._judge(release, spec, version, blamed)
            if hold is not None:
                data = {"signature": hold.signature, "agents": hold.agents, "version": version}
                text = f"{spec.name}: {hold.text}; but for one at a time they are not started again"
                self._publisher.event("node.held", spec.name, text, data)
                self._hold(spec.name, hold, hold.agents)
                self._look(spec.name, hold.agents)

    def from_when(self, member: Member) -> float:
        """When it may be started: 0 at any time, infinite: not before something happens."""
        release = self._releases.get((member.spec.name, member.spec.version))
        if release is None or release.hold is None:
            return 0.0
        hold = release.hold
        if member.id == hold.canary:
            return hold.canary_at
        last = release.deaths.get(member.id)
        if storm.may_start(hold, member.id, self._clock.monotonic(), last=last[0] if last is not None else None):
            return 0.0
        return math.inf

    def text(self, member: Member) -> str:
        """Why it is held; empty when it is not."""
        release = self._releases.get((member.spec.name, member.spec.version))
        return release.hold.text if release is not None and release.hold is not None else ""

    def held(self, spec: FleetSpec) -> bool:
        """Whether this version is held: it goes to no further agent."""
        release = self._releases.get((spec.name, spec.version))
        return release is not None and release.hold is not None

    def holds(self, member: Member, version: str) -> bool:
        """Whether it is news for a hold when this agent becomes stable."""
        release = self._releases.get((member.spec.name, version))
        return release is not None and release.hold is not None and member.id in release.hold.agents

    def stable(self, member: Member, version: str) -> None:
        """It has been ready for long enough."""
        release = self._releases.get((member.spec.name, version))
        if release is not None and release.hold is not None and storm.after_stable(release.hold, member.id) is None:
            self._release(member.spec.name, version, f"{member.id} is stable")

    def gone(self, member: Member) -> None:
        """It is wanted here no more: it can be no canary."""
        for (fleet, version), release in list(self._releases.items()):
            if fleet != member.spec.name:
                continue
            release.deaths.pop(member.id, None)
            if not release.deaths and release.hold is None:
                del self._releases[fleet, version]
            if release.hold is None or member.id not in release.hold.agents:
                continue
            rest = [agent for agent in release.hold.agents if agent != member.id]
            if rest:
                release.hold = msgspec.structs.replace(release.hold, agents=rest)
                self._look(fleet, rest[:1])
            else:
                self._release(fleet, version, "nobody is left who died of it")

    def wanted(self, fleet: str, versions: Iterable[str]) -> None:
        """Only these versions of a fleet are wanted or running here: what others died of is history."""
        kept = set(versions)
        for name, version in [key for key in self._releases if key[0] == fleet and key[1] not in kept]:
            self._release(name, version, "another version is wanted")
            del self._releases[name, version]

    def _judge(self, release: _Release, spec: FleetSpec, version: str, blamed: frozenset[str]) -> storm.Hold | None:
        policy = spec.policy.storm
        if release.hold is not None:
            policy = msgspec.structs.replace(policy, window_s=math.inf)
        deaths = [death for death, tasks in release.deaths.values() if not tasks & blamed]
        reached = self._reached(spec.name) if version == spec.version else math.inf
        return storm.hold(policy, deaths, self._clock.monotonic(), reached=reached)

    def _release(self, fleet: str, version: str, why: str) -> None:
        release = self._releases[fleet, version]
        hold, release.hold = release.hold, None
        if hold is None:
            return
        release.deaths.clear()
        data = {"signature": hold.signature, "agents": hold.agents, "version": version}
        self._publisher.event("node.released", fleet, f"{fleet}: its agents are started again: {why}", data)
        for member in (self._agents(fleet) or {}).values():
            if member.spec.version == version:
                member.released()
        self._released(fleet)

    def _hold(self, fleet: str, hold: storm.Hold, agents: Iterable[str]) -> None:
        members = self._agents(fleet) or {}
        for agent in agents:
            if agent in members:
                members[agent].held(hold.text)

    def _look(self, fleet: str, agents: Iterable[str]) -> None:
        members = self._agents(fleet) or {}
        for agent in agents:
            if agent in members:
                members[agent].look()
