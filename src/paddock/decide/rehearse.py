"""What a policy would do about an incident, told without doing it: `paddock policy test`.

The ladder is climbed in imagined time: each step takes its `verify_s`, and helps if the case says so.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from paddock.decide.ladder import Act, Close, Escalate, Recovered, Wait, acted, apply, next_step
from paddock.decide.rungs import World
from paddock.model.agent import AgentState
from paddock.model.incident import Incident
from paddock.model.policy import Action, Cause, Policy

STEPS_MAX = 100
OFFERS = frozenset({Action.RESTART, Action.RESTART_CLEAN, Action.REDEPLOY, Action.ACTIVATE_BACKUP, Action.ESCALATE})
"""What every runtime of this version offers."""


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An imagined incident of one agent."""

    fleet: str = ""
    """Whose policy; empty: the default one."""
    agent: str = "0"
    """Its name within the fleet."""
    cause: Cause = Cause.LOW_SCORE
    title: str = ""
    score: Annotated[int, msgspec.Meta(ge=0, le=100)] = 10
    """Of the agent, 0 to 100."""
    state: AgentState = AgentState.READY
    helps: list[Action] = []
    """Actions that mend it; empty: none does."""
    offers: list[Action] = []
    """What its runtime offers; empty: what every runtime does."""


class Imagined(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that would happen."""

    at_s: float
    """Seconds since the incident was opened."""
    text: str


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    lines: list[Imagined]
    outcome: str
    """recovered, escalated or closed."""


def rehearse(policy: Policy, case: Rehearsal) -> Rehearsed:
    """Climb the ladder of `policy` for this case, in its own order: nothing learned changes it, no budget delays it."""
    about = f"{case.fleet or 'fleet'}/{case.agent}"
    incident = Incident(
        id=1,
        key="rehearsal",
        about=about,
        fleet=case.fleet,
        cause=case.cause,
        signature=str(case.cause),
        title=case.title or f"{about}: {case.cause}",
        epoch=1,
        sign_at=1.0,
        opened_at=1.0,
        next_at=1.0,
    )
    policy = msgspec.structs.replace(policy, learn=False)
    offers = frozenset(case.offers) or OFFERS
    world = World(epoch=1, state=case.state, score=case.score, offers=offers, standby=bool(policy.standby))
    lines: list[Imagined] = []
    now = 1.0
    for _ in range(STEPS_MAX):
        decision = next_step(policy, incident, world, now, lambda: 0.5)
        incident = apply(incident, decision, now)
        lines += [_told(now, f"{step.action} is skipped: {step.detail}") for step in getattr(decision, "skipped", [])]
        if isinstance(decision, Act):
            lines.append(
                _told(now, f"{decision.step.action}, because {decision.why}; expected: {decision.step.expects}")
            )
            incident = acted(policy, incident, now, ok=True)
            world = _after(world, case, decision.step.action)
        elif isinstance(decision, Recovered | Escalate | Close):
            words = {Recovered: "recovered", Escalate: "escalated to people", Close: "closed"}[type(decision)]
            lines.append(_told(now, f"{words}: {decision.why}"))
            break
        elif isinstance(decision, Wait) and (not lines or lines[-1].text != decision.why):
            lines.append(_told(now, decision.why))  # waiting for the same thing still is no news
        now = max(incident.next_at, now + 0.1)
    return Rehearsed(policy=policy.name, lines=lines, outcome=str(incident.state))


def _after(world: World, case: Rehearsal, action: Action) -> World:
    """The imagined agent after an action."""
    if action in case.helps:
        return msgspec.structs.replace(world, epoch=world.epoch + 1, state=AgentState.READY, score=100)
    return msgspec.structs.replace(world, epoch=world.epoch + 1)


def _told(now: float, text: str) -> Imagined:
    return Imagined(at_s=now - 1.0, text=text)
