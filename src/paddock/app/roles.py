"""The roles as processes: what each is made of. `paddock role …` runs one of them until it is told to stop.

SIGTERM and SIGINT stop a role in order. To the node that means: stop the agents, then end. SIGHUP ends the node and
leaves its agents running; the next node adopts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import msgspec
import structlog

from paddock import __version__
from paddock.app.clock import SystemClock
from paddock.app.data import DataDir, write_atomically
from paddock.app.lossy import LossyLog
from paddock.app.room import no_room
from paddock.fabric import broken, subjects
from paddock.fabric.broken import Watcher
from paddock.fabric.client import NatsFabric, connect
from paddock.fabric.identity import Identities, Minter
from paddock.model.errors import DataDirError, NoResponders, PaddockError, TimedOut, Unsynced

GC_OBJECTS = 10_000
"""The garbage collector looks when so many objects more were made than went."""
SWITCH_S = 0.0005
"""How long a thread may keep the interpreter while another waits for it (Python's own: 5 ms): the loop of a role must
not wait for the thread that writes the record."""
if TYPE_CHECKING:
    # Each role imports what is its own when it starts: a node that comes back has no time for the server's modules.
    from paddock.control.server import ControlServer

NATS_URL = "PADDOCK_NATS_URL"
"""A fabric of your own instead of the embedded one; it must trust the keys in the data directory's `fabric/keys`."""
RECORD_URL = "PADDOCK_RECORD_URL"
"""A database of your own (`postgresql://…`) instead of SQLite in the data directory."""


FABRIC_LOOK_S = 0.03
"""How often a syncer that was started before its fabric looks whether that is there."""


class NodeIdentity(msgspec.Struct, frozen=True):
    """All that a node is trusted with: its own credentials, and the key that mints its agents'."""

    url: str
    creds: str
    minter: dict[str, str]


def fabric_url(data: DataDir) -> str:
    """Where the fabric of this installation listens."""
    given = os.environ.get(NATS_URL, "")
    if given:
        return given
    running = data.running("fabric")
    return running.url if running else ""


async def prepare_fabric(data: DataDir, url: str, node: str) -> None:
    """Make the streams that everything else expects, and the identity of the node. Idempotent."""
    identities = Identities.open(data.fabric / "keys")
    fabric = await _connect_server(identities, url, wait=False)
    try:
        await fabric.ensure(*subjects.STREAMS)
    finally:
        await fabric.close()
    path = data.path / "client.creds"
    if not path.exists():
        write_atomically(path, identities.minter("client").creds("owner", {"name": "owner"}).encode())
    path = data.node(node) / "identity.json"
    if not _identity(path):  # lost or damaged: all that is in it comes from the fabric's keys
        creds = identities.minter("node").creds(node, {"node": node})
        identity = NodeIdentity(url, creds, identities.minter("agent").dump())
        write_atomically(path, msgspec.json.encode(identity))


def _identity(path: Path) -> NodeIdentity | None:
    """None when there is none, or it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=NodeIdentity)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


async def fabric_unwell(data: DataDir) -> str:
    """Why the fabric does not take a write, or empty when it does."""
    try:
        async with _as_server(data) as fabric:
            await fabric.store(subjects.well("keeper"), b"", timeout_s=5.0)
    except Unsynced:
        return ""  # it took the write; the rest is the syncer's
    except PaddockError as error:
        return error.message
    return ""


async def sync_unwell(data: DataDir) -> str:
    """Why the syncer does not answer, or empty when it does, whatever it says, or when the fabric is away."""
    try:
        async with _as_server(data) as fabric:
            await fabric.request(subjects.sync(subjects.STATE), timeout_s=5.0)
    except (NoResponders, TimedOut) as error:
        return error.message
    except PaddockError:
        return ""
    return ""


async def fabric_broken(data: DataDir) -> str:
    """Which streams of the fabric take no more writes until it is started anew, or empty."""
    try:
        async with _as_server(data) as fabric:
            watcher = await Watcher.open(fabric_url(data), Identities.open(data.fabric / "keys"))
            try:
                return await broken.streams(watcher, fabric)
            finally:
                await watcher.close()
    except PaddockError:
        return ""  # `fabric_unwell` tells of that


def run_server(data: DataDir, *, port: int) -> int:
    """The server role; returns its exit code."""
    _hold_signals()
    with data.claim("server", url=f"http://127.0.0.1:{port}"):
        return _run(_server(data, port))


def run_sync(data: DataDir) -> int:
    """The role that puts on disk what the fabric took; returns its exit code."""
    _hold_signals()
    with data.claim("sync"):
        return _run(_sync(data))


def run_node(data: DataDir, *, node: str) -> int:
    """The node role; returns its exit code."""
    _hold_signals()
    with data.claim("node"):
        return _run(_node(data, node))


def _run(main: Coroutine[Any, Any, None]) -> int:
    import uvloop

    _log_to_stderr()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # the node holds two for each agent, the syncer one a stream
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # What is there now stays; and of the many small things that a role makes, few live long enough to be looked at.
    gc.freeze()
    gc.set_threshold(GC_OBJECTS)
    sys.setswitchinterval(SWITCH_S)
    uvloop.run(main)
    return 0


async def _server(data: DataDir, port: int) -> None:
    from paddock.alerts import make_sender
    from paddock.api.app import create_app
    from paddock.api.serve import bind, serve
    from paddock.control.server import ControlServer
    from paddock.control.status import nothing_broken
    from paddock.record.sql import SqlRecord

    stopping, _ = _stop_signals()
    listening = bind("127.0.0.1", port)
    url = os.environ.get(RECORD_URL) or f"sqlite:///{data.record_db}"
    record = await asyncio.to_thread(SqlRecord.open, url)
    fabric = await _connect_server(Identities.open(data.fabric / "keys"), fabric_url(data), wait=True)
    watcher = await _watcher(data)
    control = ControlServer(
        fabric,
        record,
        SystemClock(),
        no_room=partial(no_room, data.path),
        senders=make_sender,
        broken=partial(broken.streams, watcher, fabric) if watcher is not None else nothing_broken,
    )
    try:
        await fabric.ensure(*subjects.STREAMS)
        await control.start()
        app = create_app(control, token=data.make_token(), version=__version__)
        failing = asyncio.ensure_future(_stop_when_failed(control, stopping))
        try:
            await serve(app, port=port, sock=listening, stopping=stopping)
        finally:
            failing.cancel()
    finally:
        await control.stop()
        if watcher is not None:
            await watcher.close()
        await fabric.close()
        record.close()


async def _sync(data: DataDir) -> None:
    from paddock.fabric.embedded import streams_folder
    from paddock.fabric.syncer import Syncer

    stopping, _ = _stop_signals()
    while not (url := fabric_url(data)):  # it is being started; only then are there keys
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FABRIC_LOOK_S):
                await stopping.wait()
                return
    identities = Identities.open(data.fabric / "keys")
    connecting = asyncio.ensure_future(_connect_server(identities, url, wait=True))
    await asyncio.wait({connecting, asyncio.ensure_future(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if not connecting.done():
        connecting.cancel()
        return
    fabric = connecting.result()
    syncer = Syncer(fabric, streams_folder(data.fabric, identities))
    await stopping.wait()
    syncer.close()
    await fabric.close()


async def _watcher(data: DataDir) -> Watcher | None:
    """A fabric of the user's own does not know who we would ask as."""
    if os.environ.get(NATS_URL):
        return None
    return await Watcher.open(fabric_url(data), Identities.open(data.fabric / "keys"), wait=True)


async def _stop_when_failed(control: ControlServer, stopping: asyncio.Event) -> None:
    """A controller that ends is a bug; half a server is worse than a new one."""
    error = await control.failed()
    stopping.set()
    structlog.get_logger(__name__).error("a controller ended; the server starts anew", error=repr(error))


async def _node(data: DataDir, node: str) -> None:
    from paddock.node.service import NodeConfig, NodeService
    from paddock.runtimes.exec import ExecRuntime
    from paddock.runtimes.python import PythonRuntime

    stopping, leaving = _stop_signals()
    folder = data.node(node)
    identity = _identity(folder / "identity.json")
    if identity is None:
        raise DataDirError(f"{folder}/identity.json is missing or damaged: 'paddock down', 'paddock up' make it anew")
    url = fabric_url(data) or identity.url
    minter = Minter(**identity.minter)
    fabric = await connect(url, creds=identity.creds, inbox=f"_INBOX.node.{node}", name=f"node {node}", wait=True)
    config = NodeConfig(id=node, folder=str(folder), nats_url=url, mint=partial(minter.agent, node), subreaper=True)
    service = NodeService(config, fabric, {"python": PythonRuntime(), "exec": ExecRuntime()}, SystemClock())
    await service.start()
    running = asyncio.create_task(service.run(), name="node service")
    try:
        await asyncio.wait({running, asyncio.ensure_future(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await service.stop(agents=not leaving.is_set())
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await fabric.close()


async def _connect_server(identities: Identities, url: str, *, wait: bool) -> NatsFabric:
    creds = identities.minter("server").creds("server", {})
    return await connect(url, creds=creds, inbox="_INBOX.server", name="server", wait=wait)


@contextlib.asynccontextmanager
async def _as_server(data: DataDir) -> AsyncIterator[NatsFabric]:
    """A connection for a moment; raises PaddockError when there is none to be had at once."""
    fabric = await _connect_server(Identities.open(data.fabric / "keys"), fabric_url(data), wait=False)
    try:
        yield fabric
    finally:
        await fabric.close()


STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _hold_signals() -> None:
    """What asks this role to stop before it can do so in order waits until it can: it is known to others, and may be
    told to stop, as soon as it claims its place."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def _stop_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """(stop, leave the agents): set by SIGTERM or SIGINT, and both by SIGHUP."""
    loop = asyncio.get_running_loop()
    stopping, leaving = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, stopping.set)

    def leave() -> None:
        leaving.set()
        stopping.set()

    loop.add_signal_handler(signal.SIGHUP, leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    return stopping, leaving


def _log_to_stderr() -> None:
    """One JSON object a line, for every role."""
    import logging
    import sys

    sys.stderr = LossyLog(sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, sys.stderr)),
    )
