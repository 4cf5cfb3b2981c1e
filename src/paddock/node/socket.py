"""The node's Unix socket: hello, beats and holds from agents; drain and cancel to them. See docs/protocol.md.

connected ──hello accepted──> attached to its agent ──broken──> gone (the agent connects again)
    └── refused, garbage, no hello within HELLO_S_MAX: closed; nobody else notices
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import socket
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import msgspec
import structlog

from paddock.fabric.files import write_whole
from paddock.model.errors import DataDirError
from paddock.node.deadlines import Deadlines

log = structlog.get_logger(__name__)

LINE_BYTES_MAX = 64 * 1024
HELLO_BYTES_MAX = 4 * 1024 * 1024
"""Of the first line: it names all that the agent holds, about 160 bytes each."""
HELLO_S_MAX = 10.0
KEY_BYTES = 32
PATH_BYTES_MAX = 100
"""Of a Unix socket's path; the kernel takes 107."""


class HeldTask(msgspec.Struct, frozen=True):
    task: str
    ack: str
    for_s: float = 0.0
    """How long it has held it."""


class Line(msgspec.Struct, frozen=True):
    """Any line of an agent; which fields count depends on `op` (docs/protocol.md)."""

    op: str
    agent: str = ""
    epoch: int = 0
    token: str = ""
    pid: int = 0
    holds: list[HeldTask] = []
    ready: bool = False
    done: int = 0
    failed: int = 0
    lost: int = 0
    task: str = ""
    ack: str = ""
    inbox: str = ""
    waits: list[str] = []
    has: list[str] = []
    """Ack subjects of what it has in hand but does not hold yet."""
    rests: bool = False
    degraded: bool = False


_decode = msgspec.json.Decoder(Line).decode


class Listener(Protocol):
    """The agent behind a line."""

    def said_ready(self) -> None: ...
    def said_beat(self, done: int, failed: int, lost: int) -> None: ...
    def said_hold(self, task: str, ack: str) -> None: ...
    def said_drop(self, task: str) -> None: ...
    def asked_holder(self, task: str) -> None: ...
    def said_wait(self, inbox: str) -> None: ...
    def said_unwait(self, inbox: str, has: Sequence[str]) -> None: ...
    def hung_up(self, link: Link) -> None: ...


class Door(Protocol):
    """Who judges a hello."""

    def hello(self, line: Line, pid: int, link: Link) -> Listener | str:
        """The agent it is, or why it is refused (empty: not yet, it may ask again). `pid` is what the kernel says of
        the other end."""
        ...


class Tokens:
    """The proof of an incarnation: by a key of this node, so that it holds over the node's own restarts."""

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size != KEY_BYTES:
            write_whole(path, os.urandom(KEY_BYTES))
        self._key = path.read_bytes()

    def token(self, agent: str, epoch: int) -> str:
        return hmac.new(self._key, f"{agent}:{epoch}".encode(), hashlib.sha256).hexdigest()[:40]

    def proves(self, token: str, agent: str, epoch: int) -> bool:
        return hmac.compare_digest(token.encode(), self.token(agent, epoch).encode())


class Link(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: SocketServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._listener: Listener | None = None
        self._ended = asyncio.Event()
        self._fd = -1
        self.pid = 0

    def send(self, **line: object) -> None:
        """Say something to the agent; dropped when the line is broken or its agent does not read."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        waiting = transport.get_write_buffer_size()
        if waiting > LINE_BYTES_MAX:
            self.close()
            return
        data = msgspec.json.encode(line) + b"\n"
        if not waiting:
            # Past the transport: it would close the line on an error, and not read what a dead agent said last.
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                pass
            except OSError:
                return
        if data:
            transport.write(data)

    async def last_words(self, limit_s: float) -> None:
        """Take what was said before the other end closed; for one that has ended, so that all of it is here already.
        (A child of it may keep the line open: then `limit_s`.)"""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._ended.wait()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def refuse(self, why: str) -> None:
        self.send(op="refused", why=why)
        self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        self._fd = sock.fileno()
        self.pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        self._server.joined(self)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for text in lines:
            if self._transport is None or self._transport.is_closing():
                return
            if text.strip():
                self._take(text)
        limit = LINE_BYTES_MAX if self._listener is not None else HELLO_BYTES_MAX
        if len(self._rest) > limit:
            self.refuse(f"a line is longer than {limit} bytes")
            self._rest = b""

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended.set()
        self._server.left(self)
        if self._listener is not None:
            self._listener.hung_up(self)
            self._listener = None

    def _take(self, text: bytes) -> None:
        try:
            line = _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("garbage on the node's socket", pid=self.pid, error=str(error))
            self.refuse(f"not a line of the protocol: {error}")
            return
        listener = self._listener
        if listener is None:
            self._greet(line)
        elif line.op == "beat":
            listener.said_beat(line.done, line.failed, line.lost)
        elif line.op == "hold":
            listener.said_hold(line.task, line.ack)
        elif line.op == "drop":
            listener.said_drop(line.task)
        elif line.op == "holder":
            listener.asked_holder(line.task)
        elif line.op == "ready":
            listener.said_ready()
        elif line.op == "wait":
            listener.said_wait(line.inbox)
        elif line.op == "unwait":
            listener.said_unwait(line.inbox, line.has)
        # other words are from a newer agent; what this node does not know, it need not do

    def _greet(self, line: Line) -> None:
        if line.op != "hello":
            self.refuse("the first line must be hello")
            return
        found = self._server.door.hello(line, self.pid, self)
        if found == "":
            self.close()
        elif isinstance(found, str):
            log.warning("an agent was refused", agent=line.agent, epoch=line.epoch, pid=self.pid, why=found)
            self.refuse(found)
        else:
            self._server.greeted(self)
            self._listener = found


class SocketServer:
    def __init__(self, folder: Path, door: Door, deadlines: Deadlines) -> None:
        self.path = socket_path(folder)
        self.door = door
        self._deadlines = deadlines
        self._links: set[Link] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            Path(self.path).unlink(missing_ok=True)  # of a killed node; the journal's lock says: no other lives
            self._server = await loop.create_unix_server(lambda: Link(self), self.path, backlog=1024)
            Path(self.path).chmod(0o600)
        except OSError as error:
            raise DataDirError(f"the node's socket {self.path} cannot be made: {error}") from error

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.close()
        if self._server is not None:
            await self._server.wait_closed()
            Path(self.path).unlink(missing_ok=True)

    def joined(self, link: Link) -> None:
        self._links.add(link)
        self._deadlines.set(link, HELLO_S_MAX, lambda late_s: link.refuse("no hello came"))

    def greeted(self, link: Link) -> None:
        self._deadlines.drop(link)

    def left(self, link: Link) -> None:
        self._links.discard(link)
        self._deadlines.drop(link)


def socket_path(folder: Path) -> str:
    """In the node's folder, or when that path is too long for a socket, in a private folder of the temporary one; the
    same after a restart, for agents come back to it."""
    path = str(folder / "node.sock")
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        return path
    short = Path(tempfile.gettempdir()) / f"paddock-{os.getuid()}"
    short.mkdir(mode=0o700, exist_ok=True)
    status = short.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or short.is_symlink():
        raise DataDirError(
            f"{short} must be a folder of this user alone; remove it, or choose a shorter data directory"
        )
    return str(short / f"{hashlib.sha256(path.encode()).hexdigest()[:16]}.sock")
