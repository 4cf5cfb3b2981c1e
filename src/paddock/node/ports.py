"""Loopback ports for agents: free ones, given out once, kept by an agent over its restarts."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from paddock.model.errors import TemplateBroken, Unavailable

HOST = "127.0.0.1"
TRIES_MAX = 100


class Ports:
    """Who has which port. What was given is remembered in the agents' journal rows."""

    def __init__(self) -> None:
        self._owner: dict[int, str] = {}
        self._of: dict[str, set[int]] = {}

    def give(self, agent: str, names: Sequence[str], before: Mapping[str, int]) -> dict[str, int]:
        """A port for each name, those of `before` again where they can still be had. `name=8080` asks for just that
        port; `Unavailable` when another agent has it."""
        self.take_back(agent)
        given: dict[str, int] = {}
        try:
            for text in names:
                name, _, fixed = text.partition("=")
                given[name] = self._fixed(agent, text, fixed) if fixed else self._free(agent, before.get(name, 0))
        except BaseException:
            self.take_back(agent)
            raise
        return given

    def remember(self, agent: str, ports: Mapping[str, int]) -> None:
        """It has these since before this node started."""
        for port in ports.values():
            self._take(agent, port)

    def take_back(self, agent: str) -> None:
        for port in self._of.pop(agent, ()):
            del self._owner[port]

    def _take(self, agent: str, port: int) -> bool:
        if self._owner.setdefault(port, agent) != agent:
            return False
        self._of.setdefault(agent, set()).add(port)
        return True

    def _fixed(self, agent: str, text: str, fixed: str) -> int:
        if not fixed.isdecimal() or not 0 < int(fixed) < 65536:
            raise TemplateBroken(f"{agent}: port {text!r} is not of the form name=8080")
        port = int(fixed)
        if not self._take(agent, port):
            raise Unavailable(f"{agent}: port {port} is taken by {self._owner[port]}")
        return port

    def _free(self, agent: str, before: int) -> int:
        """The one it had, unless something else listens there now; else any that is free."""
        if before and _bound(before) and self._take(agent, before):
            return before
        for _ in range(TRIES_MAX):
            port = _bound(0)
            if port and self._take(agent, port):
                return port
        raise Unavailable(f"{agent}: no free port was found in {TRIES_MAX} tries")


def _bound(port: int) -> int:
    """The port if it can be had now (0: any), else 0. Connections that are still closing do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return 0
        found: int = probe.getsockname()[1]
        return found
