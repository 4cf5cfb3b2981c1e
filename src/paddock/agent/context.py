"""What a running agent stands on: its identity, its connection, and which task runs in the present context."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from paddock.agent.base import check_topic
from paddock.agent.calls import Calls
from paddock.agent.clock import HostClock
from paddock.agent.log import Log
from paddock.agent.state import State
from paddock.agent.values import BadValue, encoded
from paddock.fabric import subjects
from paddock.model.errors import Refused, TooLarge
from paddock.model.fleet import FleetSpec
from paddock.model.task import PAYLOAD_BYTES_MAX
from paddock.ports.fabric import Fabric

PROGRESS_S_MIN = 0.2


class Running:
    """One call of a method: the task behind it, if there is one, and whether it should stop."""

    __slots__ = ("cancelled", "progress_at", "task_id")

    def __init__(self, task_id: str = "") -> None:
        self.task_id = task_id
        self.cancelled = False
        self.progress_at = -math.inf


running: contextvars.ContextVar[Running | None] = contextvars.ContextVar("paddock_running", default=None)


class Context:
    """Made by the runner before the agent's own `__init__`; `Agent` hands everything to it."""

    def __init__(self, spec: FleetSpec, name: str, epoch: int, fabric: Fabric, clock: HostClock, *, inbox: str) -> None:
        self.fleet, self.name, self.epoch = spec.name, name, epoch
        self.id = f"{spec.name}/{name}"
        self.config: Mapping[str, Any] = MappingProxyType(spec.config)
        self.degraded = False
        self.clock = clock
        self.fabric = fabric
        self.log = Log(self.id, clock.now, _task_id)
        self.state = State(fabric, spec.name, name)
        self.calls = Calls(fabric, inbox=inbox, who=self.id, clock=clock)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def cancelled(self) -> bool:
        now = running.get()
        return now is not None and now.cancelled

    def publish(self, topic: str, value: Any) -> None:
        check_topic(topic)
        try:
            data = encoded(value)
        except BadValue as error:
            raise Refused(f"topic {topic!r}: {error}") from error
        if len(data) > PAYLOAD_BYTES_MAX:
            raise TooLarge(f"topic {topic!r}: {len(data)} bytes; {PAYLOAD_BYTES_MAX} are allowed")
        self._send(subjects.topic(topic), data)

    def progress(self, fraction: float, note: str) -> None:
        now = running.get()
        if now is None or not now.task_id:
            return
        if not 0.0 <= fraction <= 1.0:  # NaN fails this too
            raise Refused(f"progress goes from 0 to 1, not {fraction}")
        at = self.clock.monotonic()
        if at - now.progress_at < PROGRESS_S_MIN and fraction < 1.0:
            return
        now.progress_at = at
        value = {"agent": self.id, "progress": float(fraction), "note": note[:1000]}
        self._send(subjects.progress(self.fleet, now.task_id), msgspec.json.encode(value))

    def _send(self, subject: str, data: bytes) -> None:
        """Publish from any thread; connections live in the loop's."""
        if threading.get_ident() == self._thread:
            self.fabric.publish(subject, data)
            return
        try:
            self._loop.call_soon_threadsafe(self.fabric.publish, subject, data)
        except RuntimeError:
            pass  # the agent has ended; what a thread that was left behind says goes nowhere


def _task_id() -> str:
    now = running.get()
    return now.task_id if now is not None else ""
