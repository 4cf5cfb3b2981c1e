"""Rungs of a recovery ladder, and the steps that are taken on them: how they begin, and how they end."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from paddock.decide.storm import YES, Answer
from paddock.model.agent import AgentState
from paddock.model.incident import Incident, Outcome, StepTaken
from paddock.model.kpi import StepTally
from paddock.model.policy import Action, Cause, Policy, Step

NEW_EPOCH = (Action.RESTART, Action.RESTART_CLEAN, Action.REBOOT, Action.REDEPLOY)
"""Actions that end in a new incarnation; until it is there, what is measured is the old one."""


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What is known now of the agent of an incident, and of what may be done."""

    epoch: int
    state: AgentState
    wanted: bool = True
    score: int = -1
    confirmed: bool = True
    """Whether that which was ill was measured since the last step."""
    refuted: bool = False
    """Whether what the step under way has started is ill as well (for both: `decide/signs.py`)."""
    peers: float = -1.0
    """Mean score of agents of its fleet that are left alone; -1: there are none."""
    offers: frozenset[Action] = frozenset()
    """What its runtime can do."""
    standby: bool = False
    """There is a fleet to activate."""
    budget: Answer = YES
    breaker: Answer = YES
    steps_before: int = 0
    """Steps by the policy for this agent in other incidents within `Policy.window_s`."""
    held: bool = False
    """By a common cause: its parent, or its node, which starts none of its release but a canary."""
    tallies: Sequence[StepTally] = ()


def rungs(policy: Policy, cause: Cause) -> list[Step]:
    return policy.causes.get(cause) or policy.ladder


def pending_step(incident: Incident) -> StepTaken | None:
    """The step that is under way."""
    return next((step for step in reversed(incident.steps) if step.outcome is Outcome.PENDING), None)


def old(step: StepTaken, world: World) -> bool:
    """Whether what runs is still that which the step is to replace."""
    return step.by != "node" and step.action in NEW_EPOCH and world.epoch <= step.epoch


def missing(policy: Policy, action: Action, world: World) -> str:
    """Why an action cannot be taken; empty: it can."""
    if action is Action.ACTIVATE_BACKUP:
        if not policy.standby:
            return "the policy names no standby"
        return "" if world.standby else f"the standby {policy.standby} is not there"
    return "" if action in world.offers else "its runtime does not offer it"


def rung_of(policy: Policy, incident: Incident, action: Action) -> Step:
    """The rung of an action; a plain one for an action that is on no rung."""
    found = (step for step in rungs(policy, incident.cause) if step.action is action)
    return next(found, None) or Step(action=action)


def begin(policy: Policy, incident: Incident, rung: Step, world: World, why: str, now: float) -> StepTaken:
    return StepTaken(
        number=1 + max((step.number for step in incident.steps), default=0),
        action=rung.action,
        why=why,
        expects=f"score at least {policy.scoring.recovered_at} within {rung.verify_s:g} s",
        epoch=world.epoch,
        started_at=now,
        due_at=now + rung.verify_s,
        score_before=world.score,
        peers_before=world.peers,
    )


def skip(incident: Incident, rung: Step, world: World, why: str, now: float, before: int) -> StepTaken:
    return StepTaken(
        number=1 + before + max((step.number for step in incident.steps), default=0),
        action=rung.action,
        why="next on its ladder",
        epoch=world.epoch,
        started_at=now,
        ended_at=now,
        outcome=Outcome.SKIPPED,
        detail=why,
    )


def end(step: StepTaken, outcome: Outcome, world: World, now: float, detail: str) -> StepTaken:
    return msgspec.structs.replace(
        step, outcome=outcome, ended_at=now, detail=detail, score_after=world.score, peers_after=world.peers
    )


def unjudged(incident: Incident, now: float, why: str) -> list[StepTaken]:
    """Its steps when it ends before the one that is under way can be judged."""
    ended = {"outcome": Outcome.UNKNOWN, "ended_at": now, "detail": why}
    return [
        msgspec.structs.replace(step, **ended) if step.outcome is Outcome.PENDING else step for step in incident.steps
    ]
