"""What nodes measured of their agents lately, and short series of it for trends. In memory only; decides nothing.

A node sends what it measured about every half minute for each agent, and at once when a probe changed its mind. After a
restart of the server the picture is whole again within that time; until then what is not known counts for nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import msgspec
import structlog

from paddock.control.mirror import Mirror
from paddock.model.agent import AgentStatus
from paddock.model.health import Series, Vitals
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric, Message, Subscription

log = structlog.get_logger(__name__)

POINTS_MAX = 60
"""Points of one series: half an hour at one in 30 s."""
POINT_EVERY_S = 5.0
"""Points that come quicker replace the last one's neighbourhood: at most one in this time is kept."""
METRICS = ("memory_bytes", "cpus", "open_files", "latency_s")

_decoder = msgspec.json.Decoder(list[Vitals])


class VitalsBook:
    def __init__(self, fabric: Fabric, clock: Clock, mirror: Mirror) -> None:
        self._fabric, self._clock, self._mirror = fabric, clock, mirror
        self._last: dict[str, Vitals] = {}
        self._heard: dict[str, float] = {}
        self._series: dict[str, dict[str, tuple[array[float], array[float]]]] = {}
        self._subscription: Subscription | None = None
        self.on_vitals: list[Callable[[Vitals], None]] = []
        mirror.on_gone.append(self.forget)

    def start(self) -> None:
        self._subscription = self._fabric.subscribe("note.vitals.*", self._take)

    def close(self) -> None:
        if self._subscription is not None:
            self._subscription.close()

    def of(self, status: AgentStatus) -> Vitals | None:
        """The last that was measured of this incarnation; None: nothing yet."""
        vitals = self._last.get(status.id)
        return vitals if vitals is not None and vitals.epoch == status.epoch else None

    def age_s(self, agent: str) -> float:
        """How long ago that was; infinite when nothing was measured."""
        heard = self._heard.get(agent)
        return self._clock.monotonic() - heard if heard is not None else float("inf")

    def series(self, agent: str) -> dict[str, Series]:
        """The series of its running incarnation, by metric."""
        found = self._series.get(agent, {})
        return {metric: Series(list(at), list(values)) for metric, (at, values) in found.items()}

    def _take(self, message: Message) -> None:
        try:
            batch = _decoder.decode(message.data)
        except msgspec.MsgspecError as error:
            log.warning("unreadable vitals", subject=message.subject, error=str(error))
            return
        for vitals in batch:
            if vitals.id in self._mirror.agents:
                self._keep(vitals)

    def _keep(self, vitals: Vitals) -> None:
        known = self._last.get(vitals.id)
        if known is not None and known.epoch > vitals.epoch:
            return  # of an incarnation that is no more
        if known is not None and known.epoch < vitals.epoch:
            self._series.pop(vitals.id, None)
        self._last[vitals.id] = vitals
        self._heard[vitals.id] = self._clock.monotonic()
        latency_s = max((fact.latency_s for fact in vitals.probes.values() if not fact.fails), default=-1.0)
        values = (vitals.memory_bytes, vitals.cpus, vitals.open_files, latency_s)
        series = self._series.setdefault(vitals.id, {})
        for metric, value in zip(METRICS, values, strict=True):
            if value >= 0:
                self._add(series, metric, vitals.at, float(value))
        for callback in self.on_vitals:
            callback(vitals)

    def _add(self, series: dict[str, tuple[array[float], array[float]]], metric: str, at: float, value: float) -> None:
        times, values = series.setdefault(metric, (array("d"), array("d")))
        if times and at < times[-1]:
            del times[:], values[:]  # its host's clock was set back: times before and after cannot be compared
        if times and at - times[-1] < POINT_EVERY_S:
            return
        if len(times) >= POINTS_MAX:
            del times[0], values[0]
        times.append(at)
        values.append(value)

    def forget(self, agent: str) -> None:
        """It is gone."""
        for held in (self._last, self._heard, self._series):
            held.pop(agent, None)
