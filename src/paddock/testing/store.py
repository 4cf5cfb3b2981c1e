"""What a broker in memory holds: streams, lanes, who tails what, and the switchboard of core messages."""

from __future__ import annotations

import asyncio

from paddock.model.errors import Conflict, NotFound
from paddock.ports.clock import Clock
from paddock.ports.fabric import Message, StreamSpec
from paddock.testing.faults import Faults
from paddock.testing.streams import Lane, Stream, later, overlap
from paddock.testing.switchboard import Switchboard

EPOCH = 1_790_000_000.0
"""Where the time of the simulated world begins, unless a clock says otherwise."""
TAIL_NET_S = 1.0
"""How soon a tail reads on when the wake was lost."""


class Store:
    """The state behind all connections of one broker."""

    def __init__(self, *, clock: Clock | None, faults: Faults | None) -> None:
        self.faults = faults or Faults()
        self.up = asyncio.Event()
        self.up.set()
        self.streams: dict[str, Stream] = {}
        self.tails: dict[str, dict[asyncio.Event, None]] = {}
        """Stream → who tails it, in order: a replay must draw the same dice for each."""
        self.core = Switchboard(self.faults, self._acknowledge)
        self._clock = clock

    def now(self) -> float:
        return self._clock.now() if self._clock is not None else EPOCH + asyncio.get_running_loop().time()

    def stream(self, name: str) -> Stream:
        stream = self.streams.get(name)
        if stream is None:
            raise NotFound(f"there is no stream {name}")
        return stream

    def lane(self, stream: str, name: str) -> Lane:
        lane = self.stream(stream).lanes.get(name)
        if lane is None:
            raise NotFound(f"stream {stream} has no lane {name}")
        return lane

    def owner(self, subject: str) -> Stream | None:
        return next((stream for stream in self.streams.values() if stream.owns(subject)), None)

    def ensure(self, spec: StreamSpec) -> None:
        for other in self.streams.values():
            clash = next((s for s in spec.subjects for o in other.spec.subjects if overlap(s, o)), None)
            if other.spec.name != spec.name and clash is not None:
                raise Conflict(f"{clash} of stream {spec.name} overlaps stream {other.spec.name}")
        stream = self.streams.get(spec.name)
        if stream is None:
            stream = self.streams[spec.name] = Stream(spec, self.now, self._wake_tails)
        stream.spec = spec
        for lane, subject in spec.lanes.items():
            stream.add_lane(lane, subject, ack_wait_s=spec.ack_wait_s)

    def delete_stream(self, name: str) -> None:
        stream = self.streams.pop(name, None)
        if stream is None:
            return
        for lane in stream.lanes.values():
            lane.close(NotFound(f"stream {name} was deleted"))
        self._wake_tails(stream)

    def _acknowledge(self, message: Message) -> None:
        tokens = message.subject.split(".")
        stream = self.streams.get(tokens[2])
        lane = stream.lanes.get(tokens[3]) if stream is not None else None
        if self.up.is_set() and lane is not None and len(tokens) >= 9:
            lane.acknowledge(int(tokens[5]), message.data)
        if message.reply:
            self.core.answer(Message(message.reply))

    def _wake_tails(self, stream: Stream) -> None:
        for event in self.tails.get(stream.spec.name, ()):
            for delay_s in self.faults.copies() or [TAIL_NET_S]:
                if delay_s > 0:
                    later(delay_s, event.set)
                else:
                    event.set()
