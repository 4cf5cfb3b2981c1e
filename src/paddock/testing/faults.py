"""The fault menu: what may go wrong between the parts, drawn from one seed."""

from __future__ import annotations

import random


class Faults:
    """Dice with a memory of what they did. Every chance is a probability between 0 and 1, of one message or call.

    `calm()` ends all faults (what is late by then still arrives late); `rage()` starts them again.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        lose: float = 0.0,
        double: float = 0.0,
        delay: float = 0.0,
        delay_s_max: float = 2.0,
        lost_ack: float = 0.0,
        conflict: float = 0.0,
        unavailable: float = 0.0,
        lost_delivery: float = 0.0,
        latency_s_max: float = 0.0,
    ) -> None:
        """`lose`, `double`, `delay`: core messages (wakes, notes and acks among them). `lost_ack`: stored, but the
        caller sees TimedOut. `conflict`, `unavailable`: a store is refused though nothing was stored; a false Conflict
        is drawn only for a store that names its `expect_seq`, where a rival's write can be the reason.
        `lost_delivery`: handed out from a lane, but it never arrives. `latency_s_max`: of every call, always."""
        self.dice = random.Random(seed)  # noqa: S311 - a seeded game, not a secret
        self.chances = {
            "lose": lose,
            "double": double,
            "delay": delay,
            "lost_ack": lost_ack,
            "conflict": conflict,
            "unavailable": unavailable,
            "lost_delivery": lost_delivery,
        }
        self.delay_s_max = delay_s_max
        self.latency_s_max = latency_s_max
        self.happened: dict[str, int] = {}
        """How often each fault was drawn."""
        self._raging = True

    def calm(self) -> None:
        self._raging = False

    def rage(self) -> None:
        self._raging = True

    def strikes(self, fault: str) -> bool:
        """Draw: does `fault` happen now? Counted when it does."""
        chance = self.chances[fault]
        if not self._raging or chance <= 0.0 or self.dice.random() >= chance:
            return False
        self.happened[fault] = self.happened.get(fault, 0) + 1
        return True

    def delay_s(self) -> float:
        """How late a delayed message comes."""
        return self.dice.uniform(0.0, self.delay_s_max)

    def latency_s(self) -> float:
        """How long one way to the broker takes."""
        return self.dice.uniform(0.0, self.latency_s_max) if self.latency_s_max else 0.0

    def copies(self) -> list[float]:
        """When the copies of one core message arrive, in seconds from now: usually once, at once."""
        if self.strikes("lose"):
            return []
        arrivals = [self.delay_s() if self.strikes("delay") else 0.0]
        if self.strikes("double"):
            arrivals.append(self.delay_s())
        return arrivals
