"""The fabric: messages, stored streams, work lanes. By `paddock.fabric` (NATS) and `paddock.testing` (memory)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from paddock.model.errors import PaddockError

Headers = Mapping[str, str]

# Messages hold texts and bytes only, so they can be in no cycle (`gc=False`): the collector need not look at them.


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message that was not stored: a request, a reply, a topic, a wake."""

    subject: str
    data: bytes = b""
    reply: str = ""
    headers: Headers = {}


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A message of a stream. `deleted`: a bucket's marker that the key is gone."""

    subject: str
    seq: int
    at: float
    data: bytes = b""
    headers: Headers = {}

    @property
    def deleted(self) -> bool:
        return self.headers.get("KV-Operation") in ("DEL", "PURGE") or "Nats-Marker-Reason" in self.headers


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message handed out from a work lane; it must be acknowledged on `ack`."""

    subject: str
    data: bytes
    ack: str
    """Subject for `+ACK`, `-NAK`, `-NAK {"delay": ns}`, `+WPI` (still working), `+TERM`."""
    stream: str
    consumer: str
    delivered: int
    """1 at the first hand-out."""
    seq: int
    pending: int
    """Messages still waiting in this lane."""
    headers: Headers = {}


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as it should be; see `paddock.fabric.subjects` for all there are."""

    name: str
    subjects: list[str]
    work_queue: bool = False
    last_per_subject: bool = False
    """Keep only the newest message of a subject (buckets)."""
    unique_subjects: bool = False
    """Refuse a second message on a subject while the first is there (tasks, results)."""
    messages_max: int = -1
    """Refuse beyond this (never drop); -1: no limit."""
    age_s_max: float = 0.0
    lanes: dict[str, str] = {}
    """Durable pull consumers: name → filter subject."""
    ack_wait_s: float = 30.0


class Depth(msgspec.Struct, frozen=True):
    messages: int
    first_seq: int
    last_seq: int
    consumers: int
    created: str = ""
    """Which stream of this name it is: one that was deleted and made anew counts its sequences from 1 again."""


class Subscription(Protocol):
    def close(self, *, late: bool = False) -> None:
        """Listen no more. With `late`, what was on its way already still comes to the handler."""
        ...


class Standing(Protocol):
    """A wait in several lanes at once."""

    @property
    def inbox(self) -> str:
        """The reply subject of this wait."""
        ...

    def renew(self, lane: str, credit: int) -> None:
        """Let `lane` bring `credit` more."""
        ...

    def close(self, done: Callable[[], None] | None = None) -> None:
        """Wait no more; what arrives nevertheless is put back. `done` is called when nothing can arrive any more."""
        ...


class Fabric(Protocol):
    """A connection with an identity. All calls raise `Unavailable` while there is no connection, `TimedOut` when no
    answer comes, `Denied` where the identity may not do it."""

    @property
    def connected(self) -> bool: ...

    def publish(self, subject: str, data: bytes = b"", *, reply: str = "", headers: Headers | None = None) -> None:
        """Send, at most once, never blocking. Dropped (and counted) while not connected and the buffer is full."""
        ...

    def subscribe(self, subject: str, handler: Callable[[Message], None], *, queue: str = "") -> Subscription:
        """Call `handler` in the event loop for every message; survives reconnects. The handler must not block."""
        ...

    async def request(
        self, subject: str, data: bytes = b"", *, timeout_s: float = 5.0, headers: Headers | None = None
    ) -> Message:
        """One answer. `NoResponders` when nobody listens."""
        ...

    async def store(
        self,
        subject: str,
        data: bytes,
        *,
        headers: Headers | None = None,
        expect_seq: int | None = None,
        ttl_s: float = 0.0,
        timeout_s: float = 10.0,
    ) -> int:
        """Store in the stream that owns `subject`; returns its sequence once it is on disk, and wakes who tails that
        stream. `Conflict`: the subject exists already (`unique_subjects`) or its last sequence is not `expect_seq`
        (0: must not exist). `QueueFull`: over `messages_max`."""
        ...

    async def read(self, stream: str, *, after_seq: int = 0, subject: str = ">", limit: int = 500) -> Sequence[Stored]:
        """The next messages after `after_seq` that match, oldest first; empty at the end. Needs no consumer."""
        ...

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest message on exactly this subject, or None."""
        ...

    async def purge(self, stream: str, subject: str) -> int:
        """Delete all messages that match; returns how many."""
        ...

    def tail(
        self, stream: str, *, subject: str = ">", after_seq: int = 0, lag_s: float = 0.0
    ) -> AsyncIterator[Sequence[Stored]]:
        """Batches of what is stored after `after_seq`, for ever, as they come; an empty batch each time it has caught
        up (so also first, when there is nothing). Goes on after reconnects; nothing is lost or doubled. With `lag_s`
        it lets things gather so long after it was woken."""
        ...

    async def pull(self, stream: str, lane: str, *, batch: int = 1, wait_s: float = 0.0) -> Sequence[Delivery]:
        """Up to `batch` messages of a lane; with `wait_s` 0 answers at once, else waits for the first. Cancelling the
        call gives up the wait; what arrives nevertheless is put back. (A hand-out in the very moment of the
        cancelling, which nobody got, may be counted as one.)"""
        ...

    def stand(
        self,
        stream: str,
        credits: Mapping[str, int],
        handler: Callable[[Delivery], None],
        ended: Callable[[PaddockError | None], None],
    ) -> Standing:
        """Wait in several lanes at once, for up to `credits[lane]` messages of each. `handler` gets every hand-out, in
        the event loop. `ended` is called when the wait is over before it was closed: with None when its time was up,
        else with what is wrong; begin again then. Lighter than a `pull` a message for who waits most of the time."""
        ...

    async def put_back(self, delivery: Delivery) -> None:
        """Give back a hand-out that never started: it is not counted as one. Nothing happens when it was given back or
        ended meanwhile. Only within the ack time-out: after it somebody else may have it."""
        ...

    async def ensure(self, *streams: StreamSpec) -> None:
        """Create or update streams and their lanes; idempotent."""
        ...

    async def ensure_lane(
        self, stream: str, lane: str, subject: str, *, ack_wait_s: float = 30.0, inactive_s: float = 0.0
    ) -> None:
        """Create one lane of a work queue if it is not there; with `inactive_s` it goes away when nobody pulls from it
        for that long."""
        ...

    async def depth(self, stream: str) -> Depth:
        """How full a stream is; `NotFound` when there is none."""
        ...

    async def delete_stream(self, stream: str) -> None: ...

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call back after every re-established connection (not the first)."""
        ...

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when the server has seen everything sent so far."""
        ...

    def reset(self) -> None:
        """Give up this connection and make another: calls under way may raise `Unavailable`, subscriptions go on.
        Nothing happens while there is none."""
        ...

    async def close(self) -> None: ...
