"""The book of incidents: every one that is not over, from the bucket `incidents`; changes by compare-and-set.

    begin ──> open ──change──> … ──change (over)──> told once more, then forgotten here; the record keeps it
       └── its key was used already ──> None

What is in the bucket is the truth: a server that dies between an act and its note finds the note of before, and what it
does again is fenced by the epoch (see `control/healing.py`). A closed incident stays in the bucket for a day, so that
one that was told of twice is not opened twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from paddock.control.archive import Archive
from paddock.fabric import subjects
from paddock.model.errors import Conflict, NotFound, PaddockError, Unavailable
from paddock.model.incident import Fact, Incident
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric, Stored

log = structlog.get_logger(__name__)

OVER_KEPT_S = 86_400.0
FACTS_MAX = 40
"""Evidence of one incident; beyond it the oldest but the first goes."""
RETRY_S = 0.5


class Book:
    def __init__(self, fabric: Fabric, clock: Clock, archive: Archive) -> None:
        self._fabric = fabric
        self._clock = clock
        self._archive = archive
        self._seqs: dict[str, int] = {}
        self._number = 0
        self.open: dict[str, Incident] = {}
        """key → incident, of all that are not over."""
        self.by_about: dict[str, dict[str, None]] = {}
        """what it is about → keys of its open incidents."""
        self.on_change: list[Callable[[Incident], None]] = []
        """Called with every incident that was opened, changed or ended; once for what is open at the start."""

    async def follow(self, ready: asyncio.Event) -> None:
        """Follow the bucket, for ever; `ready` is set once all that is stored is known."""
        self._number = max(self._number, await self._last_number())
        after = 0
        while True:
            try:
                async for batch in self._fabric.tail(subjects.INCIDENTS, after_seq=after):
                    for stored in batch:
                        self._take(stored)
                        after = stored.seq
                    if not batch:
                        ready.set()
            except (NotFound, Unavailable) as error:
                log.warning("incidents not readable", error=error.message)
            await self._clock.sleep(RETRY_S)

    def about(self, name: str) -> list[Incident]:
        """The open incidents about an agent, a fleet, a node or a part."""
        return [self.open[key] for key in self.by_about.get(name, ())]

    async def begin(self, incident: Incident) -> Incident | None:
        """Open it, with the next number; None when one of its key was opened before."""
        self._number += 1
        incident = msgspec.structs.replace(incident, id=self._number)
        try:
            seq = await self._store(incident, 0)
        except Conflict:
            return None
        self._keep(incident, seq)
        return incident

    async def change(self, incident: Incident, **fields: Any) -> Incident:
        """Change it as it is here; `Conflict` when somebody else has changed it meanwhile: look again."""
        held = self.open.get(incident.key)
        if held is None or held != incident:
            raise Conflict(f"incident {incident.id} was changed meanwhile")
        changed = msgspec.structs.replace(incident, **fields)
        seq = await self._store(changed, self._seqs[incident.key])
        self._keep(changed, seq)
        return changed

    async def note(self, incident: Incident, fact: Fact, **fields: Any) -> Incident:
        """Add one line of evidence; nothing is written when it is there already."""
        if fact in incident.evidence:
            return incident
        facts = [*incident.evidence, fact]
        if len(facts) > FACTS_MAX:
            del facts[1]
        return await self.change(incident, evidence=facts, **fields)

    async def _store(self, incident: Incident, expect_seq: int) -> int:
        subject = f"$KV.incidents.{incident.key}"
        ttl_s = OVER_KEPT_S if incident.state.over else 0.0
        return await self._fabric.store(subject, msgspec.json.encode(incident), expect_seq=expect_seq, ttl_s=ttl_s)

    def _take(self, stored: Stored) -> None:
        key = stored.subject.removeprefix("$KV.incidents.")
        if stored.seq <= self._seqs.get(key, 0):
            if key not in self.open:
                self._seqs.pop(key)  # the end that we wrote ourselves: all who must know do
            return
        if stored.deleted:
            self._drop(key)
            return
        try:
            incident = msgspec.json.decode(stored.data, type=Incident)
        except msgspec.MsgspecError as error:
            log.error("unreadable incident", key=key, error=str(error))
            return
        self._number = max(self._number, incident.id)
        self._keep(incident, stored.seq)

    def _keep(self, incident: Incident, seq: int) -> None:
        if seq <= self._seqs.get(incident.key, 0):
            return
        if incident.state.over:
            self._drop(incident.key)
        self._seqs[incident.key] = seq
        if not incident.state.over:
            self.open[incident.key] = incident
            self.by_about.setdefault(incident.about, {})[incident.key] = None
        for callback in self.on_change:
            callback(incident)

    def _drop(self, key: str) -> None:
        self._seqs.pop(key, None)
        gone = self.open.pop(key, None)
        if gone is not None:
            keys = self.by_about[gone.about]
            keys.pop(key, None)
            if not keys:
                del self.by_about[gone.about]

    async def _last_number(self) -> int:
        """Numbers go on where the record ends, also when the bucket was lost."""
        while True:
            try:
                return await self._archive.read(self._archive.record.last_incident)
            except PaddockError as error:
                log.warning("the record does not say the last incident", error=error.message)
                await self._clock.sleep(RETRY_S)
