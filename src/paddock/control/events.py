"""Tells the record what the server did, and by whose wish."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog

from paddock.fabric import subjects
from paddock.model.agent import Event
from paddock.model.errors import PaddockError
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric

log = structlog.get_logger(__name__)


class Events:
    def __init__(self, fabric: Fabric, clock: Clock) -> None:
        self._fabric = fabric
        self._clock = clock

    async def tell(self, kind: str, about: str, text: str, *, by: str = "", data: dict[str, Any] | None = None) -> None:
        """Store one event. What it tells of has happened already: if it cannot be stored, it is logged instead."""
        event = Event(at=self._clock.now(), kind=kind, about=about, text=text, by=by, data=data or {})
        try:
            await self._fabric.store(subjects.event(kind, about), msgspec.json.encode(event))
        except PaddockError as error:
            log.warning("event not stored", kind=kind, about=about, text=text, by=by, error=error.message)
