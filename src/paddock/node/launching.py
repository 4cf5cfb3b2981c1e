"""From what is wanted to a `Launch`: the agent's folder, its credentials, its environment."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from paddock.fabric import subjects
from paddock.fabric.boot import boot_id
from paddock.model.errors import TemplateBroken, Unavailable
from paddock.model.fleet import FleetSpec
from paddock.ports.runtime import Handle, Launch, Runtime
from paddock.runtimes import process, starts

if TYPE_CHECKING:
    from paddock.node.host import Host
    from paddock.node.supervisor import Supervised


class Paths(msgspec.Struct, frozen=True):
    """Where an agent's files are."""

    folder: str
    log: str
    creds: str

    @classmethod
    def of(cls, node_folder: str, fleet: str, name: str) -> Paths:
        folder = os.path.join(node_folder, "agents", fleet, name)
        return cls(folder, os.path.join(folder, "agent.log"), os.path.join(folder, "agent.creds"))


def runtime(host: Host, spec: FleetSpec) -> Runtime:
    found = host.runtimes.get(spec.runtime)
    if found is None:
        raise TemplateBroken(f"fleet {spec.name}: this node has no runtime {spec.runtime!r}")
    return found


async def prepare(agent: Supervised) -> Launch:
    """Make what the next incarnation needs; `Unavailable` when the disk does not take it."""
    host, paths, user = agent.host, agent.paths, process.find_user(agent.running.user)
    try:
        if user is not None:
            _make_folder_of(user, paths)
        elif agent.first_start or not os.path.exists(paths.creds):
            # Minted once in the node's life: signing takes longer than a fork. A restart takes the same file.
            await asyncio.to_thread(_make_files, host, agent.spec, agent.name, paths)
            agent.first_start = False
    except OSError as error:
        raise Unavailable(f"the folder {paths.folder} cannot be made: {error.strerror}") from error
    row = agent.row
    env = {
        "PADDOCK_AGENT": agent.id,
        "PADDOCK_EPOCH": str(row.epoch),
        "PADDOCK_NATS_URL": host.config.nats_url,
        **port_env(row.ports),
    }
    if user is None:
        env |= {
            "PADDOCK_CREDS": paths.creds,
            "PADDOCK_INBOX": subjects.agent_inbox(host.config.id, agent.spec.name, agent.name, row.epoch),
            "PADDOCK_SOCKET": host.socket_path,
            "PADDOCK_SOCKET_TOKEN": host.tokens.token(agent.id, row.epoch),
        }
    return Launch(
        spec=agent.running,
        name=agent.name,
        epoch=row.epoch,
        folder=paths.folder,
        log_path=paths.log,
        ports=row.ports,
        env=env,
    )


def port_env(ports: dict[str, int]) -> dict[str, str]:
    """PORT is the port named `port`, or the first; each has PORT_<NAME> besides."""
    env = {f"PORT_{name.upper().replace('-', '_')}": str(port) for name, port in ports.items()}
    if ports:
        env["PORT"] = str(ports.get("port", next(iter(ports.values()))))
    return env


def handle(runtime: str, pid: int, epoch: int) -> Handle | None:
    """By which a process that lives can be adopted."""
    ticks = process.start_ticks(pid)
    if ticks is None:
        return None
    return Handle(runtime=runtime, pid=pid, start_ticks=ticks, epoch=epoch, boot=boot_id())


def signed(runtime: str, folder: str, epoch: int) -> Handle | None:
    """By what a forked child wrote down itself before it reported its start (its environment in /proc would be the
    fork server's); None when it did not, or has ended."""
    start = starts.read(folder)
    if start is None or start.epoch != epoch or not process.lives(start.pid, start.ticks, start.boot):
        return None
    return Handle(runtime=runtime, pid=start.pid, start_ticks=start.ticks, epoch=epoch, boot=start.boot)


def find(agent: str, epoch: int) -> int:
    """The pid of a process that was started as this incarnation, by its environment; 0: none. Reads all of /proc, so
    it is for the one case that nothing else can tell: a node that was killed between a start and its note of it."""
    return process.find_by_env({"PADDOCK_AGENT": agent, "PADDOCK_EPOCH": str(epoch)})


def stop_signal(spec: FleetSpec) -> int:
    """The spec's stop signal; SIGTERM when it is none (the template was refused then, but something runs)."""
    return signal.Signals.__members__.get(spec.stop_signal, signal.SIGTERM)


def _make_files(host: Host, spec: FleetSpec, name: str, paths: Paths) -> None:
    Path(paths.folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    text = host.config.mint(spec.name, name)
    temporary = paths.creds + ".new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    os.rename(temporary, paths.creds)


def _make_folder_of(user: pwd.struct_passwd, paths: Paths) -> None:
    """Of an agent that runs as another user. Above it is the data directory, which that user cannot enter: its folder
    is its cwd, and what it opens is under that. Credentials of a time before it had that user are taken away."""
    Path(paths.folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    Path(paths.creds).unlink(missing_ok=True)
    os.chown(paths.folder, user.pw_uid, user.pw_gid)
