"""A nats-server, and its syncer, on a disk whose power can be cut."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from paddock.fabric import embedded, subjects
from paddock.fabric.client import NatsFabric, connect
from paddock.fabric.identity import Identities
from paddock.fabric.kept import STARTED
from paddock.model.fleet import FleetSpec
from paddock.testing.wait import until

from .disk import Disk, end, freeze
from .traced import TracedDisk

ROOT = Path(__file__).parents[2]
QUEUE_LIMIT = 1_000_000


def work(fleet: str) -> FleetSpec:
    return FleetSpec(name=fleet, runtime="exec", queue_limit=QUEUE_LIMIT)


class Broker:
    def __init__(self, disk: Disk | TracedDisk, durability: str, patch: pytest.MonkeyPatch) -> None:
        self.disk, self.folder = disk, disk.path / "fabric"
        self._durability, self._patch = durability, patch
        self._server: embedded.EmbeddedServer | None = None
        self._connections: list[NatsFabric] = []
        self._binary = embedded.find_binary()

    async def start(self) -> NatsFabric:
        """Up, with its streams; returns a connection that may do all."""
        wrapper = self.folder.parent.parent / "nats-server"
        syncer = shlex.join([sys.executable, "-m", "tests.power.syncing", str(self.folder)])
        both = f'cd {shlex.quote(str(ROOT))} && {{ {syncer} & }} && exec {shlex.quote(self._binary)} "$@"'
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join([*self.disk.prefix(), "sh", "-c", both, "sh"])} "$@"\n')
        wrapper.chmod(0o700)
        self._patch.setattr(embedded, "find_binary", lambda: str(wrapper))
        self._server = await embedded.start(self.folder, durability=self._durability)
        server = await self.connect()
        await server.ensure(*subjects.STREAMS, subjects.work_stream_spec(work("mill")))
        return server

    async def connect(self) -> NatsFabric:
        assert self._server is not None
        creds = Identities.open(self.folder / "keys").minter("server").creds("server", {})
        inbox = f"_INBOX.server.{len(self._connections)}"
        self._connections.append(await connect(self._server.url, creds=creds, inbox=inbox, name="test"))
        return self._connections[-1]

    @contextlib.contextmanager
    def syncer_stopped(self) -> Iterator[None]:
        """Nothing is put on disk meanwhile but by the broker itself, once a second. May be left with all of it dead."""
        syncers = self._pids()[1:]
        freeze(syncers)
        yield
        for pid in syncers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def cut(self) -> None:
        """The power goes: what was said by now was said, what is on the disk by now is on it."""
        assert self._server is not None
        freeze(self._pids())
        self.disk.cut()
        self._end()

    async def restore(self) -> NatsFabric:
        """The power is back, and the broker is up on what the disk has."""
        await self.close()
        self.disk.restore()
        (self.folder / STARTED).unlink(missing_ok=True)  # it is another start of the host
        return await self.start()

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
        self._connections.clear()
        self._end()

    def _end(self) -> None:
        if self._server is None:
            return
        pids, self._server = self._pids(), None
        end(pids)
        until(lambda: all(map(_reaped, pids)), what="the broker and its syncer have ended")

    def _pids(self) -> list[int]:
        """Of the broker, and of the syncer that was started with it."""
        assert self._server is not None
        broker = psutil.Process(self._server.pid)
        return [broker.pid, *(child.pid for child in broker.children())]


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return not Path(f"/proc/{pid}").exists()
