"""Which agents this node keeps, as its placements say; and how a new version goes through a fleet.

placement ──names──> agents made, unwanted ones stopped
    └──version──> outdated agents replaced, at most a quarter of the fleet at a time (at least one)

    first quarter ──one ready for SETTLE_S──> the next follows whenever one is ready ──> all
              └──died: back first, and ready for as long──┘         └──died: it is waited for

A version that does not become ready so stops the rollout, and one that is held (`storms.py`) goes to nobody else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import structlog

from paddock.decide.blame import Death, to_blame
from paddock.model.agent import AgentState
from paddock.model.fleet import FleetSpec, Placement
from paddock.node.host import Host
from paddock.node.journal import Forgotten, Placed, RowSet, Table, Unplaced
from paddock.node.running import Incarnation
from paddock.node.supervisor import Supervised

log = structlog.get_logger(__name__)

SHARE = 0.25
RETURN_S = 1.5
"""Agents knock at a new node's door within a second."""
SETTLE_S = 2.0
"""So long the first quarter is watched, or for its `stable_s` if that is less: what dies soon after it was ready."""
DEATHS_MAX = 200
"""So many deaths of a fleet are remembered to find out which tasks are to blame."""
DOWN = (AgentState.PENDING, AgentState.QUARANTINED)
"""It died and is not back yet. Who ended for good holds no rollout up."""


class FleetHere:
    """One fleet on this node."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.agents: dict[str, Supervised] = {}
        self.outdated: dict[str, None] = {}
        """Running agents of an older version, in the order in which they will be replaced."""
        self.renewing: set[str] = set()
        """Replaced, and not ready yet."""
        self.begun = self.proven = ""
        """The versions that the first quarter was replaced by last, and that was ready for long enough."""
        self.settling = False
        self.deaths: deque[Death] = deque(maxlen=DEATHS_MAX)
        """Of agents that held tasks."""
        self.unheard: set[str] = set()
        """Agents from before this node that have not said yet what they hold."""
        self.asked: list[tuple[Incarnation, str]] = []
        """Who asks for the holder of a task, and waits for what those have to say."""

    @property
    def spec(self) -> FleetSpec:
        return self.placement.spec


class Fleets:
    def __init__(self, host: Host, begin: Callable[[Supervised], None]) -> None:
        """`begin` starts the life of an agent in a task."""
        self._host = host
        self._begin = begin
        self.fleets: dict[str, FleetHere] = {}
        self.agents: dict[str, Supervised] = {}
        self.stopping = False

    def restore(self, table: Table) -> None:
        """Make what the journal tells of; their lives begin by looking for what still runs."""
        rows: dict[str, dict[str, str]] = {}
        for agent_id in table.rows:
            fleet, _, name = agent_id.partition("/")
            rows.setdefault(fleet, {})[name] = agent_id
        for fleet, placement in list(table.placements.items()):
            here = self.fleets[fleet] = FleetHere(placement)
            for name in dict.fromkeys([*placement.names, *rows.get(fleet, {})]):
                agent = Supervised(self._host, placement.spec, name, table.rows.get(f"{fleet}/{name}"))
                self._host.ports.remember(agent.id, agent.row.ports)
                agent.wanted = name in placement.names
                self._add(here, agent)
                if agent.row.handle is not None and agent.row.handle.runtime == "python":
                    here.unheard.add(name)
            self._host.deadlines.set(("unheard", fleet), RETURN_S, partial(self._heard_all, here))
            self._forget_if_empty(here)
        for agent_id in list(table.gone):
            if agent_id in self.agents:
                self._host.journal.note(Forgotten(agent_id))  # its key is the new one's
            else:
                self._host.publisher.gone(agent_id)
        for agent in list(self.agents.values()):
            self._begin(agent)

    def place(self, placement: Placement) -> None:
        """Make it so. The same placement again changes nothing."""
        if self.stopping:
            return
        fleet = placement.spec.name
        here = self.fleets.get(fleet)
        if here is None:
            if not placement.names:
                return
            here = self.fleets[fleet] = FleetHere(placement)
        elif here.placement == placement:
            return
        here.placement = placement
        self._host.journal.note(Placed(placement))
        wanted = set(placement.names)
        for name in placement.names:
            agent = here.agents.get(name)
            if agent is None:
                found = self._host.journal.table.rows.get(f"{fleet}/{name}")
                agent = Supervised(self._host, placement.spec, name, found)
                self._add(here, agent)
                self._host.journal.note(RowSet(agent.id, agent.row))  # before its status is told: see Table.gone
                self._host.publisher.dirty(agent)
                self._begin(agent)
            else:
                agent.want(placement.spec)
            self._mark(here, agent)
        self._host.storms.wanted(fleet, {placement.spec.version, *(agent.version for agent in here.agents.values())})
        for name in [name for name in here.agents if name not in wanted]:
            here.agents[name].unwant("it is wanted no more")
        self._forget_if_empty(here)
        self._roll(here)

    def remove(self, fleet: str) -> None:
        """The fleet is gone."""
        here = self.fleets.get(fleet)
        if here is not None:
            self.place(Placement(spec=here.spec, names=[]))

    def changed(self, agent: Supervised) -> None:
        """Its state changed: a rollout may go on."""
        here = self.fleets.get(agent.spec.name)
        if here is None or not (here.outdated or here.renewing):
            return
        if agent.state is AgentState.READY and agent.version == here.spec.version:
            here.renewing.discard(agent.name)
            here.outdated.pop(agent.name, None)
            if here.outdated and here.proven != here.spec.version:
                self._settle(here)
            self._roll(here)
        elif here.outdated and agent.state in DOWN and agent.version == here.spec.version:
            here.renewing.add(agent.name)

    def reached(self, fleet: str) -> float:
        """How many agents here its version was brought to, or is being brought to: more cannot die of it."""
        here = self.fleets.get(fleet)
        return len(here.agents) - len(here.outdated) if here is not None else math.inf

    def released(self, fleet: str) -> None:
        """Its version is held no more: a rollout may go on."""
        here = self.fleets.get(fleet)
        if here is not None:
            self._roll(here)

    def members(self, fleet: str) -> dict[str, Supervised] | None:
        """The fleet's agents here, by their ids; None: there are none."""
        here = self.fleets.get(fleet)
        return {agent.id: agent for agent in here.agents.values()} if here is not None else None

    def asked(self, agent: Incarnation, task: str) -> None:
        """Tell this agent who holds a task. The last notes of an agent to a node that was killed are lost, so it is not
        said that nobody does before all who may have come back."""
        here = self.fleets.get(agent.running.name)
        if here is not None and here.unheard - {agent.name} and not self.holder(agent, task)[0]:
            here.asked.append((agent, task))
        else:
            self._tell_holder(agent, task)

    def _tell_holder(self, agent: Incarnation, task: str) -> None:
        if agent.link is not None:
            by, deaths = self.holder(agent, task)
            agent.link.send(op="holder", task=task, by=by, deaths=deaths)

    def heard(self, agent: Incarnation) -> None:
        """It has said what it holds."""
        here = self.fleets.get(agent.running.name)
        if here is not None and agent.name in here.unheard:
            here.unheard.discard(agent.name)
            if not here.unheard:
                self._heard_all(here)

    def _heard_all(self, here: FleetHere, late_s: float = 0.0) -> None:
        here.unheard.clear()
        asked, here.asked = here.asked, []
        for agent, task in asked:
            self._tell_holder(agent, task)

    def holder(self, agent: Incarnation, task: str) -> tuple[str, int]:
        """The agent of the same fleet that holds this task and was handed it before `agent` (empty: none), and how many
        died with it."""
        here = self.fleets.get(agent.running.name)
        if here is None:
            return "", 0
        own = agent.holds.get(task)
        own_at = own.since if own is not None else math.inf
        deaths = sum(task in death.tasks for death in here.deaths)
        for other in here.agents.values():
            hold = other.holds.get(task)
            if hold is not None and other is not agent and (hold.since, other.id) < (own_at, agent.id):
                return other.id, deaths
        return "", deaths

    def blamed(self, spec: FleetSpec, death: Death) -> frozenset[str]:
        """Note a death; which tasks are to blame for deaths in this fleet."""
        here = self.fleets.get(spec.name)
        if here is None:
            return frozenset()
        if death.tasks:
            here.deaths.append(death)
        return to_blame(spec.restart, here.deaths, death.at)

    def left(self, agent: Supervised) -> None:
        """It has ended and is wanted no more."""
        del self.agents[agent.id]
        here = self.fleets[agent.spec.name]
        del here.agents[agent.name]
        here.outdated.pop(agent.name, None)
        here.renewing.discard(agent.name)
        if not self.stopping:  # else it is wanted still, and shows as stopped
            self._host.publisher.gone(agent.id)
        self._forget_if_empty(here)
        self._roll(here)

    def stop_order(self) -> Iterator[list[Supervised]]:
        """All agents in waves: a fleet before those that it depends on."""
        depth: dict[str, int] = {}

        def dig(fleet: str, above: tuple[str, ...]) -> int:
            if fleet not in depth:
                needs = [name for name in self.fleets[fleet].spec.depends_on if name in self.fleets]
                depth[fleet] = 1 + max((dig(name, (*above, fleet)) for name in needs if name not in above), default=0)
            return depth[fleet]

        for fleet in list(self.fleets):
            dig(fleet, ())
        for level in sorted(set(depth.values()), reverse=True):
            yield [
                agent for fleet, here in self.fleets.items() if depth[fleet] == level for agent in here.agents.values()
            ]

    def _add(self, here: FleetHere, agent: Supervised) -> None:
        here.agents[agent.name] = agent
        self.agents[agent.id] = agent
        self._mark(here, agent)

    def _mark(self, here: FleetHere, agent: Supervised) -> None:
        """Note whether a running agent is of an older version."""
        if agent.wanted and agent.version not in ("", here.spec.version):  # "": found without a journal
            here.outdated[agent.name] = None
            here.renewing.discard(agent.name)  # it was on its way to a version that is wanted no more
        else:
            here.outdated.pop(agent.name, None)

    def _settle(self, here: FleetHere) -> None:
        version, here.settling = here.spec.version, True

        def settled(late_s: float) -> None:
            here.settling = False
            if any(agent.state is AgentState.READY and agent.version == version for agent in here.agents.values()):
                here.proven = version
            self._roll(here)

        settle_s = min(SETTLE_S, here.spec.restart.stable_s)
        self._host.deadlines.set((here.spec.name, "settled"), settle_s, settled)

    def _roll(self, here: FleetHere) -> None:
        if self._host.storms.held(here.spec):
            return
        if here.outdated and here.proven != here.spec.version:
            if here.begun == here.spec.version and (here.renewing or here.settling):
                return
            here.begun = here.spec.version
        at_once = max(1, int(len(here.agents) * SHARE))
        while here.outdated and len(here.renewing) < at_once and not self.stopping:
            name = next(iter(here.outdated))
            del here.outdated[name]
            here.renewing.add(name)
            here.agents[name].replace(f"a new version of {here.spec.name}")

    def _forget_if_empty(self, here: FleetHere) -> None:
        if not here.agents and not here.placement.names and self.fleets.get(here.spec.name) is here:
            del self.fleets[here.spec.name]
            self._host.journal.note(Unplaced(here.spec.name))
