"""The machine and Paddock's own servers: what is wrong with a part, and what may be done about it, in order.

well ──bad in LOOKS looks in a row──> ill ──rung──> tried ──good in LOOKS looks──> well
                                       └── no rung left, or not permitted ──> people are told
"""

from __future__ import annotations

import msgspec

from paddock.model.incident import Incident, Outcome
from paddock.model.policy import Action

LOOKS = 2
"""In a row, before a part counts as ill, or as well again."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One part as it was seen."""

    part: str
    """cpu, memory, disk, files, clock, broker, record."""
    bad: bool
    text: str
    """`memory is 91 % used; 85 % are the limit`"""
    value: float = -1.0
    limit: float = 0.0


RUNGS: dict[str, tuple[Action, ...]] = {
    "cpu": (Action.SHED_LOAD,),
    "memory": (Action.DROP_CACHES, Action.SHED_LOAD),
    "disk": (Action.CLEAN_DATA,),
    "broker": (Action.RESTART_BROKER,),
}
"""part → what may be done about it, the mildest first. About the others people are told."""


class Streak(msgspec.Struct, frozen=True, kw_only=True):
    """How often in a row a part was seen bad, or good."""

    bad: int = 0
    good: int = 0

    @property
    def ill(self) -> bool:
        return self.bad >= LOOKS

    @property
    def well(self) -> bool:
        return self.good >= LOOKS


def seen(before: Streak, finding: Finding) -> Streak:
    """The streak after one more look."""
    return Streak(bad=before.bad + 1) if finding.bad else Streak(good=before.good + 1)


def next_action(part: str, incident: Incident) -> Action | None:
    """The next thing to do about an ill part; None: nothing is left, people are told."""
    tried = {step.action for step in incident.steps}
    return next((action for action in RUNGS.get(part, ()) if action not in tried), None)


def under_way(incident: Incident) -> bool:
    """Whether a step's outcome is not known yet."""
    return any(step.outcome is Outcome.PENDING for step in incident.steps)
