"""What the parts of one node share: its settings, its ports to the world, and its own helpers. Made by `service.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from paddock.agent.owner import Owner
from paddock.node.deadlines import Deadlines
from paddock.node.journal import Journal
from paddock.node.leftovers import Leftovers
from paddock.node.ports import Ports
from paddock.node.publisher import Publisher
from paddock.node.socket import Tokens
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric
from paddock.ports.runtime import Runtime

if TYPE_CHECKING:
    from paddock.decide.blame import Death
    from paddock.model.fleet import FleetSpec
    from paddock.node.limits import Limiter
    from paddock.node.probes import Prober
    from paddock.node.running import Incarnation
    from paddock.node.storms import Storms
    from paddock.node.supervisor import Supervised
    from paddock.node.vitals import VitalsTeller

Mint = Callable[[str, str], str]


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one node."""

    id: str
    folder: str
    nats_url: str
    mint: Mint
    """(fleet, name) → the text of a credentials file for that agent."""
    starts_max: int = 16
    """Starts in flight."""
    hello_s: float = 3.0
    """How long an agent whose start was under way when the node died may take to say hello."""
    alive_s: float = 1.0
    """A command of which nothing tells when it is ready is, once it has run for so long (supervisord's `startsecs`)."""
    beat_s: float = 10.0
    """How often the node tells its own status."""
    subreaper: bool = False
    """Take in what agents leave behind; for the process of a node that starts nothing else."""


@dataclass(kw_only=True, slots=True)
class Host:
    config: NodeConfig
    clock: Clock
    fabric: Fabric
    runtimes: Mapping[str, Runtime]
    journal: Journal
    deadlines: Deadlines
    publisher: Publisher
    ports: Ports
    limiter: Limiter
    prober: Prober
    vitals: VitalsTeller
    storms: Storms
    tokens: Tokens
    socket_path: str
    owner: Owner
    leftovers: Leftovers
    starts: asyncio.Semaphore
    dice: Callable[[], float]
    asked: Callable[[Incarnation, str], None]
    """(who asks, task): tell it which other agent of its fleet has held this task for longer."""
    heard: Callable[[Incarnation], None]
    """An agent has said hello, and what it holds."""
    blamed: Callable[[FleetSpec, Death], frozenset[str]]
    """Notes a death in a fleet; the tasks that are to blame for deaths there."""
    changed: Callable[[Supervised], None]
    """An agent's state changed."""
    left: Callable[[Supervised], None]
    """An agent is wanted no more and has ended."""
