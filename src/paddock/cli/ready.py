"""Waiting until fleets are as wanted, with progress, and saying which agents are not."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from paddock.cli import show
from paddock.cli.client import Api
from paddock.model.agent import AS_TOLD

POLL_S = 0.25
SETTLED_S = 5.0
"""Agents that fail are tried again; a fleet that stands like this for so long is told as failed."""

PROBLEMS_MAX = 5
WHY_S = 2.0
WHY_AGENTS = 3
"""So many agents that wait for their next start are looked at, of each fleet."""
AGENTS_MAX = 1000
"""So many agents of a fleet that goes are counted."""

Report = Callable[[int, int], None]


def wait_fleets(
    api: Api, names: Collection[str], *, limit_s: float, stopped: Callable[[], bool] = lambda: False
) -> list[str]:
    """Wait until every agent of these fleets is ready, as it is wanted now, or has failed for good; returns a sentence
    for each problem."""
    if not names:
        return []
    end = time.monotonic() + limit_s
    settled_since: float | None = None
    why = _Why(api)
    with progress("agents ready") as report:
        while True:
            fleets = [fleet for fleet in _items(api.get("/api/v1/fleets")) if fleet["name"] in names]
            report(sum(map(_well, fleets)), sum(fleet["wanted"] for fleet in fleets))
            now = time.monotonic()
            told = {fleet["name"]: _as_told(api, fleet) for fleet in fleets}
            less = {name: len(agents) for name, agents in told.items()}
            if all(_open(fleet, as_told=less[fleet["name"]]) <= 0 and not fleet.get("outdated") for fleet in fleets):
                break
            if stopped():
                break
            if all(_open(fleet, "failed", as_told=less[fleet["name"]]) <= 0 and not _rolls(fleet) for fleet in fleets):
                settled_since = settled_since or now
                if now - settled_since > SETTLED_S:
                    break
            else:
                settled_since = None
            if now > end:
                return [
                    *problems(api, fleets),
                    *(
                        f"{fleet['name']}: {_well(fleet)} of {fleet['wanted']} ready after {limit_s:.0f} s: "
                        f"see 'paddock get agents --fleet {fleet['name']}'"
                        for fleet in fleets
                        if _open(fleet, as_told=less[fleet["name"]]) > 0 or _rolls(fleet)
                    ),
                ]
            why.look(fleets)
            time.sleep(POLL_S)
    for agent in sorted(agent for agents in told.values() for agent in agents):
        show.say(f"{agent} is degraded, {AS_TOLD}: 'paddock heal {agent}' ends that")
    return [] if stopped() else problems(api, fleets)


class _Why:
    """Says while people wait what those died of that are about to be tried again, each thing once."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._at = time.monotonic() + WHY_S
        self._told: set[tuple[str, str]] = set()

    def look(self, fleets: Collection[dict[str, Any]]) -> None:
        if time.monotonic() < self._at:
            return
        self._at = time.monotonic() + WHY_S
        for fleet in fleets:
            if not (fleet.get("states") or {}).get("pending"):
                continue
            for agent in self._api.pages("/api/v1/agents", limit=WHY_AGENTS, fleet=fleet["name"], state="pending"):
                reason = str(agent.get("reason") or "").partition("; again in ")[0]
                if agent.get("last_exit") and reason and (fleet["name"], reason) not in self._told:
                    self._told.add((fleet["name"], reason))
                    show.say(f"{agent['id']} is tried again: {reason}; see 'paddock logs {agent['id']}'")


def wait_gone(api: Api, fleet: str, *, limit_s: float) -> int:
    """Wait until no agent of a deleted fleet is left; returns how many are when the time is over."""
    end = time.monotonic() + limit_s
    before = 0
    with progress("agents ended") as report:
        while left := sum(1 for _ in api.pages("/api/v1/agents", limit=AGENTS_MAX, fleet=fleet)):
            before = max(before, left)
            report(before - left, before)
            if time.monotonic() > end:
                return left
            time.sleep(POLL_S)
    return 0


def _items(answer: Any) -> list[Any]:
    return list(answer["items"] if isinstance(answer, dict) else answer)


def _as_told(api: Api, fleet: dict[str, Any]) -> list[str]:
    """Agents that are degraded because somebody wanted it; asked for only when nothing but degraded ones is open."""
    degraded = (fleet.get("states") or {}).get("degraded", 0)
    if not degraded or _open(fleet, "degraded", "failed") > 0:
        return []
    found = api.pages("/api/v1/agents", limit=degraded, fleet=fleet["name"], state="degraded")
    return [agent["id"] for agent in found if AS_TOLD in (agent.get("reason") or "")]


def _open(fleet: dict[str, Any], *ends: str, as_told: int = 0) -> int:
    """How many agents are still on their way (or, when there are too many, on their way out)."""
    states = fleet.get("states") or {}
    over = sum(states.get(state, 0) for state in ("quarantined", "stopped", *ends))
    missing = int(fleet["wanted"]) - int(fleet["ready"])
    return abs(missing) - int(over) - as_told


def _well(fleet: dict[str, Any]) -> int:
    """How many agents are ready and of the version that is wanted, at least."""
    return max(0, min(int(fleet["ready"]), int(fleet["wanted"])) - int(fleet.get("outdated") or 0))


def _rolls(fleet: dict[str, Any]) -> bool:
    """Whether its new version is still on its way; agents that fail stop it."""
    states = fleet.get("states") or {}
    return bool(fleet.get("outdated")) and not any(states.get(state) for state in ("quarantined", "failed"))


def problems(api: Api, fleets: Collection[dict[str, Any]]) -> list[str]:
    """The agents of these fleets that have failed, each with its reason."""
    found: list[str] = []
    for fleet in fleets:
        states = fleet.get("states") or {}
        for state in ("quarantined", "failed"):
            if not states.get(state):
                continue
            agents = api.pages("/api/v1/agents", limit=PROBLEMS_MAX, fleet=fleet["name"], state=state)
            found.extend(f"{agent['id']} is {state}: {agent.get('reason') or 'no reason is known'}" for agent in agents)
            if (more := states[state] - PROBLEMS_MAX) > 0:
                found.append(f"{fleet['name']}: {more} more are {state}")
    return found


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """A bar on a terminal; elsewhere a line for each change. Both on stderr."""
    out = show.console(err=True)
    if not out.is_terminal:
        told: list[tuple[int, int]] = []

        def line(done: int, total: int) -> None:
            if told[-1:] != [(done, total)]:
                told[:] = [(done, total)]
                out.print(f"{done}/{total} {what}")

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeElapsedColumn())
    with show.picture(out), Progress(*columns, console=out, transient=False) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
