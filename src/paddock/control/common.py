"""Common causes: many open incidents that are one. Single healing stops; what changed is named; undoing it is offered.

    open incidents ──correlate─┬─> opened, members held ──canary well · other release · all well · by hand──> over
    a node holds a release ────┘      │
                                      └──a further member fits──> joined                (members go on by themselves)

Level-triggered: every pass looks at all open incidents and makes members and parents be what `correlate` says.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import structlog

from paddock.control.incidents import Book
from paddock.control.mirror import Mirror
from paddock.control.signs import policy_of
from paddock.decide.storm import Common, Population, correlate, held_by_node
from paddock.model.agent import Event
from paddock.model.errors import Conflict, PaddockError
from paddock.model.incident import Fact, Incident, IncidentState, Severity
from paddock.model.policy import Cause, Storm
from paddock.ports.clock import Clock

log = structlog.get_logger(__name__)

EVERY_S = 1.0
"""At the most: incidents that come together are looked at together."""
CANARY_S = 60.0
"""After so long without a better idea one member is let go on, to see whether the cause is over."""
CHANGES_S = 3600.0
"""A change from so long before the first sign may be the reason."""


class CommonCauses:
    def __init__(self, clock: Clock, mirror: Mirror, book: Book) -> None:
        self._clock, self._mirror, self._book = clock, mirror, book
        self._wake = asyncio.Event()
        self._parents: dict[str, None] = {}
        """Keys of the open common causes."""
        self._holds: dict[tuple[str, str, str], Event] = {}
        """fleet, version, node → what the node told when it began to hold that release."""
        book.on_change.append(self._changed)
        mirror.on_fleet.append(lambda fleet: self._wake.set() if self._parents else None)

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.round()
            except Conflict:
                self._wake.set()  # somebody else went on with one of them
            except PaddockError as error:
                log.warning("common causes are not looked at now", error=error.message)
                self._wake.set()
            await self._clock.sleep(EVERY_S)
            if self._parents:
                self._wake.set()  # a canary may be due, or all may be well

    def happened(self, event: Event) -> None:
        """A node has begun to hold a release, or has ended that."""
        if event.kind not in ("node.held", "node.released"):
            return
        key = (event.about, str(event.data.get("version", "")), event.by)
        if event.kind == "node.held":
            self._holds[key] = event
        else:
            self._holds.pop(key, None)
        self._wake.set()

    async def round(self) -> None:
        """Make it so, once."""
        agents = [
            incident for incident in self._book.open.values() if incident.kind == "agent" and not self._past(incident)
        ]
        for release, event in list(self._holds.items()):
            if not self._is_wanted(*release[:2]):
                del self._holds[release]
            elif common := held_by_node(event, agents, self._population()):
                await self._make(common)
                agents = [incident for incident in agents if incident.key not in common.members]
        by_policy: dict[str, list[Incident]] = {}
        for incident in agents:
            by_policy.setdefault(policy_of(self._mirror, incident.fleet).name, []).append(incident)
        known = {key.split(".")[1] for key in self._parents}
        for members in by_policy.values():
            policy = policy_of(self._mirror, members[0].fleet)
            for common in correlate(policy.storm, members, self._population(), self._clock.now(), known):
                await self._make(common)
        for key in list(self._parents):
            parent = self._book.open.get(key)
            if parent is not None:
                await self._look(parent)

    async def _make(self, common: Common) -> None:
        """Open this common cause, or let it take up who is new."""
        key = next((key for key in self._parents if key.split(".")[1] == common.name), "")
        parent = self._book.open.get(key)
        members = [self._book.open[member] for member in common.members if member in self._book.open]
        if parent is None:
            if not members:
                return
            storm = policy_of(self._mirror, members[0].fleet).storm
            parent = await self._book.begin(self._incident(common, members, storm))
            if parent is None:
                return
        elif joined := sorted(set(common.agents) - set(parent.members)):
            fact = Fact(at=self._clock.now(), text=f"joined by {', '.join(joined[:5])}", source="score")
            everybody = sorted(set(parent.members) | set(joined))
            parent = await self._book.note(parent, fact, members=everybody, title=self._title(common))
        for member in members:
            if member.parent != parent.key and not self._is_canary(parent, member):
                why = f"one of {len(common.agents)} with a common cause: see incident {parent.id}"
                await self._book.change(member, parent=parent.key, state=IncidentState.HELD, note=why)

    def _incident(self, common: Common, members: Sequence[Incident], storm: Storm) -> Incident:
        now = self._clock.now()
        # One that was ill long before is explained by it as well, but it did not begin with that one.
        recent = [member for member in members if now - member.sign_at <= storm.window_s] or members
        first = min(recent, key=lambda member: member.sign_at)
        changes = [change for change in first.changes if first.sign_at - change.at <= CHANGES_S]
        fleets = {member.fleet for member in members}
        releases = {member.release for member in members}
        return Incident(
            id=0,
            key=f"common.{common.name}.{int(now)}",
            kind="common-cause",
            about=first.fleet if len(fleets) == 1 else common.value.partition("@")[0],
            fleet=first.fleet if len(fleets) == 1 else "",
            node=first.node if len({member.node for member in members}) == 1 else "",
            release=first.release if len(releases) == 1 else "",
            cause=Cause.DEPENDENCY if common.kind == "dependency" else first.cause,
            signature=first.signature,
            title=self._title(common),
            severity=Severity.CRITICAL,
            state=IncidentState.HELD,
            sign_at=first.sign_at,
            opened_at=now,
            next_at=now + CANARY_S,
            evidence=[Fact(at=now, text=common.text, source="score"), *first.evidence[:3]],
            changes=changes,
            members=common.agents,
            offer=self._offer(first, len(fleets) == 1),
            note="single healing is stopped; " + (_blame(changes) or "no change of the last hour explains it"),
        )

    def _is_wanted(self, fleet: str, version: str) -> bool:
        wanted = self._mirror.fleets.get(fleet)
        return wanted is not None and wanted.spec.version == version

    def _past(self, incident: Incident) -> bool:
        """Whether it is of a release that is wanted no more: what that died of says nothing of the present one."""
        return bool(incident.release) and not self._is_wanted(incident.fleet, incident.release)

    def _title(self, common: Common) -> str:
        return f"{len(common.agents)} agents fail for one reason: {common.kind} {common.value}"

    def _offer(self, first: Incident, one_fleet: bool) -> dict[str, str]:
        """A rollback, if the release that fails is the present one and there is one before it."""
        former = self._mirror.former.get(first.fleet)
        wanted = self._mirror.fleets.get(first.fleet)
        if not one_fleet or former is None or wanted is None or wanted.spec.version != first.release:
            return {}
        command = f"paddock rollback {first.fleet}"
        return {"action": "rollback", "fleet": first.fleet, "to": former.spec.version, "command": command}

    async def _look(self, parent: Incident) -> None:
        """Whether it is over."""
        now = self._clock.now()
        members = [incident for incident in self._book.open.values() if incident.parent == parent.key]
        canary = next((member for member in self._open_of(parent) if self._is_canary(parent, member)), None)
        if parent.release and parent.fleet in self._mirror.fleets and self._past(parent):
            await self._end(parent, IncidentState.CLOSED, f"{parent.fleet} is another version now: members go on")
        elif not members and canary is None:
            await self._end(parent, IncidentState.RECOVERED, "none of its members is ill any more")
        elif parent.offer.get("canary") and canary is None:
            await self._end(parent, IncidentState.RECOVERED, f"a try on {parent.offer['canary']} helped: members go on")
        elif members and canary is None and now >= parent.next_at:
            await self._try_one(parent, min(members, key=lambda member: member.sign_at))

    async def _try_one(self, parent: Incident, member: Incident) -> None:
        offer = {**parent.offer, "canary": member.about}
        parent = await self._book.change(parent, offer=offer, note=f"{member.about} is tried alone")
        await self._book.change(
            member, parent="", state=IncidentState.OPEN, next_at=self._clock.now(), note="tried alone, for all of them"
        )

    async def _end(self, parent: Incident, state: IncidentState, why: str) -> None:
        now = self._clock.now()
        recovered = {"recovered_at": now} if state is IncidentState.RECOVERED else {}
        await self._book.change(parent, state=state, closed_at=now, note=why, **recovered)

    def _open_of(self, parent: Incident) -> list[Incident]:
        return [incident for agent in parent.members for incident in self._book.about(agent)]

    def _is_canary(self, parent: Incident, member: Incident) -> bool:
        return parent.offer.get("canary") == member.about

    def _population(self) -> Population:
        releases: Counter[str] = Counter()
        for fleet, agents in self._mirror.by_fleet.items():
            releases.update(f"{fleet}@{status.template}" for status in agents.values())
        fleets = {name: len(wanted.names) for name, wanted in self._mirror.fleets.items()}
        return Population(
            fleets=fleets,
            releases=dict(releases),
            nodes=dict(self._mirror.load()),
            depends={name: wanted.spec.depends_on for name, wanted in self._mirror.fleets.items()},
            down=frozenset(name for name, size in fleets.items() if size and not self._mirror.ready_count(name)),
        )

    def _changed(self, incident: Incident) -> None:
        if incident.kind == "common-cause":
            if incident.state.over:
                self._parents.pop(incident.key, None)
                for release in [key for key in self._holds if key[:2] == (incident.fleet, incident.release)]:
                    del self._holds[release]  # who ended it knows of that
            else:
                self._parents[incident.key] = None
        self._wake.set()


def _blame(changes: Sequence[Fact]) -> str:
    """The change that was made last before the first sign."""
    last = max(changes, key=lambda change: change.at, default=None)
    return f"the last change before it: {last.text}" if last is not None else ""
