"""Which fleet gets a task that is addressed to a capability."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """A fleet as the choice sees it. A plain tuple of the same four does as well."""

    name: str
    capabilities: Collection[str]
    ready: int
    queued: int


def choose_fleet(capability: str, fleets: Sequence[tuple[str, Collection[str], int, int]]) -> str | None:
    """The fleet with the capability and the least queued per ready agent; None when no fleet has it.

    Fleets with nobody ready are taken only when no other is there. Equals: more ready agents first, then by name.
    """
    best: tuple[bool, float, int, str] | None = None
    for name, capabilities, ready, queued in fleets:
        if capability in capabilities:
            rank = (ready <= 0, queued / max(ready, 1), -ready, name)
            best = rank if best is None else min(best, rank)
    return best[3] if best else None
