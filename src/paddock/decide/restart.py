"""What follows the death of an agent: when it comes back, or why it does not.

    death ──mode says no──────────────> Rest
      ├──more than max in window_s────> Quarantine
      └──else: at once, then backing off─> Again

Intensity is counted as OTP's supervisor does: every death counts, also of an agent that had been stable; one more
than `max` within `window_s` is a crash loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from paddock.model.agent import Exit
from paddock.model.fleet import Restart

DOUBLINGS_MAX = 64


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """Start a new incarnation after this delay."""

    delay_s: float


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """A crash loop: rest until that time (infinite: until a person heals it)."""

    until: float
    reason: str


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """It ended, and its policy does not want it back."""

    reason: str


Next = Again | Quarantine | Rest


def after_death(
    policy: Restart,
    deaths: Sequence[float],
    now: float,
    *,
    was_stable: bool,
    exit: Exit,
    dice: float,
    streak: int = 0,
) -> Next:
    """Decide what follows. `deaths` are the times of all deaths that are remembered, this one included, on the clock
    of `now`; `streak` counts the deaths in a row since it was last stable, this one included (0: take the deaths in
    the window for it). `dice` is a number from 0 to 1."""
    if policy.mode == "never":
        return Rest(reason=f"{describe(exit)}; its restart mode is never")
    if policy.mode == "on-failure" and exit.clean:
        return Rest(reason="ended with exit code 0; its restart mode is on-failure")
    recent = recent_deaths(policy, deaths, now)
    if len(recent) > policy.max:
        until = now + policy.quarantine_s if policy.quarantine_s > 0 else math.inf
        reason = f"crash loop: {len(recent)} deaths in {policy.window_s:g} s, last: {describe(exit)}"
        return Quarantine(until=until, reason=reason)
    in_a_row = 1 if was_stable else max(1, streak or len(recent))
    return Again(delay_s=backoff_s(policy, in_a_row, dice))


def recent_deaths(policy: Restart, deaths: Sequence[float], now: float) -> list[float]:
    """The deaths that count to intensity; those older need not be remembered."""
    return [at for at in deaths if now - at <= policy.window_s]


def backoff_s(policy: Restart, in_a_row: int, dice: float) -> float:
    """Delay before the start that follows the n-th death in a row: none, then from `backoff_s_min`, doubling, with
    half of it by lot, so that what died together does not come back together."""
    if in_a_row <= 1:
        return 0.0
    full_s = policy.backoff_s_min * 2.0 ** min(in_a_row - 2, DOUBLINGS_MAX)
    low_s, high_s = policy.backoff_s_min, max(policy.backoff_s_min, policy.backoff_s_max)
    return min(high_s, max(low_s, min(high_s, full_s) * (0.5 + dice)))


def describe(exit: Exit) -> str:
    """How a process ended, in words."""
    if exit.oom:
        return "killed by the kernel: out of memory"
    if exit.oom is None:
        return "killed by SIGKILL, perhaps by the kernel, which was out of memory at that time"
    if exit.signal is not None:
        return f"killed by {signal_name(exit.signal)}"
    if exit.code is not None:
        return f"exit code {exit.code}"
    return "ended, exit status unknown"


def signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
