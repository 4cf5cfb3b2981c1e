"""The runtime `exec`: any command is an agent."""

from __future__ import annotations

import os
import re
import shutil

from paddock.fabric.boot import boot_id
from paddock.model.errors import TemplateBroken
from paddock.model.fleet import FleetSpec, Method
from paddock.model.policy import Action
from paddock.ports.runtime import Handle, Launch, Live
from paddock.runtimes import proc, process

_HOLE = re.compile(r"\{(port(?:\.[a-z0-9_-]+)?|agent|name)\}")


class ExecRuntime:
    """See `paddock.ports.runtime.Runtime`."""

    actions = (Action.RESTART, Action.RESTART_CLEAN, Action.REDEPLOY)

    def __init__(self) -> None:
        self._live: set[process.Process] = set()

    async def check(self, spec: FleetSpec) -> list[Method] | None:
        _check_place(spec)
        _find(spec)
        return spec.methods

    async def start(self, launch: Launch) -> Live:
        spec = launch.spec
        _check_place(spec)
        args = [_fill(arg, launch) for arg in spec.command]
        args[0] = _find(spec, args[0]) if args else _find(spec)
        pid = process.spawn(
            process.Command(
                args=args,
                env=process.launch_env(launch),
                cwd=spec.cwd or launch.folder,
                log_path=launch.log_path,
                user=spec.user,
            )
        )
        proc.offer_to_oom_killer(pid)
        process.limit_process(pid, open_files=spec.limits.open_files)
        ticks = process.first_ticks(pid)
        handle = Handle(runtime="exec", pid=pid, start_ticks=ticks, epoch=launch.epoch, boot=boot_id())
        return self._keep(process.Process(handle, os.pidfd_open(pid)))

    async def adopt(self, handle: Handle) -> Live | None:
        live = process.adopt(handle)
        return self._keep(live) if live is not None else None

    async def close(self) -> None:
        for live in list(self._live):
            live.let_go()
        self._live.clear()

    def _keep(self, live: process.Process) -> process.Process:
        self._live.add(live)
        live.on_end = lambda: self._live.discard(live)
        return live


def _check_place(spec: FleetSpec) -> None:
    """A command of another user than the node's gets neither credentials nor the node's socket: both are in the data
    directory, which is for the node's user alone. So it can serve and be probed, but take no tasks."""
    process.check_place(spec)
    if spec.methods and process.find_user(spec.user) is not None:
        raise TemplateBroken(
            f"fleet {spec.name}: user {spec.user!r}: it has methods, but only agents of the node's own user can reach "
            "the credentials that taking tasks needs; take out the user or the methods"
        )


def _fill(text: str, launch: Launch) -> str:
    """Replace `{port}`, `{port.name}`, `{agent}` and `{name}`; other braces stay as they are."""

    def value(match: re.Match[str]) -> str:
        hole = match[1]
        if hole == "agent":
            return launch.agent
        if hole == "name":
            return launch.name
        port = launch.ports.get(hole.removeprefix("port.") if "." in hole else "port")
        if port is None:
            raise TemplateBroken(
                f"fleet {launch.spec.name}: the command uses {match[0]}, a port that it does not ask for"
            )
        return str(port)

    return _HOLE.sub(value, text)


def _find(spec: FleetSpec, program: str = "") -> str:
    """The path of the program, or `TemplateBroken` with what is wrong."""
    if not spec.command:
        raise TemplateBroken(f"fleet {spec.name}: it has no command")
    program = program or spec.command[0]
    if _HOLE.search(program):
        return program
    where = os.path.join(spec.cwd or os.sep, program) if os.sep in program else program
    env = {**process.base_env(), **spec.env}
    found = shutil.which(where, path=env["PATH"])
    if found:
        return found
    if os.sep not in program:
        raise TemplateBroken(f"fleet {spec.name}: command {program!r} was not found in PATH")
    if not os.path.exists(where):
        raise TemplateBroken(f"fleet {spec.name}: command {program!r} does not exist")
    raise TemplateBroken(f"fleet {spec.name}: command {program!r} is not an executable file")
