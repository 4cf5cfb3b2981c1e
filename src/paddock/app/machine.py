"""One machine: which roles it runs, how each is known to be ready, and how all of them are taken down."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from functools import partial
from urllib.parse import urlsplit

from paddock.app.data import DataDir, Locked, explain
from paddock.app.keeper import Keeper, Role, Say, Unwell, spawn
from paddock.app.process import send
from paddock.app.room import ROOM_BYTES, DiskWatch, free_bytes
from paddock.model.errors import DataDirError, Refused, Unavailable

NODE = "local"
"""The node of the machine that `paddock up` runs on."""

HOST = "127.0.0.1"
NATS_URL = "PADDOCK_NATS_URL"

NODE_STOP_S_MAX = 120.0
"""A node ends after its agents; they have their templates' `stop_grace_s` for that, 10 s if nothing else is said."""

OTHER_S_MAX = 10.0
"""So long who takes Paddock down waits for another who does."""

STOPPED_S_MAX = 300.0
"""So long who wants it up waits for who takes it down; a keeper is given 240 s."""

ORDER = ("sync", "fabric", "node", "server")


def roles(data: DataDir, *, port: int, durability: str) -> list[Role]:
    """The roles of this machine in the order of their start. A fabric of the user's own is not ours to keep."""
    fabric = Role(
        name="fabric",
        spawn=lambda: _spawn_fabric(data, durability),
        waits_for=lambda: _prepare(data),
        unwell=partial(_fabric_unwell, data, DiskWatch(data)),
        stop_s_max=30.0,
    )
    sync = _role(data, "sync", stop_s_max=10.0, unwell=partial(_sync_unwell, data))
    node = _role(data, "node", "--node", NODE, stop_s_max=NODE_STOP_S_MAX, stopping="its agents end what they hold")
    server = _role(data, "server", "--port", str(port), stop_s_max=30.0)
    return [node, server] if os.environ.get(NATS_URL) else [sync, fabric, node, server]


def role_command(data: DataDir, role: str, *options: str) -> list[str]:
    """How this very Paddock starts one of its roles; no module in the current folder can stand in its way (`-P`)."""
    return [sys.executable, "-P", "-m", "paddock", "role", role, "--data", str(data.path), *options]


def _role(
    data: DataDir,
    name: str,
    *options: str,
    stop_s_max: float,
    stopping: str = "",
    unwell: Callable[[], Awaitable[Unwell | None]] | None = None,
) -> Role:
    async def start() -> int:
        if name == "node" and os.environ.get(NATS_URL) and (missing := await _prepare(data)):
            raise Unavailable(f"the fabric of ${NATS_URL} does not answer: {missing}")
        return spawn(role_command(data, name, *options), data.log_file(name))

    async def waits_for() -> str:
        running = data.running(name)
        if running is None:
            return "its start"
        return await asyncio.to_thread(unready, running.url) if running.url else ""

    return Role(name=name, spawn=start, waits_for=waits_for, unwell=unwell, stop_s_max=stop_s_max, stopping=stopping)


async def _fabric_unwell(data: DataDir, disk: DiskWatch) -> Unwell | None:
    """While the disk is full nothing is better after a new start."""
    from paddock.app.roles import fabric_broken, fabric_unwell

    if why := disk.unwell():
        return Unwell(why, sure=True)
    if free_bytes(data.path) < ROOM_BYTES:
        return None
    if broken := await fabric_broken(data):
        return Unwell(broken, sure=True)
    why = await fabric_unwell(data)
    return Unwell(why) if why else None


async def _sync_unwell(data: DataDir) -> Unwell | None:
    from paddock.app.roles import sync_unwell

    why = await sync_unwell(data)
    return Unwell(why, sure=True) if why else None  # nothing is lost by starting it anew


async def _spawn_fabric(data: DataDir, durability: str) -> int:
    from paddock.fabric import embedded

    server = await embedded.start(data.fabric, durability=durability)
    try:
        data.announce("fabric", pid=server.pid, url=server.url)
    except DataDirError:
        await server.stop()  # nobody would find it again
        raise
    return server.pid


async def _prepare(data: DataDir) -> str:
    """Streams and identities are made by who starts the fabric, so that node and server find them."""
    from paddock.app.roles import fabric_url, prepare_fabric

    try:
        await prepare_fabric(data, fabric_url(data), NODE)
    except Unavailable as error:
        return error.message
    return ""


def unready(url: str, timeout_s: float = 3.0) -> str:
    """What the server at `url` still waits for, by its /readyz; empty when it is ready."""
    parts = urlsplit(url)
    try:
        with closing(http.client.HTTPConnection(parts.hostname or HOST, parts.port or 80, timeout=timeout_s)) as link:
            link.request("GET", "/readyz")
            answer = link.getresponse()
            body = answer.read(65_536)
    except (OSError, http.client.HTTPException):
        return f"an answer of {url}"
    return "" if answer.status == 200 else _missing(body)


def _missing(body: bytes) -> str:
    """`fabric: no connection; node: not seen`, from the parts that /readyz tells of."""
    try:
        told = json.loads(body)
        parts = next((told[key] for key in ("parts", "checks") if isinstance(told.get(key), dict)), told)
        missing = [f"{part}: {text}" for part, text in parts.items() if isinstance(text, str) and text != "ok"]
    except (ValueError, AttributeError):
        missing = []
    return "; ".join(missing) or "/readyz to say yes"


def choose_port(port: int) -> int:
    """This port of the loopback address if it is free (0: any that is), else Refused."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise Refused(
                f"port {port} of {HOST} cannot be had, another program has it or it is not allowed: "
                f"choose another with --port"
            ) from error
        return int(probe.getsockname()[1])


def journal(data: DataDir) -> Say:
    """Write lines with their time to log/keeper.log."""
    try:
        handler = logging.FileHandler(data.log_file("keeper"))
    except OSError as error:
        raise explain(error, data.log_file("keeper")) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))

    def say(text: str) -> None:
        handler.handle(logging.LogRecord("keeper", logging.INFO, "", 0, text.replace("%", "%%"), (), None))

    return say


def keeper(data: DataDir, *, port: int, durability: str, say: Say) -> Keeper:
    """The keeper of this machine, whose words also go to log/keeper.log. A server that lives keeps its port, also for
    when it dies later."""
    write = journal(data)

    def say_both(text: str) -> None:
        write(text)
        say(text)

    server = data.running("server")
    port = (urlsplit(server.url).port or port) if server is not None else choose_port(port)
    return Keeper(data, roles(data, port=port, durability=durability), say_both)


async def take_down(data: DataDir, say: Say, *, limit_s: float = 240.0) -> bool:
    """Stop everything of this installation, in order; True when something was to stop.

    A keeper that lives is asked to do it. Else it is done here; when the node is gone but has left agents, fabric and
    node are started once more, for only a node can stop agents gracefully. `Unavailable` when some are left even so."""
    with ExitStack() as held:
        with contextlib.suppress(DataDirError):  # another `down`, announced already; or a read-only disk
            held.enter_context(data.claim("down"))
        asked = await asyncio.to_thread(_ask_keeper, data, say, limit_s)
        await asyncio.to_thread(_keep, data, held)
        left = Keeper(data, roles(data, port=0, durability="always"), say)
        found = left.marker.exists() or bool(await _agents(data))
        if found:
            helpers = Keeper(data, [role for role in left.roles if role.name != "server"], say)
            if data.running("node") is None:
                say("the node is gone: starting it once more, to stop the agents that it may have left")
                try:
                    await helpers.start()
                except DataDirError:  # a disk that takes nothing any more
                    if await _agents(data):
                        raise
                helpers.close()
            await left.stop()
        if agents := await _agents(data):
            with contextlib.suppress(OSError):
                left.marker.touch()
            some = ", ".join(f"{agent} (pid {pid})" for agent, pid in list(agents.items())[:5])
            raise Unavailable(
                f"{len(agents)} agents still run: {some}{', …' if len(agents) > 5 else ''}: "
                f"see {data.log_file('node')}, then call 'paddock down' again"
            )
        return asked or found


def wait_stopped(data: DataDir, say: Say) -> None:
    """While somebody stops this installation, wait until that is done. `Unavailable` when it takes too long."""
    end, told = time.monotonic() + STOPPED_S_MAX, False
    while pid := data.stopped_by():
        if not told:
            say(f"Paddock is being stopped for {data.path} (by process {pid}): waiting until it is down")
            told = True
        if time.monotonic() > end:
            raise Unavailable(
                f"process {pid} did not stop Paddock in {STOPPED_S_MAX:.0f} s: see {data.log_file('keeper')}, "
                f"then call 'paddock down'"
            )
        time.sleep(0.1)


def _keep(data: DataDir, held: ExitStack) -> None:
    """As `DataDir.keep`; another `down`, which is at the same, is waited for. On a disk that takes nothing any more it
    is left out: nobody else can start anything there."""
    end = time.monotonic() + OTHER_S_MAX
    while True:
        try:
            held.enter_context(data.keep())
            return
        except Locked:
            if time.monotonic() > end:
                raise
        except DataDirError:
            return
        time.sleep(0.1)


async def _agents(data: DataDir) -> dict[str, int]:
    """The agents of this machine that run, with their pids, whether there is a node or not."""
    from paddock.node import recover
    from paddock.node.socket import socket_path

    folder = data.node(NODE)
    found = await asyncio.to_thread(recover.incarnations, str(folder), socket_path(folder))
    return {agent: incarnation.pid for agent, incarnation in sorted(found.items())}


def _ask_keeper(data: DataDir, say: Say, limit_s: float) -> bool:
    running = data.running("keeper")
    if running is None:
        return False
    send(running.pid, running.start_ticks, signal.SIGTERM)
    end = time.monotonic() + limit_s
    told: set[str] = set()
    with _Pid(running.pid) as process:
        while running.alive:
            for role in reversed(ORDER):
                if role not in told and data.running(role) is None:
                    told.add(role)
                    say(f"{role} has stopped")
            if time.monotonic() > end:
                raise Unavailable(
                    f"the keeper (pid {running.pid}) did not stop everything in {limit_s:.0f} s: "
                    f"see {data.log_file('keeper')}, then call 'paddock down' again"
                )
            process.wait(0.2)
    return True


class _Pid:
    """Waits for the end of a process that is not our child."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._fd = -1

    def __enter__(self) -> _Pid:
        try:
            self._fd = os.pidfd_open(self._pid)
        except ProcessLookupError:
            pass
        return self

    def wait(self, limit_s: float) -> None:
        if self._fd >= 0:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.poll(int(limit_s * 1000))

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
