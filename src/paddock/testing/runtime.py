"""The scripted runtime: agents that are no processes, and do what their script says.

    command: ["exit", "3"]   ends at once with code 3            ["print", "text"]   says it in its log, runs on
    command: ["run"]         runs until a signal                 ["deaf"]            runs until SIGKILL
    command: ["broken", "why"]  cannot be started               ["tree"]            runs, with two children

World and runtime are apart, as host and node are: a new runtime on the same `ScriptedHost` finds what runs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal as signals
from pathlib import Path

from paddock.model.agent import Exit
from paddock.model.errors import TemplateBroken
from paddock.model.fleet import FleetSpec, Method
from paddock.model.policy import Action
from paddock.ports.runtime import Handle, Launch, Live


class ScriptedProcess:
    """One agent that is not there. `children` die with its group."""

    def __init__(self, handle: Handle, launch: Launch) -> None:
        self.handle = handle
        self.launch = launch
        self.script = launch.spec.command or ["run"]
        self.children = 2 if self.script[0] == "tree" else 0
        self.exit: Exit | None = None
        self.signals: list[int] = []
        self.blocked = False
        self._ended = asyncio.Event()

    async def wait(self) -> Exit:
        await self._ended.wait()
        return self.exit or Exit()

    def stop(self, number: int) -> None:
        if self.exit is not None:
            return
        self.signals.append(number)
        if number == signals.SIGKILL or self.script[0] != "deaf":
            self.end(Exit(signal=number))

    def kill(self) -> None:
        self.children = 0
        self.stop(signals.SIGKILL)

    def end(self, exit: Exit) -> None:
        """It ends like this."""
        if self.exit is None:
            self.exit, self.children = exit, 0
            self._ended.set()


class ScriptedHost:
    """The processes of a host, which outlive every runtime."""

    def __init__(self) -> None:
        self.processes: dict[int, ScriptedProcess] = {}
        self.ticks = itertools.count(1000)
        self.boot = "the only one"
        self.pids = itertools.count(100_000)

    def living(self, agent: str = "") -> list[ScriptedProcess]:
        return [
            process
            for process in self.processes.values()
            if process.exit is None and (not agent or process.launch.agent == agent)
        ]


class ScriptedRuntime:
    """See `paddock.ports.runtime.Runtime`. `fail_starts` refuses that many starts with `error`."""

    actions = (Action.RESTART, Action.RESTART_CLEAN, Action.REDEPLOY)

    def __init__(self, host: ScriptedHost | None = None, *, name: str = "exec") -> None:
        self.host = host or ScriptedHost()
        self.name = name
        self.fail_starts = 0
        self.error: Exception = TemplateBroken("scripted to fail")
        self.launches: list[Launch] = []
        self.start_delay_s = 0.0

    async def check(self, spec: FleetSpec) -> list[Method] | None:
        _check(spec)
        return spec.methods

    async def start(self, launch: Launch) -> Live:
        await asyncio.sleep(self.start_delay_s)
        if self.fail_starts:
            self.fail_starts -= 1
            raise self.error
        _check(launch.spec)
        self.launches.append(launch)
        handle = Handle(
            runtime=self.name,
            pid=next(self.host.pids),
            start_ticks=next(self.host.ticks),
            epoch=launch.epoch,
            boot=self.host.boot,
        )
        process = self.host.processes[handle.pid] = ScriptedProcess(handle, launch)
        word, *rest = process.script
        if word == "print":
            _write(launch.log_path, " ".join(rest) + "\n")
        if word == "exit":
            process.end(Exit(code=int(rest[0])))
        return process

    async def adopt(self, handle: Handle) -> Live | None:
        process = self.host.processes.get(handle.pid)
        if process is None or process.exit is not None:
            return None
        if (process.handle.start_ticks, process.handle.boot) != (handle.start_ticks, handle.boot):
            return None
        return process

    async def close(self) -> None:
        """Nothing is held."""


def _check(spec: FleetSpec) -> None:
    if spec.command and spec.command[0] == "broken":
        raise TemplateBroken(f"fleet {spec.name}: {' '.join(spec.command[1:]) or 'scripted to be broken'}")


def _write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
