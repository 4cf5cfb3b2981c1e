"""How often a task may be tried: judged before each run, and after each run that failed.

The fabric counts hand-outs: a death, a hang, a stop in the middle, a retry after an error and a hand-out that was
lost on its way are all one. A node knows deaths, but only its own, and not for ever. So what ends a task for errors
is its own limit, and what ends it for deaths is `DEATHS_MAX` of them, or `LAST_CHANCES` hand-outs more than its
errors explain. Its last ones are alone, with nothing else in hand: what was beside a task that kills, however often,
is not given up for it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from paddock.model.task import Task

DEATHS_MAX = 3
"""So many agents of a node died with a repeatable task in hand: it is given up. The last of them had nothing else."""
LAST_CHANCES = 3
"""So many hand-outs alone follow those that errors can explain. More than one, for one may be lost on its way."""

BACKOFF_S_MAX = 300.0


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Whether to run this hand-out, and whether with nothing else in hand (`alone`). With `give_up` set, store a `dead`
    result with that message instead."""

    attempts: int
    alone: bool = False
    give_up: str = ""


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """What follows a run that failed: put it back for `delay_s`, or end it as `failed` or `dead` for `reason`."""

    action: Literal["again", "failed", "dead"]
    delay_s: float = 0.0
    reason: str = ""


def before_run(task: Task, *, delivered: int, deaths: int, retries: int) -> Start:
    """Judge hand-out number `delivered` of this message before the code runs. `deaths`: of agents that had the task in
    hand, as far as this node knows, those of earlier messages included."""
    attempts = max(task.attempts_before + delivered, deaths + 1)  # the fabric may have forgotten
    before = attempts - 1
    times = "once" if before == 1 else f"{before} times"
    if attempts > 1 and not task.repeatable:
        return Start(
            attempts=attempts,
            give_up=f"it was handed out {times} already and no result came: its agent died, hung or was stopped while "
            "running it, and the task says that it may not run twice (repeatable: false)",
        )
    in_company = max(DEATHS_MAX - 1, _errors_max(task, retries))
    if deaths >= DEATHS_MAX or attempts > in_company + LAST_CHANCES:
        return Start(
            attempts=attempts, give_up=f"its agent died, hung or was stopped while running it, or it failed, {times}"
        )
    return Start(attempts=attempts, alone=deaths >= DEATHS_MAX - 1 or attempts > in_company)


def after_error(task: Task, *, attempts: int, retries: int, backoff_s: float, asked: bool, dice: float) -> Next:
    """Judge a run that raised or timed out. `asked`: the code raised Retry; `dice` in [0, 1) spreads the retries."""
    limit = _errors_max(task, retries)
    if asked and not task.max_attempts:
        limit = max(DEATHS_MAX, limit)
    if not task.repeatable:
        # The next agent could not tell this retry from a death, so a task that may not run twice is not retried.
        return (
            Next(action="failed", reason="the task says that it may not run twice")
            if not asked
            else _dead("its code asked for a retry, but the task says that it may not run twice (repeatable: false)")
        )
    if attempts < limit:
        return Next(action="again", delay_s=backoff(attempts, backoff_s=backoff_s, dice=dice))
    if limit > 1:
        return _dead(f"all {limit} attempts are used up")
    return Next(action="failed")


def backoff(attempts: int, *, backoff_s: float, dice: float) -> float:
    """Doubles with every attempt up to `BACKOFF_S_MAX`; between half and one and a half times that."""
    doubled = backoff_s * 2.0 ** min(attempts - 1, 30)
    return min(doubled, BACKOFF_S_MAX) * (0.5 + dice)


def _errors_max(task: Task, retries: int) -> int:
    return task.max_attempts or retries + 1


def _dead(reason: str) -> Next:
    return Next(action="dead", reason=reason)
