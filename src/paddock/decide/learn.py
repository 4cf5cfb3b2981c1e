"""In which order the steps of a ladder are tried, learned from what helped before.

Trying steps one after the other until one helps is cheapest in the order of chance / cost. The chances are not known,
so each is drawn from what is known of it (Thompson sampling): a Beta distribution over how often the step helped
against this signature. What is certain is then tried in its order, what is uncertain now and then, less and less.

The bounds are the policy's: no step is added, none is left out, none gets more attempts, and `escalate` stays last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from paddock.model.kpi import StepTally
from paddock.model.policy import Action, Cause, Step

HALF_LIFE_S = 14 * 86_400.0
"""What happened so long ago counts half."""

COSTS: Mapping[Action, float] = {
    Action.RESET_CONNECTION: 0.8,
    Action.RESTART: 1.0,
    Action.REDISTRIBUTE: 1.1,
    Action.DEGRADE: 1.1,
    Action.RESTART_CLEAN: 1.2,
    Action.REDEPLOY: 1.4,
    Action.ACTIVATE_BACKUP: 1.6,
    Action.REBOOT: 2.0,
}
"""What a step costs, in restarts: time, and what is lost by it."""

KIN_SHARE = 0.2
"""What helped against another signature of the same cause counts so much …"""
KIN_MAX = 3.0
"""… and no more than so many steps of this signature."""
TRIED_COUNTS = 3.0
"""A try in the same incident that did not help counts as so many: the fault is the same."""
EARLIER = 0.5
"""Before experience each step is thought a bit better than the one after it; with none at all the policy's order is
kept."""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one step."""

    signature: str
    cause: str
    action: str
    helped: bool
    at: float
    took_s: float = 0.0


def tally(steps: Iterable[Tried], now: float, *, half_life_s: float = HALF_LIFE_S) -> list[StepTally]:
    """Sum up, with old steps counting less."""
    sums: dict[tuple[str, str, str], list[float]] = {}
    for step in steps:
        weight = 0.5 ** (max(0.0, now - step.at) / half_life_s)
        held = sums.setdefault((step.signature, step.cause, step.action), [0.0, 0.0, 0.0])
        held[0 if step.helped else 1] += weight
        held[2] += weight * step.took_s if step.helped else 0.0
    return [
        StepTally(
            signature=signature,
            cause=cause,
            action=action,
            helped=helped,
            failed=failed,
            took_s=took_s / helped if helped else 0.0,
        )
        for (signature, cause, action), (helped, failed, took_s) in sums.items()
    ]


def order(
    steps: Sequence[Step],
    tallies: Iterable[StepTally],
    *,
    signature: str,
    cause: Cause,
    dice: Callable[[], float],
    tried: Sequence[Action] = (),
) -> list[Step]:
    """The steps of a ladder in the order to try them now. `tried` are the actions that did not help in this incident
    already, one entry a try; `dice` gives numbers from 0 to 1. What stands behind an `escalate` is never reached."""
    movable = until_escalation(steps)
    known = _known(tallies, signature, cause)
    if not any(sum(known[step.action]) for step in movable):
        return list(steps[: len(movable) + 1])  # nothing was learned: the policy's order
    drawn: list[tuple[float, int]] = []
    for place, step in enumerate(movable):
        helped, failed = known.get(step.action, (0.0, 0.0))
        failed += TRIED_COUNTS * tried.count(step.action)
        chance = beta(1.0 + EARLIER * (len(movable) - 1 - place) + helped, 1.0 + EARLIER * place + failed, dice)
        drawn.append((-chance / COSTS.get(step.action, 1.0), place))
    return [movable[place] for _, place in sorted(drawn)] + list(steps[len(movable) : len(movable) + 1])


def because(
    first: Action,
    usual: Action,
    tallies: Iterable[StepTally],
    signature: str,
    cause: Cause,
    tried: Sequence[Action] = (),
) -> str:
    """Why `order` put `first` before `usual`, which comes earlier on the ladder; for people."""
    known = _known(tallies, signature, cause)

    def hope(action: Action) -> float:
        helped, failed = known[action]
        failed += TRIED_COUNTS * tried.count(action)
        return (1.0 + helped) / (2.0 + helped + failed) / COSTS.get(action, 1.0)

    def before(action: Action) -> str:
        helped, failed = known[action]
        total = round(helped + failed)
        return f"{action} helped in {round(helped)} of {total} tries" if total else f"{action} is new to this"

    how = "as learned" if hope(first) > hope(usual) else "by lot, to learn more"
    return f"{first} before {usual}, {how}: {before(first)}, {before(usual)}"


def until_escalation(steps: Sequence[Step]) -> list[Step]:
    """The steps that do something."""
    ends = [place for place, step in enumerate(steps) if step.action is Action.ESCALATE]
    return list(steps[: ends[0]] if ends else steps)


def _known(tallies: Iterable[StepTally], signature: str, cause: Cause) -> dict[Action, tuple[float, float]]:
    """action → (helped, failed): of this signature, and a bit of others with the same cause."""
    own: dict[str, tuple[float, float]] = {}
    kin: dict[str, tuple[float, float]] = {}
    for one in tallies:
        if one.signature == signature:
            helped, failed = own.get(one.action, (0.0, 0.0))
            own[one.action] = (helped + one.helped, failed + one.failed)
        elif one.cause == cause:
            helped, failed = kin.get(one.action, (0.0, 0.0))
            kin[one.action] = (helped + one.helped, failed + one.failed)
    found = {}
    for action in Action:
        helped, failed = own.get(action, (0.0, 0.0))
        kin_helped, kin_failed = kin.get(action, (0.0, 0.0))
        total = kin_helped + kin_failed
        share = min(KIN_SHARE, KIN_MAX / total) if total > 0 else 0.0
        found[action] = (helped + share * kin_helped, failed + share * kin_failed)
    return found


def beta(helped: float, failed: float, dice: Callable[[], float]) -> float:
    """A draw from Beta(helped, failed), both at least 1."""
    one, other = gamma(helped, dice), gamma(failed, dice)
    return one / (one + other)


GAMMA_TRIES_MAX = 100
"""Each succeeds with a chance of more than 0.95; only dice that are none get here, and then get the mean."""


def gamma(shape: float, dice: Callable[[], float]) -> float:
    """A draw from Gamma(shape, 1), shape at least 1, by the method of Marsaglia and Tsang."""
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    for _ in range(GAMMA_TRIES_MAX):
        normal = math.sqrt(-2.0 * math.log(1.0 - _open(dice()))) * math.cos(2.0 * math.pi * dice())
        v = (1.0 + c * normal) ** 3
        if v > 0.0 and math.log(1.0 - _open(dice())) < 0.5 * normal * normal + d - d * v + d * math.log(v):
            return d * v
    return shape


def _open(number: float) -> float:
    """Below 1, so that its complement has a logarithm."""
    return min(max(number, 0.0), 1.0 - 1e-12)
