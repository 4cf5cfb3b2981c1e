"""Listening: take a port or say who has it, serve until told to stop, stop within a bound.

bind ──> serve ──stopping set──> no new connections, waits and streams end ──(all ended, or STOP_S_MAX)──> returns
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import socket
from collections.abc import Iterator

import psutil
import uvicorn
from fastapi import FastAPI

from paddock.model.errors import PaddockError, Refused, Unavailable

STOP_S_MAX = 5
BACKLOG = 1024


class ServerEnded(PaddockError):
    """The HTTP server ended though nobody stopped it."""

    code = "server-ended"


class Server(uvicorn.Server):
    """uvicorn's server, with signals left to those who own the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on host and port (0: any free one); `Unavailable` or `Refused` says why there is none."""
    if not 0 <= port <= 65535:
        raise Refused(f"port {port} is not a port: use 0 to 65535 (0 takes a free one)")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise Refused(f"host {host!r} is not a name or an address that this machine knows; use --host") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last connections fade away is free
        sock.bind(address)
        sock.listen(BACKLOG)  # now, so that two who start at once cannot both have it
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _no_port(host, port, error) from None
    return sock


def _no_port(host: str, port: int, error: OSError) -> PaddockError:
    if error.errno == errno.EADDRINUSE:
        return Unavailable(f"port {port} is taken{_by_whom(port)}; use --port for another, or stop what has it")
    if error.errno == errno.EACCES:
        return Refused(f"port {port} needs privileges that this process does not have; use --port with 1024 or more")
    if error.errno == errno.EADDRNOTAVAIL:
        return Refused(f"host {host!r} is not an address of this machine; use --host")
    return Unavailable(f"cannot listen on {host} port {port}: {error.strerror}")


def _by_whom(port: int) -> str:
    """` (by pid 17, python)`, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f" (by pid {connection.pid}, {psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass  # it is taken all the same; by whom is a courtesy
    return ""


async def serve(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int,
    sock: socket.socket | None = None,
    stopping: asyncio.Event,
) -> None:
    """Answer requests in the current loop until `stopping` is set, then return within about `STOP_S_MAX` seconds.

    `sock` is what `bind` made; without it host and port are bound here."""
    sock = sock or bind(host, port)
    app.state.stopping = stopping  # ends live streams and waits
    await run(Server(config_of(app)), sock, stopping)


def config_of(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools" if importlib.util.find_spec("httptools") else "h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_S_MAX,
    )


async def run(server: Server, sock: socket.socket, stopping: asyncio.Event) -> None:
    """Run `server` until `stopping` is set; `ServerEnded` when it ends before."""
    loop = asyncio.get_running_loop()
    serving = loop.create_task(server.serve(sockets=[sock]), name="api server")
    told = loop.create_task(stopping.wait(), name="api server: stopping")
    try:
        await asyncio.wait([serving, told], return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            serving.result()
            raise ServerEnded
    finally:
        told.cancel()
        server.should_exit = True
        await asyncio.wait([serving, told])
        sock.close()
    serving.result()
