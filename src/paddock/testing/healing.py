"""Worlds for healing, without processes: faults that only some actions mend, and agents that are noisy but well.

Both are driven by seeded dice, so what they show can be shown again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import msgspec

from paddock.decide import ladder
from paddock.decide.learn import Tried, tally
from paddock.decide.rungs import World
from paddock.decide.signature import signature
from paddock.model.agent import AgentState, AgentStatus
from paddock.model.health import ProbeFact, Vitals
from paddock.model.incident import Incident, IncidentState, Outcome, StepTaken
from paddock.model.policy import Action, Cause, Policy, Step

# --- faults with a hidden nature


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of fault: how it looks, and the chance of each action to mend it. What is not named does not."""

    name: str
    cause: Cause
    says: str
    mends: Mapping[Action, float]
    weight: float = 1.0
    """How often it happens, against the others."""


FAULTS = [
    Fault(
        name="a passing hang",
        cause=Cause.HANG,
        says="no beat for 10.0 s: hung",
        mends={Action.RESTART: 0.95, Action.RESTART_CLEAN: 0.95, Action.REDEPLOY: 0.95},
        weight=2,
    ),
    Fault(
        name="a broken cache on its disk",
        cause=Cause.CRASH_LOOP,
        says="ValueError: cache is corrupt at offset 312",
        mends={Action.RESTART: 0.03, Action.RESTART_CLEAN: 0.95, Action.REDEPLOY: 0.95},
        weight=2,
    ),
    Fault(
        name="a stale connection",
        cause=Cause.ENDPOINT_DOWN,
        says="upstream timed out after 5 s",
        mends={Action.RESTART: 0.3, Action.RESTART_CLEAN: 0.3, Action.RESET_CONNECTION: 0.95, Action.REDEPLOY: 0.4},
        weight=2,
    ),
    Fault(
        name="a broken image",
        cause=Cause.CRASH_LOOP,
        says="ImportError: cannot import name 'core'",
        mends={Action.REDEPLOY: 0.9},
        weight=2,
    ),
    Fault(
        name="a port that another holds",
        cause=Cause.NOT_STARTED,
        says="OSError: [Errno 98] address already in use: 41233",
        mends={Action.RESTART: 0.1, Action.RESTART_CLEAN: 0.1, Action.REDEPLOY: 0.95},
    ),
    Fault(
        name="a leak",
        cause=Cause.RESOURCES,
        says="memory is at 101% of 200 MB",
        mends={Action.RESTART: 0.95, Action.RESTART_CLEAN: 0.95, Action.REDEPLOY: 0.95},
    ),
    Fault(name="something outside", cause=Cause.WRONG_ANSWERS, says="answer 7 is not 42", mends={}, weight=0.3),
]
"""A mixed load: for a third of it the first rung helps, for the rest a later one, for a little of it none."""

MIXED = Policy(
    ladder=[
        Step(action=Action.RESTART, attempts=2),
        Step(action=Action.RESTART_CLEAN),
        Step(action=Action.RESET_CONNECTION),
        Step(action=Action.REDEPLOY),
        Step(action=Action.ESCALATE),
    ],
)
"""The ladder that is climbed against the mixed load."""

OFFERED = frozenset({Action.RESTART, Action.RESTART_CLEAN, Action.RESET_CONNECTION, Action.REDEPLOY})
BETWEEN_S = 600.0
"""From one incident to the next."""


class Healed(msgspec.Struct, frozen=True, kw_only=True):
    """How one incident ended."""

    fault: str
    steps: list[StepTaken]
    state: IncidentState
    took_s: float


def heal_mixed(policy: Policy, count: int, *, seed: int, noise: float = 0.05) -> list[Healed]:
    """Let `count` incidents of the mixed load be healed, one after the other, each learning from those before it if the
    policy says so. `noise` is the share of steps whose outcome is the opposite of what the fault's nature says. Two
    runs with one seed meet the same faults, whatever their policies."""
    faults, outcomes, dice = (random.Random(seed + place) for place in range(3))  # noqa: S311 - dice of a simulation
    tried: list[Tried] = []
    healed: list[Healed] = []
    now = 1_000_000.0
    for number in range(count):
        fault = faults.choices(FAULTS, [one.weight for one in FAULTS])[0]
        text = signature(fault.cause, f"exit code {faults.randrange(1, 9)}", [fault.says])
        incident = Incident(
            id=number + 1,
            key=f"agent.mixed.{number}.1",
            about=f"mixed/{number}",
            fleet="mixed",
            cause=fault.cause,
            signature=text,
            title=fault.name,
            epoch=1,
            sign_at=now,
            opened_at=now,
        )
        incident = _heal(policy, incident, fault, (outcomes, dice), tried, noise)
        tried += [
            Tried(
                signature=text,
                cause=fault.cause,
                action=step.action,
                helped=step.outcome is Outcome.RECOVERED,
                at=step.ended_at,
            )
            for step in incident.steps
            if step.outcome in (Outcome.RECOVERED, Outcome.NO_BETTER)
        ]
        took_s = max(incident.recovered_at, max((step.ended_at for step in incident.steps), default=now)) - now
        healed.append(Healed(fault=fault.name, steps=incident.steps, state=incident.state, took_s=took_s))
        now += BETWEEN_S
    return healed


def _heal(
    policy: Policy,
    incident: Incident,
    fault: Fault,
    dice: tuple[random.Random, random.Random],
    tried: list[Tried],
    noise: float,
) -> Incident:
    outcomes, lots = dice
    now, well, epoch = incident.opened_at, False, incident.epoch
    tallies = tally(tried, now) if policy.learn else []
    while not incident.state.over and incident.state is not IncidentState.ESCALATED:
        world = World(
            epoch=epoch,
            state=AgentState.READY if well else AgentState.QUARANTINED,
            score=100 if well else 0,
            offers=OFFERED,
            tallies=tallies,
        )
        decision = ladder.next_step(policy, incident, world, now, lots.random)
        incident = ladder.apply(incident, decision, now)
        if isinstance(decision, ladder.Act):
            now += 1.0
            epoch += 1
            nature = outcomes.random() < fault.mends.get(decision.step.action, 0.0)
            well = nature != (outcomes.random() < noise and bool(fault.mends))
            incident = ladder.acted(policy, incident, now, ok=True)
            now += 1.0
        elif isinstance(decision, ladder.Wait | ladder.Verify):
            now = max(now, decision.until)
    return incident


# --- agents that are well


class WellAgent:
    """An agent that is well, and noisy: slow now and then, a probe or two that fail in a row, a garbage collector, a
    late beat, a task that fails. Nothing of it is a reason to heal."""

    def __init__(self, name: str, dice: random.Random, *, limit_bytes: int = 200_000_000) -> None:
        self.name, self._dice, self._limit = name, dice, limit_bytes
        self.status = AgentStatus(id=f"well/{name}", fleet="well", state=AgentState.READY, epoch=1, started_at=0.0)
        self._quick_s = dice.uniform(0.005, 0.2)
        self._floor = dice.uniform(0.2, 0.45)
        self._teeth = dice.uniform(0.1, 0.35)
        self._period_s = dice.uniform(60.0, 900.0)
        self._phase = dice.random()
        self._fails = 0
        self.tasks_done, self.tasks_failed, self.failed_in_a_row = 0, 0, 0

    def vitals(self, at: float) -> Vitals:
        """What its node measures of it at this time."""
        dice = self._dice
        self._fails = self._fails + 1 if dice.random() < 0.01 and self._fails < 2 else 0
        latency_s = min(4.5, self._quick_s * math.exp(dice.gauss(0.0, 0.8)))
        tooth = (at / self._period_s + self._phase) % 1.0
        memory = (self._floor + self._teeth * tooth + dice.gauss(0.0, 0.01)) * self._limit
        for _ in range(dice.randrange(0, 4)):
            failed = dice.random() < 0.03
            self.tasks_failed += failed
            self.tasks_done += not failed
            self.failed_in_a_row = self.failed_in_a_row + 1 if failed else 0
        return Vitals(
            id=self.status.id,
            epoch=1,
            at=at,
            probes={
                "http": ProbeFact(self._fails, 3, "liveness", latency_s, at, "timed out" if self._fails else ""),
                "ready": ProbeFact(int(dice.random() < 0.02), 3, "readiness", latency_s / 2, at),
            },
            linked=True,
            beat_age_share=min(0.9, abs(dice.gauss(0.1, 0.12))),
            memory_bytes=int(max(1.0, memory)),
            cpus=min(1.0, abs(dice.gauss(0.2, 0.3))),
            open_files=dice.randrange(20, 300),
            threads=12,
        )
