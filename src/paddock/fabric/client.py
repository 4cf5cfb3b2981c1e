"""The port `Fabric`, by NATS JetStream.

Reading needs no consumers: streams are read by direct gets, in pages, from where the reader is; whoever stores
publishes `wake.<stream>` afterwards, and who tails the stream reads on. So nothing is left behind by a reader that
dies, and a missed wake costs at most TICK_S.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from paddock.fabric.connection import Connection
from paddock.fabric.groups import ALL, Groups
from paddock.fabric.identity import Creds
from paddock.fabric.jetstream import NO_STORE_TEXT, ApiReply, PubAck, reply_decoder, stored_of, stream_config, translate
from paddock.fabric.standing import ATTEMPTS_HEADER, Standing, delivery_of
from paddock.fabric.subjects import GROUP_COMMIT, wake
from paddock.fabric.subscription import Listening
from paddock.fabric.wakes import Wakes
from paddock.model.errors import (
    Conflict,
    Denied,
    NotFound,
    PaddockError,
    Refused,
    TimedOut,
    TooLarge,
    Unavailable,
)
from paddock.ports.fabric import Delivery, Depth, Headers, Message, Stored, StreamSpec

TICK_S = 1.0
"""A tail looks by itself this often: the net below a lost wake."""
THICK = 2
THICK_LAG_S = 0.01
"""A tail that found this many at once reads on a little later: what comes thick is read together."""
RECOVERY_S = 10.0
CREATE_S_MAX, CREATE_RETRY_S = 1.0, 0.02
READ_BYTES_MAX = 8 * 1024 * 1024
READ_MESSAGES_MAX = 500
"""In one page."""

T = TypeVar("T")


async def connect(
    url: str,
    *,
    creds_path: str | Path | None = None,
    creds: str = "",
    inbox: str,
    name: str,
    timeout_s: float = 10.0,
    wait: bool = False,
) -> NatsFabric:
    """A connection with an identity, given as the path or the text of a `.creds` file. `inbox` is the prefix that the
    identity may subscribe to, such as `_INBOX.executor.0`. `wait`: keep trying instead of Unavailable."""
    if creds_path is not None:
        try:
            # A thread for a kilobyte would cost every agent its stack and an arena.
            creds = Path(creds_path).read_text()
        except OSError as error:
            raise Refused(f"credentials at {creds_path} cannot be read: {error.strerror}") from error
    held = await Connection.open(url, creds=Creds.parse(creds), inbox=inbox, name=name, timeout_s=timeout_s, wait=wait)
    return NatsFabric(held)


class NatsFabric:
    """See `paddock.ports.fabric.Fabric` for what each call promises."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._loop = asyncio.get_running_loop()
        self._groups = Groups(connection.request)
        self._wakes = Wakes(connection)
        self._putting_back: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        return self.connection.connected

    def publish(self, subject: str, data: bytes = b"", *, reply: str = "", headers: Headers | None = None) -> None:
        self.connection.publish(subject, data, reply, headers)

    def subscribe(self, subject: str, handler: Callable[[Message], None], *, queue: str = "") -> Listening:
        def on_message(subject: str, reply: str, status: str, headers: Mapping[str, str], data: bytes) -> None:
            handler(Message(subject, data, reply, headers))

        return Listening(self.connection.subscribe(subject, on_message, queue))

    async def request(
        self, subject: str, data: bytes = b"", *, timeout_s: float = 5.0, headers: Headers | None = None
    ) -> Message:
        return await self.connection.request(subject, data, timeout_s=timeout_s, headers=headers)

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
        if len(data) + 4096 > self.connection.max_payload:
            raise TooLarge(f"{len(data):,} bytes for {subject}: the fabric takes {self.connection.max_payload:,}")
        if expect_seq is None and subject.startswith("work."):
            expect_seq = 0  # a queued task is replaced only by who puts it back, by its sequence
        extra: dict[str, str] = dict(headers) if headers else {}
        if expect_seq is not None:
            extra["Nats-Expected-Last-Subject-Sequence"] = str(expect_seq)
        if ttl_s:
            extra["Nats-TTL"] = f"{max(1, round(ttl_s))}s"
        answer = await self.connection.request(subject, data, timeout_s=timeout_s, headers=extra)
        acknowledged = msgspec.json.decode(answer.data, type=PubAck)
        if acknowledged.error is not None:
            refused = translate(acknowledged.error, subject)
            if isinstance(refused, Conflict):
                await self._on_disk(acknowledged.stream)  # what is there already must be there tomorrow, too
            raise refused
        await self._on_disk(acknowledged.stream)
        self._wakes.stored(acknowledged.stream)
        return acknowledged.seq

    async def read(
        self, stream: str, *, after_seq: int = 0, subject: str = ">", limit: int = READ_MESSAGES_MAX
    ) -> Sequence[Stored]:
        found, _ = await self._read(stream, after_seq, subject, limit)
        return found

    async def _read(self, stream: str, after_seq: int, subject: str, limit: int) -> tuple[list[Stored], bool]:
        """What comes next, and whether there is more."""
        found: list[Stored] = []
        done: asyncio.Future[bool] = self._loop.create_future()

        def on_reply(_: str, reply: str, status: str, headers: Mapping[str, str], data: bytes) -> None:
            if done.done():
                return
            if not status:
                found.append(stored_of(headers, data))
            elif status.startswith("204"):
                done.set_result(headers.get("Nats-Num-Pending") != "0")
            elif status.startswith("404"):
                done.set_result(False)
            elif status.startswith("503"):
                done.set_exception(NotFound(f"there is no stream {stream}"))
            else:
                done.set_exception(Unavailable(f"reading {stream}: {status}"))

        ask = {"seq": after_seq + 1, "next_by_subj": subject, "batch": limit, "max_bytes": READ_BYTES_MAX}
        try:
            more = await self._converse(f"$JS.API.DIRECT.GET.{stream}", ask, on_reply, done, timeout_s=10.0)
        except NotFound as error:
            raise await self._really_missing(error, stream) from error
        if found:
            await self._on_disk(stream)
        return found, more

    async def last(self, stream: str, subject: str) -> Stored | None:
        answer = await self.connection.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", timeout_s=5.0)
        status = answer.headers.get("Status", "")
        if status.startswith("404"):
            return None
        if status:
            raise Unavailable(f"reading {subject} of {stream}: {status}")
        await self._on_disk(stream)
        return stored_of(answer.headers, answer.data)

    async def purge(self, stream: str, subject: str) -> int:
        purged = (await self._api(f"STREAM.PURGE.{stream}", {"filter": subject})).purged
        await self._on_disk(stream)  # also when nothing was left: who tries again was not told that it is gone
        return purged

    async def tail(
        self, stream: str, *, subject: str = ">", after_seq: int = 0, lag_s: float = 0.0
    ) -> AsyncIterator[Sequence[Stored]]:
        woken = asyncio.Event()
        held = self.connection.subscribe(wake(stream), lambda *_: woken.set())
        try:
            while True:
                woken.clear()
                try:
                    batch, more = await self._read(stream, after_seq, subject, READ_MESSAGES_MAX)
                except (Unavailable, TimedOut):
                    await asyncio.sleep(0.05)
                    await self.connection.wait_connected()
                    continue
                if batch:
                    after_seq = batch[-1].seq
                    yield batch
                if not more:
                    yield []
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(TICK_S):
                            await woken.wait()
                    if pause_s := lag_s or (THICK_LAG_S if len(batch) >= THICK else 0.0):
                        await asyncio.sleep(pause_s)
        finally:
            held.close()

    async def pull(self, stream: str, lane: str, *, batch: int = 1, wait_s: float = 0.0) -> Sequence[Delivery]:
        found: list[Delivery] = []
        done: asyncio.Future[None] = self._loop.create_future()

        def on_message(subject: str, reply: str, status: str, headers: Mapping[str, str], data: bytes) -> None:
            if status:
                if done.done():
                    return
                if status.startswith(("404", "408", "409 Batch Completed", "409 Message Size")):
                    done.set_result(None)
                elif status.startswith("503"):
                    done.set_exception(NotFound(f"there is no lane {lane} of {stream}"))
                elif not status.startswith("100"):
                    done.set_exception(Unavailable(f"pulling {lane} of {stream}: {status}"))
                return
            found.append(delivery_of(subject, reply, headers, data))
            if not done.done() and len(found) == (1 if wait_s else batch):
                done.set_result(None)

        ask: dict[str, Any] = {"batch": 1 if wait_s else batch}
        if wait_s:
            ask["expires"] = int(wait_s * 1e9)
        else:
            ask["no_wait"] = True
        if not self.connection.connected:
            raise Unavailable("the fabric is away")
        inbox = self.connection.own_inbox("w" if wait_s else "n")
        held = self.connection.subscribe(inbox, on_message)
        asked = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{lane}"
        self.connection.publish(asked, msgspec.json.encode(ask), inbox)
        self.connection.watch(done, asked)
        timer = self._loop.call_later((wait_s or 5.0) + 2.0, lambda: None if done.done() else done.set_result(None))
        try:
            await done
        except NotFound as error:
            raise await self._really_missing(error, stream) from error
        except BaseException:
            for delivery in found:
                self._put_back(delivery)
            raise
        finally:
            timer.cancel()
            self.connection.unwatch(done)
            held.close(late=self._late)
        return found

    def stand(
        self,
        stream: str,
        credits: Mapping[str, int],
        handler: Callable[[Delivery], None],
        ended: Callable[[PaddockError | None], None],
    ) -> Standing:
        return Standing(self.connection, self._late, stream, credits, handler, ended)

    async def put_back(self, delivery: Delivery) -> None:
        """Store it anew in its own place with the hand-out not counted. A plain -NAK would count one, and a task that
        may run only once would be given up without ever having run."""
        headers = {**delivery.headers, ATTEMPTS_HEADER: str(max(0, delivery.delivered - 1))}
        try:
            await self.store(delivery.subject, delivery.data, headers=headers, expect_seq=delivery.seq)
        except Conflict:
            pass  # it is not there any more, or in another place
        except PaddockError:
            self.publish(delivery.ack, b"-NAK")

    async def ensure(self, *streams: StreamSpec) -> None:
        for spec in streams:
            config = stream_config(spec)
            try:
                await self._create(spec.name, config)
            except Conflict:
                await self._api(f"STREAM.UPDATE.{spec.name}", config)
            for lane, subject in spec.lanes.items():
                await self.ensure_lane(spec.name, lane, subject, ack_wait_s=spec.ack_wait_s)
            await self._all_on_disk(spec.name)

    async def _create(self, stream: str, config: Mapping[str, Any]) -> None:
        """The broker removes the folder of an account without streams when the first client connects, and after the
        last stream was deleted, all in its own time: what is made in that moment fails, and is tried again."""
        give_up = self._loop.time() + CREATE_S_MAX
        while True:
            try:
                await self._api(f"STREAM.CREATE.{stream}", config)
                return
            except Unavailable as error:
                if NO_STORE_TEXT not in error.message or self._loop.time() >= give_up:
                    raise
            await asyncio.sleep(CREATE_RETRY_S)

    async def ensure_lane(
        self, stream: str, lane: str, subject: str, *, ack_wait_s: float = 30.0, inactive_s: float = 0.0
    ) -> None:
        config: dict[str, Any] = {
            "durable_name": lane,
            "ack_policy": "explicit",
            "filter_subject": subject,
            "ack_wait": int(ack_wait_s * 1e9),
            "max_deliver": -1,
            "max_ack_pending": 1_000_000,
            "max_waiting": 100_000,
        }
        if inactive_s:
            config["inactive_threshold"] = int(inactive_s * 1e9)
        await self._api(f"CONSUMER.CREATE.{stream}.{lane}.{subject}", {"stream_name": stream, "config": config})

    async def depth(self, stream: str) -> Depth:
        reply = await self._api(f"STREAM.INFO.{stream}")
        state, consumers = reply.state, reply.state.get("consumer_count", 0)
        return Depth(state["messages"], state["first_seq"], state["last_seq"], consumers, reply.created)

    async def delete_stream(self, stream: str) -> None:
        with contextlib.suppress(NotFound):
            await self._api(f"STREAM.DELETE.{stream}")
        await self._all_on_disk(stream)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self.connection.on_reconnect(callback)

    async def flush(self, timeout_s: float = 5.0) -> None:
        await self.connection.flush(timeout_s)

    def reset(self) -> None:
        self.connection.reset()

    async def close(self) -> None:
        if self._putting_back:
            await asyncio.wait(self._putting_back, timeout=2.0)
        self._wakes.close()
        self._groups.close()
        await self.connection.close()

    # --- inside

    async def _on_disk(self, stream: str) -> None:
        """Return when what `stream` said by now is on disk: that it took something, or what it has."""
        if self.connection.server_name == GROUP_COMMIT:
            await self._groups.on_disk(stream)

    async def _all_on_disk(self, stream: str) -> None:
        """The same, with how the stream and its lanes are configured."""
        if self.connection.server_name == GROUP_COMMIT:
            await self._groups.ask(stream, ALL)

    async def _api(self, call: str, body: Mapping[str, Any] | None = None) -> ApiReply:
        data = msgspec.json.encode(body) if body is not None else b""
        answer = await self.connection.request(f"$JS.API.{call}", data, timeout_s=10.0)
        reply = reply_decoder.decode(answer.data)
        if reply.error is not None:
            raise translate(reply.error, call)
        return reply

    async def _converse(
        self, subject: str, ask: Mapping[str, Any], handler: Any, done: asyncio.Future[T], *, timeout_s: float
    ) -> T:
        """Ask once, and let `handler` take replies until it ends `done`."""
        if not self.connection.connected:
            raise Unavailable("the fabric is away")
        inbox, end = self.connection.new_reply(handler)
        self.connection.publish(subject, msgspec.json.encode(ask), inbox)
        self.connection.watch(done, subject)
        try:
            async with asyncio.timeout(timeout_s):
                return await done
        except TimeoutError as error:
            raise TimedOut(f"no answer on {subject} in {timeout_s:g} s") from error
        finally:
            end()
            self.connection.unwatch(done)

    async def _really_missing(self, error: NotFound, stream: str) -> PaddockError:
        """Nobody answered for a stream. A server that stops or starts has connections before and after it has streams,
        so that alone says nothing; it is asked, by who may ask."""
        if self.connection.reconnected_s_ago < RECOVERY_S:
            return Unavailable(f"{error.message} yet: the fabric is coming back")
        try:
            await self._api(f"STREAM.INFO.{stream}")
        except (NotFound, Denied):
            return error
        except PaddockError as broken:
            return Unavailable(broken.message)
        return error if "lane" in error.message else Unavailable(f"{stream} does not answer now")

    def _late(self, subject: str, reply: str, status: str, headers: Mapping[str, str], data: bytes) -> None:
        if reply.startswith("$JS.ACK."):
            self._put_back(delivery_of(subject, reply, headers, data))

    def _put_back(self, delivery: Delivery) -> None:
        task = self._loop.create_task(self.put_back(delivery), name=f"put back {delivery.subject}")
        self._putting_back.add(task)
        task.add_done_callback(self._putting_back.discard)
