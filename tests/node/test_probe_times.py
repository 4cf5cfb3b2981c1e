"""When probes are asked: how soon at first, how often, and that the time of an answer prolongs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from paddock.agent.owner import Owner
from paddock.model.fleet import FleetSpec, Health
from paddock.model.health import Probe, ProbeFact
from paddock.node import probes
from paddock.node.deadlines import Action, Deadlines
from paddock.node.journal import Row
from paddock.node.launching import Paths
from paddock.node.leftovers import Leftovers
from paddock.ports.clock import Clock
from paddock.ports.runtime import Usage
from paddock.testing.wait import soon

EVERY_S = 2.0
UP = Probe(name="up", kind="http", url="http://x/", every_s=EVERY_S, timeout_s=1.0, fails=2)
WARM = Probe(name="warm", kind="tcp", url="x:1", phase="startup")


@dataclass
class Time:
    """Stands still, but where a test moves it. Also the deadlines: what is due in how many seconds."""

    now_s: float = 100.0
    due: dict[Hashable, tuple[float, Action]] = field(default_factory=dict)

    def now(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s

    def set(self, key: Hashable, delay_s: float, action: Action) -> None:
        self.due[key] = max(0.0, delay_s), action

    def drop(self, key: Hashable) -> None:
        self.due.pop(key, None)


@dataclass
class One:
    """An agent that is ready."""

    running: FleetSpec
    restarts: int = 0
    id: str = "tool/0"
    ready_at: float | None = 100.0
    probes: dict[str, ProbeFact] = field(default_factory=dict)

    @property
    def row(self) -> Row:
        return Row(restarts=self.restarts)

    @property
    def paths(self) -> Paths:
        return Paths.of("/nowhere", "tool", "0")

    def usage(self) -> Usage | None:
        return None

    def said_probe(self, probe: Probe, fact: ProbeFact) -> None:
        self.probes[probe.name] = fact


def spec(*known: Probe, runtime: str = "exec") -> FleetSpec:
    return FleetSpec(name="tool", runtime=runtime, command=["x"], health=Health(probes=list(known)))


class World:
    """A prober whose questions take `takes_s` and find `problem`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dice: float) -> None:
        self.time, self.takes_s, self.problem = Time(), 0.0, ""
        self.errors: list[BaseException] = []
        self.owner = Owner(lambda name, error: self.errors.append(error))
        clock = cast(Clock, self.time)
        leftovers = Leftovers(self.owner, clock, subreaper=False)
        self.prober = probes.Prober(cast(Deadlines, self.time), self.owner, clock, lambda: dice, leftovers)
        self.agent = One(spec(UP))
        monkeypatch.setattr(probes, "ask", self._ask)

    async def _ask(self, probe: Probe, agent: Any, leftovers: Leftovers) -> str:
        self.time.now_s += self.takes_s
        return self.problem

    async def asked(self) -> float:
        """Let the question that is due be asked; returns in how many seconds it is asked again."""
        [(key, (_, action))] = self.time.due.items()
        self.time.drop(key)
        action(0.0)
        await soon(lambda: asyncio.sleep(0, bool(self.time.due or self.errors)), what="it is due again")
        assert self.errors == []
        [(delay_s, _)] = self.time.due.values()
        return delay_s


@pytest.mark.parametrize(("dice", "first", "second", "then"), [(0.0, 0.0, 0.2, 2.0), (1.0, 1.0, 2.0, 1.8)])
async def test_it_is_asked_every_interval_at_the_latest_and_by_lot(
    monkeypatch: pytest.MonkeyPatch, dice: float, first: float, second: float, then: float
) -> None:
    world = World(monkeypatch, dice)
    world.prober.watch(world.agent, [UP], first_s=probes.SOON_S_MAX)
    assert [delay_s for delay_s, _ in world.time.due.values()] == [first]
    assert [await world.asked() for _ in range(3)] == pytest.approx([second, then, then])


async def test_the_time_of_an_answer_prolongs_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 0.0)
    world.prober.watch(world.agent, [UP], first_s=0.0)
    await world.asked()
    world.takes_s = 0.5
    assert await world.asked() == pytest.approx(EVERY_S - 0.5)


async def test_what_hangs_has_failed_within_the_interval_and_its_time_outs(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 0.0)
    world.prober.watch(world.agent, [UP], first_s=0.0)
    await world.asked()
    waited_s, before_s = await world.asked(), world.time.now_s
    world.takes_s, world.problem = UP.timeout_s, "no answer"
    while world.agent.probes["up"].fails < UP.fails:
        world.time.now_s += waited_s
        waited_s = await world.asked()
    assert world.time.now_s - before_s == pytest.approx(EVERY_S + UP.fails * UP.timeout_s)


def test_who_takes_the_place_of_another_is_asked_at_once_when_it_can_be_known_to_listen() -> None:
    assert probes.first_s(One(spec(UP, WARM))) == probes.SOON_S_MAX, "the first of many, perhaps"
    assert probes.first_s(One(spec(UP, WARM), restarts=1)) == 0.0
    assert probes.first_s(One(spec(UP, runtime="python"), restarts=1)) == 0.0
    assert probes.first_s(One(spec(UP), restarts=1)) == probes.SOON_S_MAX, "that it runs is all that is known"
