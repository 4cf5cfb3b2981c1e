"""Stored streams and work lanes in memory, as JetStream has them. No connections, no faults: `fabric.py` has those.

A message in a lane:

    waiting ──pull──> out ──+ACK, +TERM──> gone (deleted from a work queue)
       ^               │  ^── +WPI: the ack wait starts anew
       └── -NAK, ack wait over; -NAK {"delay"} after the delay

As in JetStream an ack counts for the message, not for one hand-out of it: a late `+ACK` or `-NAK` of somebody who
held it earlier acts on whoever holds it now.
"""

from __future__ import annotations

import asyncio
import bisect
import contextvars
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeVarTuple, Unpack

import msgspec

from paddock.fabric.jetstream import duplicates_s
from paddock.model.errors import Conflict, NotFound, QueueFull
from paddock.ports.fabric import Delivery, Stored, StreamSpec

Ts = TypeVarTuple("Ts")

_MADE = itertools.count(1)
HANDED_OUT = "Paddock-Handed-Out"
"""On a message that was put back: how often it had been handed out before."""


def later(delay_s: float, call: Callable[[Unpack[Ts]], object], *args: *Ts) -> asyncio.TimerHandle:
    """A timer of the broker itself: it goes on when the simulated process that caused it is killed."""
    return asyncio.get_running_loop().call_later(delay_s, call, *args, context=contextvars.Context())


def matches(pattern: str, subject: str) -> bool:
    """NATS wildcards: `*` is one token, `>` one or more at the end."""
    if pattern in (subject, ">"):
        return True
    wanted, tokens = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":  # noqa: S105 - a token of a subject
            return len(tokens) > index
        if index >= len(tokens) or token not in ("*", tokens[index]):
            return False
    return len(wanted) == len(tokens)


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)


class Lane:
    """A durable pull consumer. `wake` tells who waits that something may be there."""

    def __init__(self, stream: Stream, name: str, subject: str, *, ack_wait_s: float, inactive_s: float = 0.0) -> None:
        self.name, self.subject = name, subject
        self.ack_wait_s, self.inactive_s = ack_wait_s, inactive_s
        self.waiters: deque[asyncio.Future[None]] = deque()
        self._stream = stream
        self._waiting: deque[int] = deque(seq for seq in stream.seqs if matches(subject, stream.messages[seq].subject))
        self._again: deque[int] = deque()
        self._out: dict[int, asyncio.TimerHandle | None] = {}
        """Handed out → what ends the wait for its ack; None: the wait is over, it is in `_again`."""
        self._delivered: dict[int, int] = {}
        self._handed_out = 0
        self._idle: asyncio.TimerHandle | None = None
        self.touch()

    @property
    def pending(self) -> int:
        return len(self._waiting)

    @property
    def out(self) -> frozenset[int]:
        """Sequences that are handed out and not yet ended."""
        return frozenset(self._out)

    def offer(self, seq: int) -> None:
        self._waiting.append(seq)
        self._wake()

    def take(self, at: float) -> Delivery | None:
        """Hand out the next message: what came back goes first."""
        while self._again or self._waiting:
            seq = (self._again or self._waiting).popleft()
            message = self._stream.messages.get(seq)
            if message is None:
                continue
            self._delivered[seq] = delivered = self._delivered.get(seq, 0) + 1
            self._handed_out += 1
            self._start_wait(seq, self.ack_wait_s)
            ack = (
                f"$JS.ACK.{self._stream.spec.name}.{self.name}.{delivered}.{seq}.{self._handed_out}"
                f".{int(at * 1e9)}.{self.pending}"
            )
            return Delivery(
                message.subject,
                message.data,
                ack,
                self._stream.spec.name,
                self.name,
                delivered + int(message.headers.get(HANDED_OUT, "0")),
                seq,
                self.pending,
                message.headers,
            )
        return None

    def acknowledge(self, seq: int, verb: bytes) -> None:
        """What was published on an ack subject. Anything unknown counts as +ACK, as in JetStream."""
        if seq not in self._delivered:
            return
        word, _, rest = verb.strip().partition(b" ")
        if word == b"-NAK":
            self._put_back(seq, rest)
        elif word == b"+WPI":
            if seq in self._out:
                self._start_wait(seq, self.ack_wait_s)
        else:
            self.forget(seq)
            if self._stream.spec.work_queue:
                self._stream.delete(seq)

    def forget(self, seq: int) -> None:
        """The message has ended or was deleted."""
        timer = self._out.pop(seq, None)
        if timer is not None:
            timer.cancel()
        if self._delivered.pop(seq, None) is None and seq in self._waiting:
            self._waiting.remove(seq)
        if seq in self._again:
            self._again.remove(seq)

    def touch(self) -> None:
        """Somebody pulls: the time after which an unused lane goes away starts anew."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self.inactive_s > 0:
            self._idle = later(self.inactive_s, self._stream.drop_unused, self.name)

    def close(self, error: Exception) -> None:
        """The lane or its stream is deleted: nothing of it ticks on, and who waits hears `error`."""
        for timer in self._out.values():
            if timer is not None:
                timer.cancel()
        if self._idle is not None:
            self._idle.cancel()
        self.fail_waiters(error)

    def fail_waiters(self, error: Exception) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)

    def _put_back(self, seq: int, options: bytes) -> None:
        if seq not in self._out:
            return
        try:
            delay_s = msgspec.json.decode(options, type=dict[str, int]).get("delay", 0) / 1e9 if options else 0.0
        except msgspec.MsgspecError:
            delay_s = 0.0
        if delay_s > 0:
            self._start_wait(seq, delay_s)
        elif seq not in self._again:
            self._overdue(seq)

    def _start_wait(self, seq: int, wait_s: float) -> None:
        timer = self._out.get(seq)
        if timer is not None:
            timer.cancel()
        if seq in self._again:
            self._again.remove(seq)
        self._out[seq] = later(wait_s, self._overdue, seq)

    def _overdue(self, seq: int) -> None:
        timer = self._out[seq]
        if timer is not None:
            timer.cancel()
        self._out[seq] = None
        self._again.append(seq)
        self._wake()

    def _wake(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def wake_next(self) -> None:
        """Pass the wake on when there is more than one pull can take."""
        if self._again or self._waiting:
            self._wake()


class Stream:
    """Messages in order, with what the spec demands of them."""

    def __init__(self, spec: StreamSpec, now: Callable[[], float], on_stored: Callable[[Stream], None]) -> None:
        self.spec = spec
        self.created = f"made-{next(_MADE)}"
        self.messages: dict[int, Stored] = {}
        self.seqs: list[int] = []
        self.last_seq = 0
        self.lanes: dict[str, Lane] = {}
        self._by_subject: dict[str, list[int]] = {}
        self._born: dict[int, float] = {}
        self._ids: dict[str, tuple[int, float]] = {}
        self._now = now
        self._on_stored = on_stored

    @property
    def first_seq(self) -> int:
        return self.seqs[0] if self.seqs else self.last_seq + 1

    def owns(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self.spec.subjects)

    def store(
        self, subject: str, data: bytes, headers: Mapping[str, str], *, expect_seq: int | None, ttl_s: float
    ) -> int:
        """Conflict or QueueFull as the spec says; else the new sequence."""
        self.expire()
        seen = self._seen(headers.get("Nats-Msg-Id", ""))
        if seen:
            return seen
        held = list(self._by_subject.get(subject, ()))
        last = held[-1] if held else 0
        if expect_seq is None and self.spec.work_queue:
            expect_seq = 0  # a queued task is replaced only by who puts it back, by its sequence
        if expect_seq is not None and last != expect_seq:
            raise Conflict(f"the last sequence of {subject} is {last}, not {expect_seq}")
        if held and self.spec.unique_subjects and not self.spec.work_queue:
            raise Conflict(f"{subject} is in {self.spec.name} already")
        replaces = self.spec.last_per_subject or self.spec.unique_subjects
        if 0 <= self.spec.messages_max <= len(self.seqs) - (len(held) if replaces else 0):
            raise QueueFull(f"{self.spec.name} is full: it holds {len(self.seqs)} messages")
        for seq in held if replaces else ():
            self.delete(seq)
        seq = self._append(subject, data, headers)
        if "Nats-Msg-Id" in headers:
            self._ids[headers["Nats-Msg-Id"]] = (seq, asyncio.get_running_loop().time())
        if ttl_s > 0:
            later(max(1.0, round(ttl_s)), self.delete, seq)  # JetStream counts whole seconds
        return seq

    def delete(self, seq: int) -> None:
        message = self.messages.pop(seq, None)
        if message is None:
            return
        del self.seqs[bisect.bisect_left(self.seqs, seq)]
        self._born.pop(seq)
        held = self._by_subject[message.subject]
        held.remove(seq)
        if not held:
            del self._by_subject[message.subject]
        for lane in self.lanes.values():
            lane.forget(seq)

    def read(self, after_seq: int, subject: str, limit: int) -> list[Stored]:
        self.expire()
        found: list[Stored] = []
        for index in range(bisect.bisect_right(self.seqs, after_seq), len(self.seqs)):
            message = self.messages[self.seqs[index]]
            if matches(subject, message.subject):
                found.append(message)
                if len(found) >= limit:
                    break
        return found

    def last(self, subject: str) -> Stored | None:
        self.expire()
        held = self._by_subject.get(subject)
        return self.messages[held[-1]] if held else None

    def purge(self, subject: str) -> int:
        gone = [seq for seq in self.seqs if matches(subject, self.messages[seq].subject)]
        for seq in gone:
            self.delete(seq)
        return len(gone)

    def add_lane(self, name: str, subject: str, *, ack_wait_s: float, inactive_s: float = 0.0) -> None:
        """Create or update; Conflict when it overlaps another lane of a work queue."""
        lane = self.lanes.get(name)
        if lane is not None and lane.subject == subject:
            lane.ack_wait_s, lane.inactive_s = ack_wait_s, inactive_s
            lane.touch()
            return
        if self.spec.work_queue:
            rival = next((other for other in self.lanes.values() if overlap(other.subject, subject)), None)
            if rival is not None and rival is not lane:
                raise Conflict(f"lane {name} ({subject}) overlaps lane {rival.name} of {self.spec.name}")
        if lane is not None:
            self._drop_lane(lane)
        self.lanes[name] = Lane(self, name, subject, ack_wait_s=ack_wait_s, inactive_s=inactive_s)

    def drop_unused(self, name: str) -> None:
        """The lane's time without a pull is over, unless somebody waits in one just now."""
        lane = self.lanes[name]
        if lane.waiters:
            lane.touch()
        else:
            self._drop_lane(lane)

    def put_back(self, delivery: Delivery) -> None:
        """Store it anew in its own place with the hand-out not counted, as the client does for a pull that ends."""
        headers = {**delivery.headers, HANDED_OUT: str(max(0, delivery.delivered - 1))}
        try:
            self.store(delivery.subject, delivery.data, headers, expect_seq=delivery.seq, ttl_s=0.0)
        except Conflict:
            pass  # it has ended meanwhile

    def _drop_lane(self, lane: Lane) -> None:
        del self.lanes[lane.name]
        lane.close(NotFound(f"lane {lane.name} of {self.spec.name} is gone"))

    def expire(self) -> None:
        """Delete what is older than the stream keeps."""
        if self.spec.age_s_max <= 0 or not self.seqs:
            return
        oldest = asyncio.get_running_loop().time() - self.spec.age_s_max
        while self.seqs and self._born[self.seqs[0]] <= oldest:
            self.delete(self.seqs[0])

    def _seen(self, message_id: str) -> int:
        """The sequence of a message with this id that was stored a moment ago, or 0."""
        oldest = asyncio.get_running_loop().time() - duplicates_s(self.spec)
        while self._ids and next(iter(self._ids.values()))[1] < oldest:
            del self._ids[next(iter(self._ids))]
        return self._ids[message_id][0] if message_id in self._ids else 0

    def _append(self, subject: str, data: bytes, headers: Mapping[str, str]) -> int:
        self.last_seq = seq = self.last_seq + 1
        self.messages[seq] = Stored(subject, seq, self._now(), data, dict(headers))
        self.seqs.append(seq)
        self._born[seq] = asyncio.get_running_loop().time()
        self._by_subject.setdefault(subject, []).append(seq)
        for lane in self.lanes.values():
            if matches(lane.subject, subject):
                lane.offer(seq)
        self._on_stored(self)
        return seq
