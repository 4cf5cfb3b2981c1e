"""Advice on what to change, from what was counted: too many or too few agents, limits too wide or too narrow, slower
than before. Only what stands out; each line says the figures that it goes by.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from paddock.decide.kpi import total
from paddock.model.kpi import FleetPoint

IDLE_SHARE = 0.1
"""An agent that works less than this share of its time is idle …"""
BUSY_SHARE = 0.8
"""… and more than this leaves no room for a rush."""
TASKS_MIN = 20
"""With fewer tasks nothing can be said."""
LIMIT_WIDE = 4.0
"""A memory limit of so many times what is used is more than a margin."""
LIMIT_NEAR = 0.85
SLOWER = 1.5
"""Times the mean response time of the days before."""


class FleetFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One fleet as it is now."""

    name: str
    agents: int
    queued: int = 0
    owners: bool = False
    """Its number follows from a list of owners."""
    memory_bytes_max: int = 0
    """The largest that any of its agents has now; 0 or less: not measured."""
    memory_limit_bytes: int = 0


def advise(fleet: FleetFacts, points: Sequence[FleetPoint]) -> list[str]:
    """What to change about a fleet. `points` are its own, of the last day or so."""
    sums = total(points)
    found: list[str] = []
    ended = sums.done + sums.failed + sums.dead
    if sums.ready_s > 0 and ended >= TASKS_MIN and not fleet.owners:
        share = min(1.0, sums.busy_s / sums.ready_s)
        if share < IDLE_SHARE and fleet.agents > 1 and not fleet.queued:
            fewer = max(1, round(fleet.agents * share / 0.5))
            if fewer < fleet.agents:
                found.append(
                    f"{fleet.name}: its {fleet.agents} agents worked {share:.1%} of the time; {fewer} would do "
                    f"(paddock scale {fleet.name} {fewer})"
                )
        elif share > BUSY_SHARE:
            more = max(fleet.agents + 1, round(fleet.agents * share / 0.6))
            found.append(
                f"{fleet.name}: its {fleet.agents} agents worked {share:.0%} of the time, {fleet.queued} tasks wait; "
                f"{more} would leave room (paddock scale {fleet.name} {more})"
            )
    limit, used = fleet.memory_limit_bytes, fleet.memory_bytes_max
    if limit <= 0 or used <= 0:
        return found
    if used > LIMIT_NEAR * limit:
        found.append(f"{fleet.name}: one agent has {used / 1e6:.0f} MB of its limit of {limit / 1e6:.0f} MB; raise it")
    elif used * LIMIT_WIDE < limit:
        found.append(
            f"{fleet.name}: the limit of {limit / 1e6:.0f} MB is {limit / used:.0f} times what its largest agent has "
            f"({used / 1e6:.0f} MB); a limit nearer to it finds leaks sooner"
        )
    return found


def slower(fleet: str, before: Sequence[FleetPoint], now: Sequence[FleetPoint]) -> list[str]:
    """What got slower or fails more than in the days before."""
    old, new = total(before), total(now)
    found: list[str] = []
    if min(old.done, new.done) < TASKS_MIN or old.mean_s is None or new.mean_s is None:
        return found
    if new.mean_s > SLOWER * old.mean_s:
        found.append(f"{fleet}: a task takes {new.mean_s:.3g} s, {new.mean_s / old.mean_s:.1f} times as long as before")
    if old.success is not None and new.success is not None and new.success < old.success - 0.02:
        found.append(f"{fleet}: {new.success:.1%} of its tasks are done; before it were {old.success:.1%}")
    return found
