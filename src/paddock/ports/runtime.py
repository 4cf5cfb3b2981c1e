"""A runtime makes a template live on this host. `python`, `exec` and the scripted fake pass one contract suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from paddock.model.agent import Exit
from paddock.model.fleet import FleetSpec, Method
from paddock.model.policy import Action


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation to start."""

    spec: FleetSpec
    name: str
    epoch: int
    """The fencing token: grows with every incarnation of this agent, never reused."""
    folder: str
    """The agent's own folder (0700), its cwd unless the spec says another."""
    log_path: str
    """stdout and stderr are appended here."""
    ports: dict[str, int] = {}
    env: dict[str, str] = {}
    """PADDOCK_AGENT, _EPOCH, _SOCKET, _CREDS, … as `docs/protocol.md` has them;
    goes into the agent's environment. Holds paths of secrets, never secrets other than the socket token."""

    @property
    def agent(self) -> str:
        return f"{self.spec.name}/{self.name}"


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """By this a process is found again after everything else died; opaque to the node, which journals it."""

    runtime: str
    pid: int
    start_ticks: int
    """Field 22 of /proc/<pid>/stat: with the pid it names one process, until the host is started anew."""
    epoch: int
    boot: str = ""
    """Of which start of the host: with that it names one process for ever. Empty: not known."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a process uses at one time; -1: not known."""

    memory_bytes: int = -1
    cpu_s: float = -1.0
    """Processor time since its start."""
    cpus: float = -1.0
    """Processors in use lately; the node derives it from two looks."""
    open_files: int = -1
    threads: int = -1


class Live(Protocol):
    """A running incarnation."""

    @property
    def handle(self) -> Handle: ...

    @property
    def blocked(self) -> bool:
        """Whether it waits in the kernel, for a disk that does not answer: no signal reaches it there, not even
        SIGKILL, and its silence is not its fault."""
        ...

    async def wait(self) -> Exit:
        """Return when it has ended, with whatever the system still knows of how. Can be awaited many times."""
        ...

    def stop(self, number: int) -> None:
        """Send this signal to the agent, or SIGKILL if it is stopped (SIGSTOP) and so would never hear of it. No error
        when it has ended."""
        ...

    def kill(self) -> None:
        """SIGKILL to the agent and everything it started (its process group)."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A `Live` that can say what it uses."""

    def usage(self) -> Usage | None:
        """None when it has ended. Takes some microseconds, and never blocks."""
        ...


@runtime_checkable
class Renewing(Protocol):
    """A `Runtime` that starts agents from a prepared image, which may be what is ill."""

    def renew(self, spec: FleetSpec, epoch: int) -> None:
        """The image that this incarnation came from is used for no further start; agents that run live on."""
        ...


class Runtime(Protocol):
    @property
    def actions(self) -> Sequence[Action]:
        """The recovery actions that can be done with its agents, mildest first. The node does them; what a runtime
        does not name is refused."""
        ...

    async def check(self, spec: FleetSpec) -> list[Method] | None:
        """Find out whether the template can be made live, and its methods; `TemplateBroken` says what is wrong.
        Runs the user's code in a process of its own."""
        ...

    async def start(self, launch: Launch) -> Live:
        """Start one incarnation; `TemplateBroken` or `Unavailable` when it cannot."""
        ...

    async def adopt(self, handle: Handle) -> Live | None:
        """Find a running incarnation again; None when it has ended (pid gone or reused)."""
        ...

    async def close(self) -> None:
        """Let go of everything; stops no agent."""
        ...
