"""One connection to NATS: lean, and for ever.

    closed ──open──> connecting ──> connected ──lost──> waiting (jitter) ──> connecting …
                         └── refused for good (wrong credentials at the first try) ──> Denied

Why not nats-py: three to four times the processor time a message, and pulls silent after a server restart (its #504).
This one knows what Paddock needs: subscriptions that survive reconnects, one multiplexed inbox, coalesced writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from paddock import __version__
from paddock.fabric.identity import Creds
from paddock.fabric.requests import Requests
from paddock.fabric.subscription import RawHandler, Subscription
from paddock.fabric.wire import Info, Parser, ProtocolError, frame, parse_headers
from paddock.model.errors import Denied, Refused, TimedOut, Unavailable
from paddock.ports.fabric import Message

BUFFER_BYTES_MAX = 4 * 1024 * 1024
"""What may wait to be written; beyond it, and while there is no connection, core messages are dropped and counted."""
RETRY_S_MAX = 1.0
"""Longest wait between tries; each is drawn at random below a limit that doubles from 50 ms, against storms."""
GREET_S_MAX = 30.0  # when thousands come back at once, who gives up and tries anew makes it last longer for all
PING_S = 30.0


class Connection(asyncio.Protocol):
    """See the module's text. Make it by `Connection.open`."""

    def __init__(self, url: str, *, creds: Creds, inbox: str, name: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("nats", "tls") or not parts.hostname:
            raise Refused(f"{url!r} is not the address of a fabric: use nats://host:port or tls://host:port")
        self._host, self._port, self._tls = parts.hostname, parts.port or 4222, parts.scheme == "tls"
        self._creds, self._name = creds, name
        self._inbox = f"{inbox}.{os.urandom(6).hex()}"
        self._loop = asyncio.get_running_loop()
        self._parser = Parser(self._on_message, self._on_control)
        self._transport: asyncio.Transport | None = None
        self._subscriptions: dict[int, Subscription] = {}
        self._late: dict[int, RawHandler] = {}
        self._replies: dict[str, RawHandler] = {}
        self._waiters: dict[asyncio.Future[Any], str] = {}
        self._requests = Requests(self._loop)
        self._pongs: list[asyncio.Future[None] | Callable[[], None]] = []
        self._sid = self._token = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._hello: asyncio.Future[None] | None = None
        self._lost = asyncio.Event()
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._closed = False
        self._pings_out = 0
        self._reconnected_at = -math.inf
        self.dropped = 0
        """Core messages that were dropped, not sent."""
        self.reconnects = 0
        self.max_payload = 1_048_576
        self.server_version = self.server_name = ""
        self.last_error = ""

    @classmethod
    async def open(
        cls, url: str, *, creds: Creds, inbox: str, name: str, timeout_s: float = 10.0, wait: bool = False
    ) -> Connection:
        """Connect. `wait`: go on trying for ever instead of raising Unavailable. Denied when the server refuses us."""
        self = cls(url, creds=creds, inbox=inbox, name=name)
        self._subscribe_inbox()
        give_up = self._loop.time() + timeout_s
        while True:
            try:
                await self._connect()
                break
            except (OSError, Unavailable) as error:
                if not wait and self._loop.time() > give_up:
                    raise Unavailable(f"no fabric answers at {url}: {error}") from error
                await asyncio.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - jitter
        self._keeper = self._loop.create_task(self._keep(), name=f"fabric-connection {name}")
        return self

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    @property
    def reconnected_s_ago(self) -> float:
        """Seconds since the last reconnect; infinite when the first connection still holds."""
        return self._loop.time() - self._reconnected_at

    async def wait_connected(self) -> None:
        await self._up.wait()

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def watch(self, future: asyncio.Future[Any], subject: str) -> None:
        """End `future` with Unavailable when the connection is lost, with Denied when `subject` is refused to us."""
        self._waiters[future] = subject

    def unwatch(self, future: asyncio.Future[Any]) -> None:
        self._waiters.pop(future, None)

    # --- sending

    def publish(
        self, subject: str, data: bytes = b"", reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        if not self._up.is_set() or self._out_bytes > BUFFER_BYTES_MAX:
            self.dropped += 1
            return
        self._write(frame(subject, data, reply, headers))

    def subscribe(self, subject: str, handler: RawHandler, queue: str = "") -> Subscription:
        self._sid += 1
        held = Subscription(self, self._sid, subject, queue, handler)
        self._subscriptions[held.sid] = held
        if self._up.is_set():
            self._write(held.line)
        return held

    def unsubscribe(
        self, held: Subscription, late: RawHandler | None = None, done: Callable[[], None] | None = None
    ) -> None:
        """Stop it. Messages that were on their way go to `late` until the server has surely heard; then `done`."""
        if self._subscriptions.pop(held.sid, None) is None or not self._up.is_set():
            if done is not None:
                done()
            return
        self._write(b"UNSUB %d\r\n" % held.sid)
        if late is not None:
            self._late[held.sid] = late

            def heard() -> None:
                self._late.pop(held.sid, None)
                if done is not None:
                    done()

            self._pongs.append(heard)
            self._write(b"PING\r\n")

    def new_reply(self, handler: RawHandler) -> tuple[str, Callable[[], None]]:
        """A reply subject in the shared inbox, and what ends it."""
        self._token += 1
        token = f"{self._token:x}"
        self._replies[token] = handler

        def end() -> None:
            self._replies.pop(token, None)

        return f"{self._inbox}.r.{token}", end

    def own_inbox(self, suffix: str) -> str:
        self._token += 1
        return f"{self._inbox}.{suffix}.{self._token:x}"

    async def request(
        self, subject: str, data: bytes = b"", *, timeout_s: float = 5.0, headers: Mapping[str, str] | None = None
    ) -> Message:
        """One reply. Raises NoResponders, TimedOut, or Unavailable when the connection is or gets lost."""
        if not self._up.is_set():
            raise Unavailable(f"the fabric at {self._host}:{self._port} is away; it is being reconnected")
        self._token += 1
        token = f"{self._token:x}"
        asked = self._requests.add(token, subject, timeout_s)
        try:
            self._write(frame(subject, data, f"{self._inbox}.r.{token}", headers))
            return await asked.answer
        except TimedOut:
            raise TimedOut(f"no answer on {subject} in {timeout_s:g} s") from None
        finally:
            self._requests.end(token)

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when the server has seen everything sent so far."""
        if not self._up.is_set():
            raise Unavailable("the fabric is away")
        pong: asyncio.Future[None] = self._loop.create_future()
        self._pongs.append(pong)
        self._write(b"PING\r\n")
        try:
            async with asyncio.timeout(timeout_s):
                await pong
        except TimeoutError as error:
            raise TimedOut(f"the fabric did not answer within {timeout_s:g} s") from error

    def reset(self) -> None:
        """Give up this connection, though it seems well, and make another; what waits to be sent goes out first."""
        if self._transport is not None and self._up.is_set():
            self._send()
            self._transport.abort()

    async def close(self) -> None:
        """Send what waits, then end for good. Idempotent."""
        if self._closed:
            return
        if self._up.is_set():
            with contextlib.suppress(Unavailable):
                await self.flush(1.0)
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._transport is not None:
            self._transport.close()
        self._requests.close()
        self._drop("closed")

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
        except ProtocolError as error:
            self.last_error = str(error)
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop(str(exc) if exc else "the server closed the connection")

    def _write(self, data: bytes) -> None:
        """Coalesce: everything written in one turn of the loop goes out as one."""
        if not self._out:
            self._loop.call_soon(self._send)
        self._out.append(data)
        self._out_bytes += len(data)

    def _send(self) -> None:
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()
        self._out_bytes = self._transport.get_write_buffer_size() if self._transport else 0

    def _subscribe_inbox(self) -> None:
        def on_reply(subject: str, reply: str, status: str, headers: Mapping[str, str], data: bytes) -> None:
            token = subject.rpartition(".")[2]
            if (asked := self._requests.get(token)) is not None:
                asked.take(subject, reply, status, headers, data)
            elif (handler := self._replies.get(token)) is not None:
                handler(subject, reply, status, headers, data)

        self.subscribe(f"{self._inbox}.r.*", on_reply)

    def _waiting(self) -> list[tuple[asyncio.Future[Any], str]]:
        """Who waits for an answer, and on which subject it was asked."""
        return [*self._waiters.items(), *((asked.answer, asked.subject) for asked in self._requests)]

    async def _connect(self) -> None:
        self._parser = Parser(self._on_message, self._on_control)
        self._hello = self._loop.create_future()
        self._lost.clear()
        context = ssl.create_default_context() if self._tls else None
        transport, _ = await self._loop.create_connection(lambda: self, self._host, self._port)
        self._transport = transport
        try:
            async with asyncio.timeout(GREET_S_MAX):
                await self._hello
                if context is not None:
                    upgraded = await self._loop.start_tls(transport, self, context, server_hostname=self._host)
                    if upgraded is None:
                        raise Unavailable("the server ended the connection in the TLS handshake")
                    self._transport = upgraded
                self._hello = self._loop.create_future()
                self._transport.write(self._greeting())
                await self._hello
        except BaseException as error:
            self._transport.abort()
            if isinstance(error, TimeoutError):
                raise Unavailable(f"the server did not greet in {GREET_S_MAX:g} s") from error
            raise
        finally:
            self._hello = None
        self._pings_out = 0
        self._up.set()
        for held in self._subscriptions.values():
            self._write(held.line)

    def _greeting(self) -> bytes:
        options = {
            "verbose": False,
            "pedantic": False,
            "lang": "python",
            "version": __version__,
            "protocol": 1,
            "headers": True,
            "no_responders": True,
            "echo": True,
            "name": self._name,
            "jwt": self._creds.token,
            "sig": self._creds.sign(self._nonce) if self._nonce else "",
        }
        return b"CONNECT %b\r\nPING\r\n" % msgspec.json.encode(options)

    _nonce = b""

    def _on_control(self, verb: bytes, rest: bytes) -> None:
        if verb == b"PING":
            self._write(b"PONG\r\n")
        elif verb == b"PONG":
            self._on_pong()
        elif verb == b"INFO":
            info = msgspec.json.decode(rest, type=Info)
            self._nonce, self.max_payload = info.nonce.encode(), info.max_payload
            self.server_version, self.server_name = info.version, info.server_name
            if self._hello is not None and not self._hello.done():
                self._hello.set_result(None)
        elif verb == b"-ERR":
            self._on_error(rest.decode("utf-8", "replace").strip("' "))
        elif verb != b"+OK":
            raise ProtocolError(f"unknown verb {verb[:20]!r}")

    def _on_pong(self) -> None:
        self._pings_out = 0
        if self._hello is not None and not self._hello.done():
            self._hello.set_result(None)
        elif self._pongs:
            waiting = self._pongs.pop(0)
            if callable(waiting):
                waiting()
            elif not waiting.done():
                waiting.set_result(None)

    def _on_error(self, text: str) -> None:
        self.last_error = text
        if self._hello is not None and not self._hello.done() and "authorization" in text.lower():
            self._hello.set_exception(Denied("the fabric refuses these credentials: they are not of this installation"))
        elif text.startswith("Permissions Violation for Publish"):
            subject = text.rpartition(' to "')[2].rstrip('"')
            for future, asked in self._waiting():
                if asked == subject and not future.done():
                    future.set_exception(Denied(f"this identity may not publish on {subject}"))

    def _on_message(self, sid: int, subject: str, reply: str, raw: bytes, data: bytes) -> None:
        held = self._subscriptions.get(sid)
        handler = held.handler if held is not None else self._late.get(sid)
        if handler is None:
            return
        status, headers = parse_headers(raw) if raw else ("", {})
        handler(subject, reply, status, headers, data)

    def _drop(self, why: str) -> None:
        """The connection is gone: whoever waits hears it now."""
        self._up.clear()
        self._out.clear()
        self._out_bytes = 0
        self._late.clear()
        gone = Unavailable(f"the connection to the fabric was lost: {why}")
        for future, _ in self._waiting():
            if not future.done():
                future.set_exception(gone)
        pongs, self._pongs = self._pongs, []
        for pong in pongs:
            if not isinstance(pong, asyncio.Future):
                pong()
            elif not pong.done():
                pong.set_exception(gone)
        if self._hello is not None and not self._hello.done():
            self._hello.set_exception(gone)
        self._lost.set()

    async def _keep(self) -> None:
        """Ping while it is well, reconnect when it is not."""
        while True:
            try:
                async with asyncio.timeout(PING_S):
                    await self._lost.wait()
            except TimeoutError:
                if self._pings_out >= 2 and self._transport is not None:
                    self._transport.abort()
                else:
                    self._pings_out += 1
                    self._pongs.append(lambda: None)
                    self._write(b"PING\r\n")
                continue
            limit_s = 0.05
            while not self._up.is_set():
                await asyncio.sleep(random.uniform(0, limit_s))  # noqa: S311 - jitter against a reconnect storm
                limit_s = min(limit_s * 2, RETRY_S_MAX)
                with contextlib.suppress(OSError, Unavailable, Denied):
                    await self._connect()
            self.reconnects += 1
            self._reconnected_at = self._loop.time()
            for callback in self._callbacks:
                callback()
