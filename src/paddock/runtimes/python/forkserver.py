"""The node's end of one fork server.

warming ──ready──> serving ──no agent for IDLE_S_MAX, or let go──> gone, its agents live on
   │                  └──killed──> gone; its agents are watched by their pidfds from then on
   └──broken──> gone; every start that waited says why
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import Callable

import msgspec

from paddock.fabric.boot import boot_id
from paddock.model.errors import PaddockError, TemplateBroken, Unavailable
from paddock.model.fleet import FleetSpec
from paddock.ports.runtime import Handle, Launch, Live
from paddock.runtimes import process
from paddock.runtimes.python.wire import RUN_ENV, Fork, Report, Setup, frame

IDLE_S_MAX = 60.0
LAST_WORDS_S_MAX = 1.0
"""How long after the server's end its last children may still report their start."""
END_S_MAX = 2.0


class ServerGone(Unavailable):
    """The fork server ended before it could start the agent."""


class ForkServer:
    """Spawned when made; `fork` waits until it is warm."""

    def __init__(self, spec: FleetSpec, log_path: str, *, run: str = "", import_s_max: float = 30.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._what = f"fleet {spec.name}: agent {spec.agent!r}"
        self._log_path = log_path
        self._ids = itertools.count(1)
        self._pending: dict[int, tuple[Launch, asyncio.Future[Live]]] = {}
        self._children: dict[int, process.Process] = {}
        self._rest = b""
        self._unsent = bytearray()
        self._idle: asyncio.TimerHandle | None = None
        self._idle_s = IDLE_S_MAX
        self.gone = False
        self.first_epoch: int | None = None
        """The lowest that it started."""
        self.on_gone: Callable[[], None] = lambda: None
        self._warm: asyncio.Future[None] = self._loop.create_future()
        self._warm.add_done_callback(lambda warm: warm.cancelled() or warm.exception())  # seen, even if nobody waits
        self._spawn(spec, run)
        self._loop.add_reader(self._reports, self._read)
        self._limit = self._loop.call_later(import_s_max, self._too_slow, import_s_max)
        self._send(Setup(spec=msgspec.json.encode(spec)))

    @property
    def pid(self) -> int:
        return self._server.handle.pid

    async def fork(self, launch: Launch) -> Live:
        """Start one agent; many may be under way."""
        await asyncio.shield(self._warm)
        if self.gone:
            raise ServerGone
        started: asyncio.Future[Live] = self._loop.create_future()
        self.first_epoch = min(self.first_epoch or launch.epoch, launch.epoch)
        number = next(self._ids)
        self._pending[number] = (launch, started)
        self._stop_idling()
        self._send(
            Fork(
                id=number,
                agent=launch.agent,
                epoch=launch.epoch,
                env=process.launch_env(launch),
                folder=launch.folder,
                log_path=launch.log_path,
                spec=msgspec.json.encode(launch.spec),
            )
        )
        return await started

    def retire(self) -> None:
        """Nothing is asked of it any more: it ends when it has no agents."""
        self._idle_s = 0.0
        self._stop_idling()
        self._idle_if_unused()

    def let_go(self) -> None:
        """End the server; its agents live on, watched by nobody here."""
        for child in self._children.values():
            child.let_go()
        self._children.clear()
        self._lose(ServerGone("the runtime was closed"))

    async def ended(self) -> None:
        """Return when its process is gone; it is killed if it does not go by itself."""
        try:
            async with asyncio.timeout(END_S_MAX):
                await self._server.wait()
        except TimeoutError:
            self._server.kill()
            await self._server.wait()

    def _spawn(self, spec: FleetSpec, run: str) -> None:
        ours, theirs = socket.socketpair()
        self._reports, theirs_reports = os.pipe2(os.O_CLOEXEC)
        args = [sys.executable, "-P", "-m", "paddock.runtimes.python.server", str(theirs.fileno()), str(theirs_reports)]
        env = {**process.base_env(), **spec.env, **({RUN_ENV: run} if run else {})}
        try:
            pid = process.spawn(
                process.Command(
                    args=args,
                    env=env,
                    cwd=spec.cwd or os.sep,
                    log_path=self._log_path,
                    pass_fds=(theirs.fileno(), theirs_reports),
                )
            )
        except PaddockError:
            ours.close()
            os.close(self._reports)
            raise
        finally:
            theirs.close()
            os.close(theirs_reports)
        ours.setblocking(False)
        os.set_blocking(self._reports, False)
        self._link = ours
        handle = Handle(runtime="python", pid=pid, start_ticks=process.first_ticks(pid), epoch=0)
        self._server = process.Process(handle, os.pidfd_open(pid))
        self._server.on_end = self._server_ended

    # --- requests

    def _send(self, value: msgspec.Struct) -> None:
        if not self._unsent:
            self._loop.add_writer(self._link, self._flush)
        self._unsent += frame(value)
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._link.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()  # it is dead; its pidfd or its pipe tells us so
        self._loop.remove_writer(self._link)

    # --- reports

    def _read(self) -> None:
        try:
            data = os.read(self._reports, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._lose(ServerGone(f"{self._what}: its fork server ended; see {self._log_path}"))
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for text in lines:
            self._take(msgspec.json.decode(text, type=Report))

    def _take(self, report: Report) -> None:
        if report.what == "ready":
            self._limit.cancel()
            self._warm.set_result(None)
        elif report.what == "broken":
            self._lose(TemplateBroken(report.text))
        elif report.what == "started":
            self._started(report)
        elif report.what == "failed":
            self._refuse(report.id, Unavailable(f"{self._what} cannot be started: {report.text}"))
        elif report.what == "ended":
            child = self._children.pop(report.id, None)
            if child is not None:
                child.end(process.exit_of(report.status))
            self._refuse(report.id, Unavailable(f"{self._what} ended before it had started"))
        self._idle_if_unused()

    def _started(self, report: Report) -> None:
        launch, started = self._pending.pop(report.id)
        handle = Handle(runtime="python", pid=report.pid, start_ticks=report.ticks, epoch=launch.epoch, boot=boot_id())
        fd = process.open_pidfd(report.pid, report.ticks)
        child = process.Process(handle, -1 if fd is None else fd, watch=False)
        self._children[report.id] = child
        if not started.done():
            process.limit_process(report.pid, open_files=launch.spec.limits.open_files)
            started.set_result(child)

    def _refuse(self, number: int, error: PaddockError) -> None:
        pending = self._pending.pop(number, None)
        if pending is not None and not pending[1].done():
            pending[1].set_exception(error)

    # --- its end

    def _too_slow(self, limit_s: float) -> None:
        self._server.kill()
        self._lose(TemplateBroken(f"{self._what}: its import takes more than {limit_s:g} s"))

    def _server_ended(self) -> None:
        """The pipe's end comes once the last child has reported; the limit is for a helper of the user's code that
        keeps the pipe open."""
        if not self.gone:
            error = ServerGone(f"{self._what}: its fork server ended; see {self._log_path}")
            self._limit.cancel()
            self._limit = self._loop.call_later(LAST_WORDS_S_MAX, self._lose, error)

    def _lose(self, error: PaddockError) -> None:
        if self.gone:
            return
        self.gone = True
        self._limit.cancel()
        self._stop_idling()
        self._loop.remove_reader(self._reports)
        self._loop.remove_writer(self._link)
        self._link.close()
        os.close(self._reports)
        if not self._warm.done():
            self._warm.set_exception(error)
        for number in list(self._pending):
            self._refuse(number, error if isinstance(error, ServerGone) else ServerGone(error.message))
        children, self._children = list(self._children.values()), {}
        for child in children:
            child.watch()
        self.on_gone()

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _idle_if_unused(self) -> None:
        if not self._children and not self._pending and not self.gone and self._idle is None and self._warm.done():
            self._idle = self._loop.call_later(self._idle_s, self._lose, ServerGone("the fork server was idle"))
