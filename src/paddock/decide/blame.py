"""Whose fault a death is: the agent's, or that of a task that it held.

A task that was in hand at two deaths is to blame for both, also for the first: such a death does not count against
the agent, which comes back at once. So a few tasks that kill whoever touches them end in the dead letters (see
`attempt.py`), and no agent is quarantined for them. But when many tasks seem to be to blame it is the agents, which
die of whatever they do: then every death counts, the agents rest, and the queue is kept for when they are mended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from paddock.model.fleet import Restart

DEATHS_MIN = 2
TASKS_MAX = 20
"""More tasks to blame within the policy's window than this: it is the agents."""


class Death(msgspec.Struct, frozen=True):
    """One death of an agent: when, what it held, and whether it had been stable before."""

    at: float
    tasks: frozenset[str]
    was_stable: bool


def to_blame(policy: Restart, deaths: Iterable[Death], now: float) -> frozenset[str]:
    """The tasks that are to blame, by all deaths of a fleet."""
    held = Counter(task for death in deaths if now - death.at <= policy.window_s for task in death.tasks)
    found = frozenset(task for task, times in held.items() if times >= DEATHS_MIN)
    return found if len(found) <= TASKS_MAX else frozenset()


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
