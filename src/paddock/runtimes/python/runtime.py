"""The node's side of the runtime `python`: which fork server starts what, and the check of a template."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import msgspec

from paddock.model.errors import TemplateBroken
from paddock.model.fleet import FleetSpec, Method
from paddock.model.policy import Action
from paddock.ports.runtime import Handle, Launch, Live
from paddock.runtimes import process
from paddock.runtimes.python.forkserver import ForkServer, ServerGone
from paddock.runtimes.python.load import CHECK_S_MAX
from paddock.runtimes.python.wire import Answer


class PythonRuntime:
    """See `paddock.ports.runtime.Runtime`. `run` replaces what a forked child runs (`module:function`), for tests.

    The output of a fleet's fork server goes to `fork-server.log` beside its agents' folders."""

    actions = (
        Action.RESTART,
        Action.RESTART_CLEAN,
        Action.RESET_CONNECTION,
        Action.REDEPLOY,
        Action.REDISTRIBUTE,
        Action.DEGRADE,
    )

    def __init__(self, *, run: str = "", check_s_max: float = CHECK_S_MAX) -> None:
        self._run = run
        self._check_s_max = check_s_max
        self._servers: dict[bytes, ForkServer] = {}
        self._retired: set[ForkServer] = set()
        """Images that are used no more; they stay for as long as agents of theirs run."""
        self._adopted: set[process.Process] = set()

    async def check(self, spec: FleetSpec) -> list[Method] | None:
        _check_place(spec)
        answer = await _check_apart(spec, self._check_s_max)
        if answer.broken:
            raise TemplateBroken(answer.broken)
        return answer.methods

    async def start(self, launch: Launch) -> Live:
        _check_place(launch.spec)
        try:
            return await self._server(launch).fork(launch)
        except ServerGone:
            # A child reports its start itself before it runs, so nothing of this launch lives: once more.
            return await self._server(launch).fork(launch)

    async def adopt(self, handle: Handle) -> Live | None:
        live = process.adopt(handle)
        if live is not None:
            self._adopted.add(live)
            live.on_end = lambda: self._adopted.discard(live)
        return live

    async def close(self) -> None:
        servers = [*self._servers.values(), *self._retired]
        self._servers.clear()
        self._retired.clear()
        for server in servers:
            server.let_go()
        for server in servers:
            await server.ended()
        for live in list(self._adopted):
            live.let_go()
        self._adopted.clear()

    def renew(self, spec: FleetSpec, epoch: int) -> None:
        """See `paddock.ports.runtime.Renewing`. An image that was made after this incarnation is new enough."""
        key = _image(spec)
        server = self._servers.get(key)
        if server is None or server.first_epoch is None or server.first_epoch > epoch:
            return
        del self._servers[key]
        self._retired.add(server)
        server.on_gone = lambda: self._retired.discard(server)
        server.retire()

    def server_pids(self) -> list[int]:
        """The fork servers that live, for who counts or kills them."""
        return [server.pid for server in (*self._servers.values(), *self._retired) if not server.gone]

    def _server(self, launch: Launch) -> ForkServer:
        """The warm image for this spec, made when there is none."""
        spec = launch.spec
        key = _image(spec)
        server = self._servers.get(key)
        if server is None or server.gone:
            log_path = os.path.join(os.path.dirname(launch.folder), "fork-server.log")
            server = ForkServer(spec, log_path, run=self._run, import_s_max=self._check_s_max)
            server.on_gone = lambda: self._forget(key)
            self._servers[key] = server
        return server

    def _forget(self, key: bytes) -> None:
        server = self._servers.get(key)
        if server is not None and server.gone:
            del self._servers[key]


def _image(spec: FleetSpec) -> bytes:
    """What an image is made of."""
    return msgspec.json.encode([spec.name, spec.agent, spec.version, spec.pythonpath, spec.env], order="sorted")


def _check_place(spec: FleetSpec) -> None:
    process.check_place(spec)
    if process.find_user(spec.user) is not None:
        raise TemplateBroken(
            f"fleet {spec.name}: user {spec.user!r}: an agent in Python needs its credentials and its node's socket, "
            "which only the node's own user can reach; take that user, or a command (runtime exec)"
        )


async def _check_apart(spec: FleetSpec, limit_s: float) -> Answer:
    """Import the user's class in a process of its own."""
    where = f"fleet {spec.name}: agent {spec.agent!r}"
    with tempfile.TemporaryDirectory(prefix="paddock-check-") as folder:
        ask, answer, log = (os.path.join(folder, name) for name in ("spec.json", "answer.json", "log"))
        Path(ask).write_bytes(msgspec.json.encode(spec))
        pid = process.spawn(
            process.Command(
                args=[sys.executable, "-P", "-m", "paddock.runtimes.python.check", ask, answer],
                env={**process.base_env(), **spec.env},
                cwd=spec.cwd or os.sep,
                log_path=log,
            )
        )
        live = process.Process(
            Handle(runtime="python", pid=pid, start_ticks=process.first_ticks(pid), epoch=0), os.pidfd_open(pid)
        )
        try:
            async with asyncio.timeout(limit_s):
                exit = await live.wait()
        except TimeoutError as error:
            raise TemplateBroken(f"{where}: its import takes more than {limit_s:g} s") from error
        finally:
            live.kill()
            await asyncio.shield(live.wait())
        try:
            return msgspec.json.decode(Path(answer).read_bytes(), type=Answer)
        except (FileNotFoundError, msgspec.DecodeError) as error:
            raise TemplateBroken(f"{where}: its import ends the process ({_words(exit.code, exit.signal)})") from error


def _words(code: int | None, signal: int | None) -> str:
    return f"signal {signal}" if signal is not None else f"exit code {code}"
