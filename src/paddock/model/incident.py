"""Incidents: from the first sign to verified recovery, with evidence and every step. Kept in the bucket `incidents`.

open ──> acting ──> verifying ──recovered──> recovered
 │          ^            └──no better──> waiting (cool-down, budget) ──> acting … ──> escalated
 ├──one cause of many──> held (its `parent` acts, or a person)
 └──well by itself, or by its node's own restart──> recovered      (agent gone, by hand)──> closed
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from paddock.model.policy import Action, Cause


class IncidentState(StrEnum):
    OPEN = "open"
    ACTING = "acting"
    VERIFYING = "verifying"
    WAITING = "waiting"
    HELD = "held"
    RECOVERED = "recovered"
    ESCALATED = "escalated"
    CLOSED = "closed"

    @property
    def over(self) -> bool:
        return self in (IncidentState.RECOVERED, IncidentState.CLOSED)


class Severity(StrEnum):
    """Least first."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for the least; the texts themselves do not sort."""
        return _RANKS[self]


_RANKS = {severity: rank for rank, severity in enumerate(Severity)}


class Outcome(StrEnum):
    PENDING = "pending"
    RECOVERED = "recovered"
    NO_BETTER = "no-better"
    FAILED = "failed"
    """The action itself could not be done."""
    SKIPPED = "skipped"
    """It was not done: the runtime does not offer it, or there is nothing to do it with; `detail` says which."""
    UNKNOWN = "unknown"
    """It was done, and something came before it could be judged; `detail` says what."""


BY_HAND = "low-score: by hand"
"""Signature of an incident that a person opened by asking for an action; nothing need have been ill."""


class Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of evidence on the timeline."""

    at: float
    text: str
    source: str = ""
    """exit, log, probe, score, metric, change, node, person."""


class StepTaken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One action as an experiment: what it expected, by when, and what came of it."""

    number: int
    action: Action
    why: str
    by: str = "policy"
    """policy, node (its own quick restart), or who asked for it."""
    expects: str = ""
    """For people: `score at least 70 by 14:03:20`."""
    epoch: int = 0
    """Of the incarnation that it is meant for: a later one is not touched. So doing it twice is doing it once."""
    started_at: float = 0.0
    acted_at: float = 0.0
    due_at: float = 0.0
    ended_at: float = 0.0
    outcome: Outcome = Outcome.PENDING
    detail: str = ""
    score_before: int = -1
    score_after: int = -1
    peers_before: float = -1.0
    """Mean score of comparable agents that were left alone; -1: there were none."""
    peers_after: float = -1.0


class Incident(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: int
    """Its number, for people; it grows."""
    key: str
    """In the bucket: `agent.<fleet>.<name>.<epoch>.<ms>` of the first sign, `common.<hash>.<time>`,
    `infra.<part>.<time>`. At most one incident of a key is ever opened."""
    kind: str = "agent"
    """agent, common-cause or infrastructure."""
    about: str
    """`fleet/name`, a fleet, a node or a part (`fabric`, `record`, `disk`, …)."""
    fleet: str = ""
    node: str = ""
    release: str = ""
    """Version of the template that ran."""
    cause: Cause
    signature: str
    """Failures of one signature look alike: cause and the masked text of what was said last."""
    title: str
    severity: Severity = Severity.WARNING
    state: IncidentState = IncidentState.OPEN
    epoch: int = 0
    sign_at: float
    """When the first sign happened."""
    opened_at: float
    """When it was seen."""
    acted_at: float = 0.0
    recovered_at: float = 0.0
    closed_at: float = 0.0
    next_at: float = 0.0
    """waiting, verifying: when it is looked at again at the latest."""
    evidence: list[Fact] = []
    changes: list[Fact] = []
    """What changed lately: applies, scalings, releases, config, node restarts."""
    steps: list[StepTaken] = []
    members: list[str] = []
    """common-cause: the agents that it explains."""
    parent: str = ""
    """Key of the common cause that explains this one."""
    offer: dict[str, Any] = {}
    """common-cause: what a person may do now: {"action": "rollback", "fleet": …, "to": version, "command": …}."""
    asked_by: str = ""
    """Who asked for people (`escalate` by hand): then a person alone ends it, however well the agent is."""
    note: str = ""
    """Why it is in this state, in one sentence."""
