"""Faults of real processes → detected → verified recovery: kill -9, SIGSTOP, a leak, a closed port, garbage answers, a
full folder, a dependency that is down; mixed, over the bots of `examples/bot.py`.

Detected is the time of the first sign: of a death as its node notes it, of anything else when the server judges what a
probe found; when the incident was open (written, on disk) is told beside it. Recovered is when the server has ended the
incident: the agent is ready, its score is back, and what was ill was asked again and passed. All by the clock of this
machine; the fault's time is taken just before it, that of a leak when the memory is above what the probe allows.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
from _bench import HERE, milliseconds, note, p50_p99, percentiles, row, run, running

from paddock.testing.installation import Installation
from paddock.testing.wait import soon

FAULTS = int(os.environ.get("BENCH_FAULTS", "200"))
BOTS, LANES = 12, 3
"""So many faults are under way at the same time."""
EVERY_S = 2.0
SPACE_EVERY_S = 10.0
"""Of the probe that starts a process."""
TIMEOUT_S, FAILS = 1.0, 2
LEAK_BYTES_MAX = 150_000_000
LOOK_S = 0.25
LIMIT_S = 120.0
"""A fault that is not over within this time counts as lost."""
ALL_S = 1080.0
"""After so long no further fault is begun: what was measured until then is printed."""
TELL_EVERY = 10
PYTHON = os.path.realpath(sys.executable)
"""Itself: a `python3` of the path may be a script that takes longer to start than a bot."""
KINDS = ("kill -9", "SIGSTOP", "leak", "port closed", "garbage answers", "disk full", "dependency down")
ENDS = ("recovered", "escalated", "closed")
SWITCHES = {"leak": "leak", "port closed": "port", "garbage answers": "garbage", "disk full": "disk"}


def manifest(db_port: int) -> str:
    def http(name: str, port: str, phase: str = "liveness") -> dict[str, Any]:
        url, match = f"http://127.0.0.1:{port}/health", '"status": ?"ok"'
        more = {"every_s": EVERY_S, "timeout_s": TIMEOUT_S, "fails": FAILS}
        return {"name": name, "kind": "http", "url": url, "match": match, "phase": phase, **more}

    bot = {
        "command": [PYTHON, "bot.py", "{port}"],
        "cwd": str(HERE.parent / "examples"),
        "ports": ["port"],
        "policy": "bench",
        "stop_grace_s": 1,
        "restart": {"max": 100_000, "stable_s": 0},  # every kill is the first
    }
    check = [PYTHON, "bot.py", "check", "{port}"]
    probes = [
        {"name": "up", "kind": "tcp", "url": "127.0.0.1:{port}", "phase": "startup", "every_s": 1, "timeout_s": 1},
        http("answers", "{port}"),
        {"name": "space", "kind": "exec", "command": check, "every_s": SPACE_EVERY_S, "timeout_s": 5, "fails": 1},
        {
            "name": "memory",
            "kind": "metric",
            "metric": "memory_bytes",
            "above": LEAK_BYTES_MAX,
            "every_s": EVERY_S,
            "timeout_s": TIMEOUT_S,
            "fails": FAILS,
        },
    ]
    ladder = [{"action": name, "verify_s": "15s", "cooldown_s": "1s"} for name in ("restart", "restart-clean")]
    policy = {
        "ladder": [*ladder, "redeploy", "escalate"],
        "budget": {"per_min": 10_000, "share": 1.0},
        "storm": {"failures": 3, "share": 0.9},
        "attempts_max": 1000,
    }
    db = bot | {"command": [PYTHON, "bot.py", str(db_port)], "ports": [], "replicas": 1}
    front = bot | {"replicas": 2, "depends_on": ["db"]}
    return json.dumps(
        {
            "paddock": 1,
            "policies": {"bench": policy},
            "fleets": {
                "bot": bot | {"replicas": BOTS, "health": {"beat": False, "probes": probes}},
                "db": db | {"health": {"beat": False, "probes": [http("answers", str(db_port))]}},
                "front": front
                | {
                    "health": {
                        "beat": False,
                        "probes": [http("answers", "{port}"), http("database", str(db_port), "readiness")],
                    }
                },
            },
        }
    )


class Ward:
    """Breaks agents, and waits until each is well again."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._began = time.monotonic()
        self.begun = 0
        self.detected: dict[str, list[float]] = defaultdict(list)
        self.opened: dict[str, list[float]] = defaultdict(list)
        self.recovered: dict[str, list[float]] = defaultdict(list)
        self.ended: dict[str, Counter[str]] = defaultdict(Counter)
        """kind → how its faults ended: recovered, escalated, closed, lost."""
        self.steps: Counter[str] = Counter()

    async def lane(self, kinds: Iterator[str], agents: list[str]) -> None:
        """One fault after the other, on these agents in turn."""
        turn = itertools.cycle(agents)
        for kind in kinds:
            if time.monotonic() - self._began > ALL_S:
                return
            agent = next(turn)
            try:
                await self.well(agent)
                self.begun += 1
                how = await self.fault(kind, agent)
            except (AssertionError, httpx.HTTPError, OSError) as error:
                print(f"{kind} of {agent} is lost: {error}", flush=True)
                how = "lost"
            self.ended[kind][how] += 1
            self.tell()

    def tell(self) -> None:
        """Every now and then: how far it is."""
        total = sum(self.ended.values(), Counter())
        if total.total() % TELL_EVERY == 0:
            print(f"  {total.total()} of {FAULTS}: {told(total)}; {time.monotonic() - self._began:.0f} s", flush=True)

    async def fault(self, kind: str, agent: str) -> str:
        """How it ended."""
        began = await self.break_it(kind, agent)

        async def over() -> list[dict[str, Any]]:
            found = await self.incidents(agent, began)
            return found if found and all(one["state"] in ENDS for one in found) else []

        found = await soon(over, what=f"{kind} of {agent} is over", limit_s=LIMIT_S)
        if kind == "dependency down":
            await asyncio.gather(*(self.well(name) for name in ("front/0", "front/1")))
        last = max(found, key=lambda one: one["id"])
        self.steps[kind] += sum(step.get("outcome") != "skipped" for one in found for step in one.get("steps", []))
        self.detected[kind].append(min(one["sign_at"] for one in found) - began)
        self.opened[kind].append(min(one["opened_at"] for one in found) - began)
        if last["state"] == "recovered":
            self.recovered[kind].append(last["recovered_at"] - began)
        elif last["state"] == "escalated":
            await self._http.post(f"/api/v1/agents/{agent}/heal", json={"action": "redeploy"})
        return str(last["state"])

    async def break_it(self, kind: str, agent: str) -> float:
        """When the fault began."""
        status = (await self._http.get(f"/api/v1/agents/{agent}")).json()
        pid, began = status["pid"], time.time()
        if kind not in SWITCHES:
            os.kill(pid, signal.SIGKILL if kind == "kill -9" else signal.SIGSTOP)
            return began
        port = status["ports"]["port"]
        await self._http.post(f"http://127.0.0.1:{port}/fault/{SWITCHES[kind]}")
        if kind == "leak":
            process = psutil.Process(pid)

            async def above() -> bool:
                return int(process.memory_info().rss) > LEAK_BYTES_MAX

            await soon(above, what=f"the memory of {agent} is above its limit", limit_s=LIMIT_S)
            began = time.time()
        return began

    async def incidents(self, agent: str, since: float) -> list[dict[str, Any]]:
        await asyncio.sleep(LOOK_S)
        params: dict[str, str | float] = {"about": agent, "since": since - 0.001}
        items = (await self._http.get("/api/v1/incidents", params=params)).json()["items"]
        return [one | {"state": one.get("state", "open")} for one in items if one["about"] == agent]

    async def well(self, agent: str) -> None:
        """Until it is ready, its score is back, and no incident of it is open."""

        async def look() -> bool:
            await asyncio.sleep(LOOK_S)
            status = (await self._http.get(f"/api/v1/agents/{agent}")).json()
            still = (await self._http.get("/api/v1/incidents", params={"about": agent, "state": "open"})).json()
            return status["state"] == "ready" and status["health"] >= 70 and not still["items"]

        await soon(look, what=f"{agent} is well", limit_s=LIMIT_S)


async def measure(installation: Installation) -> None:
    with installation.http() as known:
        http = httpx.AsyncClient(base_url=known.base_url, headers=known.headers, timeout=30)
    async with http:
        ward = Ward(http)
        others = [kind for kind in KINDS if kind != "dependency down"]
        downs = FAULTS // len(KINDS)
        faults = iter(list(itertools.islice(itertools.cycle(others), FAULTS - downs)))  # all lanes take of one list
        lanes = [ward.lane(faults, [f"bot/{n}" for n in range(BOTS) if n % LANES == lane]) for lane in range(LANES)]
        try:
            await asyncio.gather(*lanes, ward.lane(iter(["dependency down"] * downs), ["db/0"]))
        finally:
            for kind in KINDS:
                tell_of(ward, kind)
            tell_ends(ward)


def told(ends: Counter[str]) -> str:
    return ", ".join(f"{count} {how}" for how, count in sorted(ends.items()))


def limits(kind: str) -> tuple[str, float, float]:
    """Which percentile must be detected within how many seconds, and within how many half of them must be recovered."""
    every_s = SPACE_EVERY_S if kind == "disk full" else EVERY_S
    if kind == "kill -9":
        return "p50", 0.005, 1.0
    if kind in ("SIGSTOP", "dependency down"):
        return "p99", 1.1 * (EVERY_S + FAILS * TIMEOUT_S), every_s + 2.0  # the limit of a hang, and a tenth of it
    return "p99", 2 * every_s, every_s + 2.0


def tell_of(ward: Ward, kind: str) -> None:
    seen, well = ward.detected[kind], ward.recovered[kind]
    if not seen or not well:
        row(f"{kind} → detected and recovered", "nothing was measured", met=False, target="all")
        return
    which, seen_max, well_max = limits(kind)
    value = p50_p99(seen)[which == "p99"]
    opened = ", ".join(milliseconds(one) for one in p50_p99(ward.opened[kind]))
    figure = f"{percentiles(seen)}; incident open {opened} ms"
    goal = f"{which} ≤ {seen_max * 1e3:g} ms"
    row(f"{kind} → detected", figure, value=p50_p99(seen)[0], target=goal, met=value <= seen_max)
    value = p50_p99(well)[0]
    figure = f"{percentiles(well)}; {ward.steps[kind] / len(seen):.1f} steps each; {told(ward.ended[kind])}"
    goal = f"p50 ≤ {well_max * 1e3:g} ms"
    row(f"{kind} → verified recovery", figure, value=value, target=goal, met=value <= well_max)


def tell_ends(ward: Ward) -> None:
    ends = sum(ward.ended.values(), Counter())
    good = ends["recovered"] + ends["escalated"]
    begun = f" ({ward.begun} were begun)" if ward.begun < FAULTS else ""
    figure = f"{good / FAULTS:.1%} of {FAULTS}{begun}: {told(ends)}"
    row("mixed faults that are recovered or escalated", figure, target="all", met=good == FAULTS)
    note(
        f"{LANES + 1} faults at a time over {BOTS} bots; probes every {EVERY_S:g} s, {FAILS} failures of at most "
        f"{TIMEOUT_S:g} s, that of the folder every {SPACE_EVERY_S:g} s and 1; the limit of a hang is the interval and "
        f"{FAILS} times the {TIMEOUT_S:g} s; storm control from 90 % of the fleet on, no budget: single healing is "
        "measured"
    )


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        db_port = free.getsockname()[1]
    with running(manifest(db_port)) as installation:
        for fleet, count in (("bot", BOTS), ("db", 1), ("front", 2)):
            installation.ready(fleet, count)
        asyncio.run(measure(installation))


if __name__ == "__main__":
    run(main)
