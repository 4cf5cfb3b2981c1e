"""Whose fault a death is: the agent's, or that of a task that it held.

A task that was in hand at two deaths is to blame for both, also for the first: such a death does not count against
the agent, which comes back at once. So a few tasks that kill whoever touches them end in the dead letters (see
`attempt.py`), and no agent is quarantined for them. But when very many deaths seem to be the fault of tasks it is the
agents, which die of whatever they do: then every death counts, the agents rest, and the queue is kept for when they
are mended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from paddock.model.fleet import Restart

DEATHS_MIN = 2
PARDONS_MAX = 60
"""More deaths of a fleet than this, within the policy's window, are not the fault of tasks: it is the agents. (Each
task to blame makes about three.)"""


class Death(msgspec.Struct, frozen=True):
    """One death of an agent: when, what it held, and whether it had been stable before."""

    at: float
    tasks: frozenset[str]
    was_stable: bool


def to_blame(policy: Restart, deaths: Iterable[Death], now: float) -> frozenset[str]:
    """The tasks that are to blame, by all deaths of a fleet."""
    recent = [death for death in deaths if now - death.at <= policy.window_s]
    held = Counter(task for death in recent for task in death.tasks)
    found = frozenset(task for task, times in held.items() if times >= DEATHS_MIN)
    return found if sum(not death.tasks.isdisjoint(found) for death in recent) <= PARDONS_MAX else frozenset()


def counting(deaths: Sequence[Death], blamed: frozenset[str]) -> tuple[list[float], int]:
    """Of one agent's deaths, oldest first: when those were that count against it, and how many of them came in a row
    since it was last stable."""
    own = [death for death in deaths if not death.tasks & blamed]
    streak = 0
    for death in reversed(own):
        streak += 1
        if death.was_stable:
            break
    return [death.at for death in own], streak
