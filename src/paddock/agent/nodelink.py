"""The line to the node: hello, beats, holds; drain and cancel from there.

away ──connect──> hello sent ──> open ──broken──> away (random wait up to 1 s, for ever)
  └── without a socket in the environment: never; the agent works alone ──────┘   `refused` ends it: a newer one lives

Notes are written to the socket itself, not through a transport: a hold must be in the kernel before the code runs,
because that code may kill this very process. So `flush` before it; one write takes all notes of a turn of the loop. A
node that has not read 200 kB is stuck; the line to it is given up and the next hello tells everything anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from paddock.agent import lossy
from paddock.agent.clock import HostClock
from paddock.agent.log import Log

LINE_BYTES_MAX = 1_000_000
ANSWER_S_MAX = 2.0
"""A node that is there and does not answer a question this long stands still; work does not wait for it."""


class Orders(Protocol):
    """What the node may tell an agent."""

    def drain(self) -> None: ...
    def cancel(self, task_id: str) -> None: ...
    def reset(self) -> None: ...
    def rest(self, on: bool) -> None: ...
    def degrade(self) -> None: ...
    def refused(self, why: str) -> None: ...


class Line(msgspec.Struct):
    op: str
    task: str = ""
    by: str = ""
    deaths: int = 0
    why: str = ""
    on: bool = True


class Holder(msgspec.Struct, frozen=True):
    """What the node knows of a task: which other agent was handed it before and still holds it (empty: none), and how
    many agents died while they held it."""

    by: str = ""
    deaths: int = 0


class NodeLink:
    """Holds are kept here whether there is a node or not."""

    def __init__(self, *, agent: str, epoch: int, path: str, token: str, clock: HostClock, log: Log) -> None:
        self._agent, self._epoch, self._path, self._token = agent, epoch, path, token
        self._clock, self._log = clock, log
        self._holds: dict[str, str] = {}
        self._since: dict[str, float] = {}
        """When each hold began, by the monotonic clock."""
        self._waits: dict[str, None] = {}
        self._asked: dict[str, asyncio.Future[Holder]] = {}
        self._ready = False
        self._greeted = asyncio.Event()
        """Not set while a hello is on its way: what is noted then is told after it."""
        self._greeted.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._unsent: list[bytes] = []
        self._refused = False
        self.rests = self.degraded = False
        """What it was told to be; said with each hello, for the node may have forgotten."""
        self.in_hand: Callable[[], list[str]] = list
        """Ack subjects of what was handed out to this agent and is not held yet."""
        self.counters: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def hold(self, task_id: str, ack: str) -> None:
        """The node knows of it once `told` has returned, or it knows nothing of this agent."""
        self._holds[task_id] = ack
        self._since[task_id] = self._clock.monotonic()
        self._send({"op": "hold", "task": task_id, "ack": ack})

    @property
    def greeting(self) -> bool:
        return not self._greeted.is_set()

    async def told(self) -> None:
        """Return when what was said before has gone to the kernel, with all that is said in this turn of the loop; and
        not while a hello is on its way, unless the node does not read it."""
        await self._clock.sleep(0.0)
        if self.greeting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S_MAX):
                    await self._greeted.wait()

    def drop(self, task_id: str) -> None:
        if self._holds.pop(task_id, None) is not None:
            del self._since[task_id]
            self._send({"op": "drop", "task": task_id})

    async def holder(self, task_id: str, patience_s: float) -> Holder:
        """Who else is, or was, at this task. Nobody when the node does not answer: `ANSWER_S_MAX` are given to one that
        is there, `patience_s` to one that is away."""
        wait_s = max(patience_s, ANSWER_S_MAX if self._socket is not None else 0.0)
        if not self._path or self._refused or wait_s <= 0:
            return Holder()
        answer: asyncio.Future[Holder] = asyncio.get_running_loop().create_future()
        self._asked[task_id] = answer
        self._send({"op": "holder", "task": task_id})
        try:
            async with asyncio.timeout(wait_s):
                return await answer
        except TimeoutError:
            return Holder()
        finally:
            del self._asked[task_id]

    def wait(self, inbox: str) -> None:
        """Work may come to this reply subject; the node listens there too."""
        if inbox:
            self._waits[inbox] = None
            self._send({"op": "wait", "inbox": inbox})

    def unwait(self, inbox: str, has: Sequence[str] = ()) -> None:
        """Nothing comes there any more that this agent would get. `has`: ack subjects of what it has in hand, but does
        not hold yet: that is not to be given back."""
        if self._waits.pop(inbox, 0) is None:
            self._send({"op": "unwait", "inbox": inbox} | ({"has": list(has)} if has else {}))

    def ready(self) -> None:
        self._ready = True
        self._send({"op": "ready"})

    def beat(self) -> None:
        done, failed = self.counters()
        lost = lossy.lost()
        self._send({"op": "beat", "done": done, "failed": failed} | ({"lost": lost} if lost else {}))

    async def beats(self, every_s: float) -> None:
        """For ever, from the event loop: a loop that is blocked does not beat."""
        while True:
            await self._clock.sleep(every_s)
            self.beat()

    async def run(self, orders: Orders) -> None:
        """Keep the line, for ever; returns without a socket path, and once the node refused this incarnation."""
        while self._path and not self._refused:
            try:
                await self._connect_and_read(orders)
            except (OSError, msgspec.DecodeError) as error:
                self._log.debug("the line to the node broke", error=str(error))
            if not self._refused:
                await self._clock.sleep(self._clock.dice())

    async def _connect_and_read(self, orders: Orders) -> None:
        loop = self._loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.setblocking(False)
            await loop.sock_connect(line, self._path)
            self._greeted.clear()
            told, ready, waits = dict(self._holds), self._ready, list(self._waits)
            # A hello may be longer than the socket's buffer; what is noted while it goes out follows after it.
            try:
                await loop.sock_sendall(line, msgspec.json.encode(self._hello()) + b"\n")
                self._socket = line
                self._catch_up(told, ready, waits)
                self._greeted.set()
                self.beat()
                await self._read(line, orders)
            finally:
                self._greeted.set()
                self._socket = None
                self._unsent.clear()

    async def _read(self, line: socket.socket, orders: Orders) -> None:
        loop = asyncio.get_running_loop()
        rest = b""
        while data := await loop.sock_recv(line, 65536):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                raise OSError("the node sent a line without an end")
            for text in lines:
                if text.strip():
                    self._obey(msgspec.json.decode(text, type=Line), orders)

    def _catch_up(self, told: dict[str, str], ready: bool, waits: list[str]) -> None:
        for inbox in waits:
            if inbox not in self._waits:
                self._send({"op": "unwait", "inbox": inbox})
        for inbox in self._waits:
            if inbox not in waits:
                self._send({"op": "wait", "inbox": inbox})
        for task in told.keys() - self._holds.keys():
            self._send({"op": "drop", "task": task})
        for task, ack in self._holds.items():
            if told.get(task) != ack:
                self._send({"op": "hold", "task": task, "ack": ack})
        if self._ready and not ready:
            self._send({"op": "ready"})
        for task in self._asked:
            self._send({"op": "holder", "task": task})

    def _hello(self) -> dict[str, Any]:
        now = self._clock.monotonic()
        return {
            "op": "hello",
            "agent": self._agent,
            "epoch": self._epoch,
            "token": self._token,
            "pid": os.getpid(),
            "holds": [
                {"task": task, "ack": ack, "for_s": round(now - self._since[task], 3)}
                for task, ack in self._holds.items()
            ],
            "has": self.in_hand(),
            "waits": list(self._waits),
            "ready": self._ready,
            "rests": self.rests,
            "degraded": self.degraded,
        }

    def _obey(self, line: Line, orders: Orders) -> None:
        if line.op == "drain":
            orders.drain()
        elif line.op == "cancel":
            orders.cancel(line.task)
        elif line.op == "holder":
            if (answer := self._asked.get(line.task)) is not None and not answer.done():
                answer.set_result(Holder(line.by, line.deaths))
        elif line.op == "reset":
            orders.reset()
        elif line.op == "rest":
            self.rests = line.on
            orders.rest(line.on)
        elif line.op == "degrade":
            self.degraded = True
            orders.degrade()
        elif line.op == "refused":
            self._refused = True
            orders.refused(line.why)
        # other words are from a newer node; what an agent does not know, it need not do

    def _send(self, value: dict[str, Any]) -> None:
        """With what else is said in this turn of the loop, or at the next `flush`."""
        if self._socket is None or self._loop is None:
            return
        if not self._unsent:
            self._loop.call_soon(self.flush)
        self._unsent.append(msgspec.json.encode(value))

    def flush(self) -> None:
        """Hand what was noted to the kernel."""
        if self._socket is None or not self._unsent:
            return
        data = b"\n".join([*self._unsent, b""])
        self._unsent.clear()
        try:
            sent = self._socket.send(data)
        except OSError as error:  # BlockingIOError too: see the module's text
            self._give_up(str(error))
            return
        if sent != len(data):
            self._give_up("the node does not read")

    def _give_up(self, why: str) -> None:
        """Wake the reader with an end-of-file; it closes and connects anew."""
        self._log.debug("the line to the node is given up", error=why)
        line, self._socket = self._socket, None
        self._unsent.clear()
        if line is not None:
            try:
                line.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed at the other end already; the reader sees that
