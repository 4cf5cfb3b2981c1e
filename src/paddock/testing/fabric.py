"""The fabric in memory: the whole port, with the faults of the menu. See `fabric_contract.py` for what it promises.

broker = FakeBroker(faults=Faults(seed=7, lose=0.05))
server, node = broker.connect("server"), broker.connect("node/n1")
broker.stop(); broker.start()          # connections see Unavailable, then reconnect; what is stored stays
node.cut()                             # as if its process was killed: nothing more is sent or put back
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from paddock.model.errors import (
    Conflict,
    Denied,
    NoResponders,
    PaddockError,
    QueueFull,
    TimedOut,
    TooLarge,
    Unavailable,
)
from paddock.ports.clock import Clock
from paddock.ports.fabric import Delivery, Depth, Headers, Message, Stored, StreamSpec
from paddock.testing.faults import Faults
from paddock.testing.loop import current_process
from paddock.testing.rights import Rights
from paddock.testing.standing import FakeStanding
from paddock.testing.store import Store
from paddock.testing.streams import Lane
from paddock.testing.switchboard import Subscription

TAIL_BATCH = 500
MESSAGE_BYTES_MAX = 1024 * 1024
HEADERS_BYTES_MAX = 4096


class FakeBroker(Store):
    """What all connections share. Use it in one event loop."""

    def __init__(self, *, clock: Clock | None = None, faults: Faults | None = None) -> None:
        super().__init__(clock=clock, faults=faults)
        self.connections: list[FakeFabric] = []
        self._serial = 0

    def connect(self, identity: str = "server", *, rights: Rights | None = None) -> FakeFabric:
        """A new connection; `identity` names it, `rights` limit it (None: everything is allowed). It ends with the
        simulated process that makes it."""
        self._serial += 1
        connection = FakeFabric(self, identity, rights or Rights(), self._serial)
        self.connections.append(connection)
        process = current_process()
        if process is not None:
            process.on_kill.append(connection.cut)
        return connection

    def agent(self, fleet: str, name: str) -> FakeFabric:
        """A connection with the rights of one agent."""
        return self.connect(f"{fleet}/{name}", rights=Rights.agent(fleet, name))

    def node(self, node: str) -> FakeFabric:
        """A connection with the rights of one node."""
        return self.connect(f"node/{node}", rights=Rights.node(node))

    def stop(self) -> None:
        """The broker dies: calls fail with Unavailable, waits end with it, core messages are dropped."""
        self.up.clear()
        gone = Unavailable("the connection to the fabric was lost")
        self.core.fail_replies(gone)
        for lane in [lane for stream in self.streams.values() for lane in stream.lanes.values()]:
            lane.fail_waiters(gone)

    def start(self) -> None:
        """It is back with all that was stored; everybody reconnects."""
        if self.up.is_set():
            return
        self.up.set()
        for connection in list(self.connections):
            connection.reconnected()


class FakeFabric:
    """One connection to a FakeBroker; implements `paddock.ports.fabric.Fabric`."""

    def __init__(self, broker: FakeBroker, identity: str, rights: Rights, serial: int) -> None:
        self.broker, self.identity = broker, identity
        self.dropped = 0
        """Core messages dropped because there was no connection."""
        self.refused: list[str] = []
        """Subjects of core messages that this identity may not send; a real server drops them, too."""
        self.resets = 0
        self._rights = rights
        self._inbox = f"_INBOX.{identity.replace('/', '.')}.{serial}"
        self._serial = 0
        self._open = True
        self._cut = False
        self._subscriptions: list[Subscription] = []
        self._callbacks: list[tuple[Callable[[], None], contextvars.Context]] = []

    @property
    def connected(self) -> bool:
        return self._open and self.broker.up.is_set()

    def publish(self, subject: str, data: bytes = b"", *, reply: str = "", headers: Headers | None = None) -> None:
        if not self.connected:
            self.dropped += 1
        elif not self._rights.may_publish(subject):
            self.refused.append(subject)
        else:
            message = Message(subject, data, reply, dict(headers or {}))
            self.broker.core.send(message)
            self._store_too(message)

    def subscribe(self, subject: str, handler: Callable[[Message], None], *, queue: str = "") -> Subscription:
        def deliver(message: Message) -> None:
            if self.connected:
                handler(message)

        if not self._rights.may_subscribe(subject):
            self.refused.append(subject)
            return Subscription(None, subject, queue, deliver)
        subscription = self.broker.core.subscribe(subject, queue, deliver)
        self._subscriptions.append(subscription)
        return subscription

    async def request(
        self, subject: str, data: bytes = b"", *, timeout_s: float = 5.0, headers: Headers | None = None
    ) -> Message:
        await self._there(subject)
        if not self.broker.core.listens(subject):
            raise NoResponders(f"nobody answers on {subject}")
        self._serial += 1
        reply = f"{self._inbox}.r.{self._serial}"
        future = self.broker.core.expect_reply(reply)
        try:
            self.broker.core.send(Message(subject, data, reply, dict(headers or {})))
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise TimedOut(f"no answer on {subject} in {timeout_s:g} s") from error
        finally:
            self.broker.core.forget_reply(reply)

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
        if len(data) + HEADERS_BYTES_MAX > MESSAGE_BYTES_MAX:
            raise TooLarge(f"{len(data):,} bytes for {subject}: the fabric takes {MESSAGE_BYTES_MAX:,}")
        await self._there(subject)
        stream = self.broker.owner(subject)
        if stream is None:
            raise NoResponders(f"no stream keeps {subject}")
        if (faults := self.broker.faults).strikes("unavailable"):
            raise Unavailable("the fabric has no leader for this stream just now")
        if expect_seq is not None and faults.strikes("conflict"):
            raise Conflict(f"the last sequence of {subject} is not {expect_seq}: somebody else was quicker")
        seq = stream.store(subject, data, headers or {}, expect_seq=expect_seq, ttl_s=ttl_s)
        self.broker.core.send(Message(subject, data, headers=dict(headers or {})))
        if faults.strikes("lost_ack"):
            await asyncio.sleep(timeout_s)
            raise TimedOut(f"{subject}: the fabric did not say within {timeout_s:g} s whether it is stored")
        await self._hop()
        self.publish(f"wake.{stream.spec.name}")
        return seq

    async def read(self, stream: str, *, after_seq: int = 0, subject: str = ">", limit: int = 500) -> Sequence[Stored]:
        await self._there(f"$JS.API.DIRECT.GET.{stream}")
        found = self.broker.stream(stream).read(after_seq, subject, limit)
        await self._hop()
        return found

    async def last(self, stream: str, subject: str) -> Stored | None:
        await self._there(f"$JS.API.DIRECT.GET.{stream}.{subject}")
        if stream not in self.broker.streams:
            raise NoResponders(f"there is no stream {stream}")
        found = self.broker.stream(stream).last(subject)
        await self._hop()
        return found

    async def purge(self, stream: str, subject: str) -> int:
        await self._there(f"$JS.API.STREAM.PURGE.{stream}")
        count = self.broker.stream(stream).purge(subject)
        await self._hop()
        return count

    async def tail(
        self, stream: str, *, subject: str = ">", after_seq: int = 0, lag_s: float = 0.0
    ) -> AsyncIterator[Sequence[Stored]]:
        woken = asyncio.Event()
        events = self.broker.tails.setdefault(stream, {})
        events[woken] = None
        caught_up = False
        try:
            while True:
                woken.clear()
                try:
                    batch = await self.read(stream, after_seq=after_seq, subject=subject, limit=TAIL_BATCH)
                except Unavailable:
                    self._check_open()
                    await self.broker.up.wait()
                    continue
                if batch:
                    caught_up = False
                    after_seq = batch[-1].seq
                    yield batch
                elif not caught_up:
                    caught_up = True
                    yield []
                else:
                    await woken.wait()
                    if lag_s:
                        await asyncio.sleep(lag_s)
        finally:
            events.pop(woken, None)

    async def pull(self, stream: str, lane: str, *, batch: int = 1, wait_s: float = 0.0) -> Sequence[Delivery]:
        await self._there(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{lane}")
        held = self.broker.lane(stream, lane)
        held.touch()
        batch = 1 if wait_s > 0 else batch
        taken = self._take(held, batch)
        if not taken and wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    while not taken:
                        await self._wait(held)
                        taken = self._take(held, batch)
            except TimeoutError:
                pass
        try:
            await self._hop()
        except BaseException:
            if not self._cut:
                for delivery in taken:
                    self.broker.stream(stream).put_back(delivery)
            raise
        return [delivery for delivery in taken if not self.broker.faults.strikes("lost_delivery")]

    def stand(
        self,
        stream: str,
        credits: Mapping[str, int],
        handler: Callable[[Delivery], None],
        ended: Callable[[PaddockError | None], None],
    ) -> FakeStanding:
        return FakeStanding(self, stream, credits, handler, ended)

    async def put_back(self, delivery: Delivery) -> None:
        self.broker.stream(delivery.stream).put_back(delivery)
        await self._hop()

    async def ensure(self, *streams: StreamSpec) -> None:
        for spec in streams:
            await self._there(f"$JS.API.STREAM.CREATE.{spec.name}")
            self.broker.ensure(spec)
        await self._hop()

    async def ensure_lane(
        self, stream: str, lane: str, subject: str, *, ack_wait_s: float = 30.0, inactive_s: float = 0.0
    ) -> None:
        await self._there(f"$JS.API.CONSUMER.CREATE.{stream}.{lane}.{subject}")
        self.broker.stream(stream).add_lane(lane, subject, ack_wait_s=ack_wait_s, inactive_s=inactive_s)
        await self._hop()

    async def depth(self, stream: str) -> Depth:
        await self._there(f"$JS.API.STREAM.INFO.{stream}")
        held = self.broker.stream(stream)
        held.expire()
        depth = Depth(len(held.seqs), held.first_seq, held.last_seq, len(held.lanes), held.created)
        await self._hop()
        return depth

    async def delete_stream(self, stream: str) -> None:
        await self._there(f"$JS.API.STREAM.DELETE.{stream}")
        self.broker.delete_stream(stream)
        await self._hop()

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._callbacks.append((callback, contextvars.copy_context()))

    async def flush(self, timeout_s: float = 5.0) -> None:
        await self._hop()

    def reset(self) -> None:
        if self._open and self.broker.up.is_set():
            self.resets += 1
            self.reconnected()

    async def close(self) -> None:
        self.cut()

    def cut(self) -> None:
        """End at once, as when the process is killed: what was on its way to us is lost."""
        self._open, self._cut = False, True
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions.clear()
        if self in self.broker.connections:
            self.broker.connections.remove(self)

    def reconnected(self) -> None:
        """For the broker: it is back."""
        for callback, context in self._callbacks:
            asyncio.get_running_loop().call_soon(callback, context=context)

    def _check_open(self) -> None:
        if not self._open:
            raise Unavailable("this connection to the fabric was closed")

    def _check_there(self) -> None:
        self._check_open()
        if not self.broker.up.is_set():
            raise Unavailable("the fabric is away; it is being reconnected")

    async def _there(self, subject: str) -> None:
        """The way to the broker."""
        await self._hop()
        if not self._rights.may_publish(subject):
            raise Denied(f"{self.identity} may not use {subject}")

    async def _hop(self) -> None:
        """One way through the network; the connection must be there before and after it."""
        self._check_there()
        await asyncio.sleep(self.broker.faults.latency_s())
        self._check_there()

    def _take(self, lane: Lane, batch: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while len(taken) < batch and (delivery := lane.take(self.broker.now())) is not None:
            taken.append(delivery)
        lane.wake_next()
        return taken

    async def _wait(self, lane: Lane) -> None:
        """Until the lane may have something. A wake that we can no longer use goes to the next who waits."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                lane.wake_next()
            elif waiter in lane.waiters:
                lane.waiters.remove(waiter)
            raise

    def _store_too(self, message: Message) -> None:
        """A core message on a stream's subject is stored as well; nobody hears whether it was."""
        try:
            if (stream := self.broker.owner(message.subject)) is not None:
                stream.store(message.subject, message.data, message.headers, expect_seq=None, ttl_s=0.0)
        except (Conflict, QueueFull):
            pass
