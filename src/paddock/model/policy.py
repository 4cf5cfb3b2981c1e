"""Policies: how the health of a fleet is judged, how it is healed, how much of that is allowed, what is promised."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Action(StrEnum):
    """Recovery actions, from the mildest to the last. Runtimes offer what they can; the ladder skips the rest."""

    RESTART = "restart"
    """Stop gracefully, start the next incarnation."""
    RESTART_CLEAN = "restart-clean"
    """The same, with an empty folder; what was in it is kept beside it."""
    RESET_CONNECTION = "reset-connection"
    """Its connection to the fabric is closed and made anew; the process goes on."""
    REBOOT = "reboot"
    """The machine or container that it lives in."""
    REDEPLOY = "redeploy"
    """As if it had never been: new folder, new ports, a new image of its template. `recreate` means the same."""
    ACTIVATE_BACKUP = "activate-backup"
    """The fleet that the policy names as `standby` is scaled up."""
    REDISTRIBUTE = "redistribute"
    """It takes no more work and gives back what it holds; its process goes on."""
    DEGRADE = "degrade"
    """It is told to do less (`Agent.degraded`)."""
    ESCALATE = "escalate"
    """People are told; nothing more is done without them."""
    RESTART_BROKER = "restart-broker"
    """Of the machine, not of an agent; on no policy's ladder. Likewise below."""
    DROP_CACHES = "drop-caches"
    CLEAN_DATA = "clean-data"
    """What Paddock keeps beyond its rules is removed: rotated logs, old rows."""
    SHED_LOAD = "shed-load"
    """Tasks of the lowest priority are refused until the machine is well again."""


SYNONYMS = {"recreate": Action.REDEPLOY}
OFFERED_NOWHERE = frozenset({Action.REBOOT})
"""What no runtime of this version can do to an agent."""
OF_THE_MACHINE = frozenset({Action.RESTART_BROKER, Action.DROP_CACHES, Action.CLEAN_DATA, Action.SHED_LOAD})


class Cause(StrEnum):
    """Kinds of causes; a policy may have a ladder for each."""

    CRASH = "crash"
    CRASH_LOOP = "crash-loop"
    OOM = "oom"
    HANG = "hang"
    NOT_STARTED = "not-started"
    ENDPOINT_DOWN = "endpoint-down"
    WRONG_ANSWERS = "wrong-answers"
    SLOW = "slow"
    RESOURCES = "resources"
    """Memory, processor or files near their limit."""
    CONNECTION = "connection"
    """It does not speak to its node or the fabric."""
    DEPENDENCY = "dependency"
    """A fleet that it depends on is down."""
    FORECAST = "forecast"
    """Well now; a trend says that it will not be."""
    LOW_SCORE = "low-score"
    """Nothing of the above stands out."""


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Points of each component; they add up to 100."""

    endpoint: float = 30.0
    mesh: float = 20.0
    response: float = 20.0
    failures: float = 15.0
    resources: float = 10.0
    competence: float = 5.0


class Scoring(msgspec.Struct, frozen=True, kw_only=True):
    weights: Weights = Weights()
    slow_s: float = 1.0
    """Answers up to this are quick; the component falls from here to 0 at `slow_s_max`."""
    slow_s_max: float = 5.0
    memory_bytes_max: int = 0
    """Above this memory counts as full; 0: the fleet's own limit, and without one memory is not judged."""
    alert_below: int = 50
    heal_below: int = 20
    heal_fails: int = 3
    """Healed when the score was below `heal_below` in so many evaluations in a row, or a liveness probe has failed."""
    recovered_at: int = 70
    """An incident ends once the score is at least this again."""
    steady: int = 2
    """A band is left only after so many evaluations in a row outside of it (hysteresis)."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of a ladder."""

    action: Action
    attempts: int = 1
    verify_s: float = 30.0
    """By then the score must be at least `Scoring.recovered_at`, or the step did not help."""
    cooldown_s: float = 5.0
    """Rest after a step that did not help."""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """How much healing is allowed at once; what is over it waits."""

    per_min: int = 30
    """Healing actions of the fleet per minute."""
    share: float = 0.25
    """Of the fleet's agents that may be under healing at the same time; at least one."""


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """When failures are taken to have one cause."""

    failures: int = 3
    """So many agents with the same signature, release, node or dependency …"""
    window_s: float = 120.0
    """… within this time."""
    share: float = 0.05
    """… and at least this share of those that could have been hit."""


class Forecasting(msgspec.Struct, frozen=True, kw_only=True):
    horizon_s: float = 1800.0
    """A threshold crossed later than this is not told."""
    recycle: bool = False
    """Replace the agent gracefully before it gets there."""


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """A service level: `share` of `measure` over `window_s`."""

    name: str
    measure: str
    """availability (time ready), success (tasks done of ended), or latency (tasks that took at most `within_s`)."""
    share: float
    """0.999 for 99.9 %."""
    within_s: float = 0.0
    window_s: float = 30 * 86_400.0


DEFAULT_LADDER = [
    Step(action=Action.RESTART, attempts=2),
    Step(action=Action.RESTART_CLEAN),
    Step(action=Action.REDEPLOY),
    Step(action=Action.ESCALATE),
]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    name: str = "default"
    heal: bool = True
    """False: judge and tell, never act."""
    scoring: Scoring = Scoring()
    ladder: list[Step] = msgspec.field(default_factory=lambda: list(DEFAULT_LADDER))
    causes: dict[Cause, list[Step]] = {}
    """Ladders for single causes, instead of `ladder`."""
    attempts_max: int = 5
    """Steps taken for one agent within `window_s`; then it is escalated."""
    window_s: float = 1800.0
    learn: bool = True
    """Steps of a ladder may change places by what helped before; `escalate` stays last, and nothing is added."""
    budget: Budget = Budget()
    storm: Storm = Storm()
    forecast: Forecasting = Forecasting()
    objectives: list[Objective] = []
    standby: str = ""
    """The fleet for `activate-backup`."""
