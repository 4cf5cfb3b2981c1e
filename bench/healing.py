"""Faults of real processes → seen → verified recovery: kill -9, SIGSTOP, a leak, a closed port, garbage answers, a full
folder, a dependency that is down; mixed, over the bots of `examples/bot.py`.

Seen is when the server opened the incident, recovered when it has ended it: the agent is ready, its score is back, and
every probe of it was asked again since. Both by the clock of this machine; the fault's time is taken just before it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import time
from collections import Counter, defaultdict
from typing import Any

import httpx
from _bench import HERE, note, p50_p99, percentiles, row, run, running

from paddock.testing.installation import Installation
from paddock.testing.wait import soon

FAULTS = int(os.environ.get("BENCH_FAULTS", "200"))
BOTS, LANES = 12, 6
"""So many faults are under way at the same time."""
EVERY_S = 2.0
SPACE_EVERY_S = 10.0
"""Of the probe that starts a process."""
LOOK_S = 0.25
LIMIT_S = 120.0
"""A fault that is not over within this time counts as lost."""
KINDS = ("kill -9", "SIGSTOP", "leak", "port closed", "garbage answers", "disk full", "dependency down")
SWITCHES = {"leak": "leak", "port closed": "port", "garbage answers": "garbage", "disk full": "disk"}


def manifest(db_port: int) -> str:
    def http(name: str, port: str, phase: str = "liveness") -> dict[str, Any]:
        url, match = f"http://127.0.0.1:{port}/health", '"status": ?"ok"'
        more = {"every_s": EVERY_S, "timeout_s": 1, "fails": 2}
        return {"name": name, "kind": "http", "url": url, "match": match, "phase": phase, **more}

    bot = {
        "command": ["python3", "bot.py", "{port}"],
        "cwd": str(HERE.parent / "examples"),
        "ports": ["port"],
        "policy": "bench",
        "stop_grace_s": 1,
        "restart": {"max": 100_000, "stable_s": 0},  # every kill is the first
    }
    check = ["python3", "bot.py", "check", "{port}"]
    probes = [
        {"name": "up", "kind": "tcp", "url": "127.0.0.1:{port}", "phase": "startup", "every_s": 1, "timeout_s": 1},
        http("answers", "{port}"),
        {"name": "space", "kind": "exec", "command": check, "every_s": SPACE_EVERY_S, "timeout_s": 5, "fails": 1},
        {
            "name": "memory",
            "kind": "metric",
            "metric": "memory_bytes",
            "above": "150MB",
            "every_s": EVERY_S,
            "timeout_s": 1,
            "fails": 2,
        },
    ]
    ladder = [{"action": name, "verify_s": "15s", "cooldown_s": "1s"} for name in ("restart", "restart-clean")]
    policy = {
        "ladder": [*ladder, "redeploy", "escalate"],
        "budget": {"per_min": 10_000, "share": 1.0},
        "storm": {"failures": 3, "share": 0.9},
        "attempts_max": 1000,
    }
    db = bot | {"command": ["python3", "bot.py", str(db_port)], "ports": [], "replicas": 1}
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

    def __init__(self, installation: Installation, http: httpx.AsyncClient) -> None:
        self._installation, self._http = installation, http
        self.detected: dict[str, list[float]] = defaultdict(list)
        self.recovered: dict[str, list[float]] = defaultdict(list)
        self.ended: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()

    async def lane(self, kinds: Any, agents: list[str]) -> None:
        """One fault after the other, on these agents in turn."""
        turn = itertools.cycle(agents)
        for kind in kinds:
            await self.fault(kind, "db/0" if kind == "dependency down" else next(turn))

    async def fault(self, kind: str, agent: str) -> None:
        status = await self.well(agent)
        began = time.time()
        if kind in ("kill -9", "SIGSTOP", "dependency down"):
            os.kill(status["pid"], signal.SIGKILL if kind == "kill -9" else signal.SIGSTOP)
        else:
            port = status["ports"]["port"]
            await self._http.post(f"http://127.0.0.1:{port}/fault/{SWITCHES[kind]}")

        async def over() -> list[dict[str, Any]]:
            found = await self.incidents(agent, began)
            return found if found and all(one["state"] in ("recovered", "escalated", "closed") for one in found) else []

        try:
            found = await soon(over, what=f"{kind} of {agent} is over", limit_s=LIMIT_S)
            if kind == "dependency down":
                await asyncio.gather(*(self.well(name) for name in ("front/0", "front/1")))
        except AssertionError as error:
            print(error, flush=True)
            self.ended["lost"] += 1
            return
        last = max(found, key=lambda one: one["id"])
        self.ended[last["state"]] += 1
        self.steps[kind] += sum(step.get("outcome") != "skipped" for one in found for step in one.get("steps", []))
        self.detected[kind].append(min(one["opened_at"] for one in found) - began)
        if last["state"] == "recovered":
            self.recovered[kind].append(last["recovered_at"] - began)

    async def incidents(self, agent: str, since: float) -> list[dict[str, Any]]:
        await asyncio.sleep(LOOK_S)
        params = {"about": agent, "since": since - 0.001}
        items = (await self._http.get("/api/v1/incidents", params=params)).json()["items"]
        return [one | {"state": one.get("state", "open")} for one in items if one["about"] == agent]

    async def well(self, agent: str) -> dict[str, Any]:
        """Its status, once it is ready, its score is full, and no incident of it is open."""

        async def look() -> dict[str, Any]:
            await asyncio.sleep(LOOK_S)
            status = (await self._http.get(f"/api/v1/agents/{agent}")).json()
            still = (await self._http.get("/api/v1/incidents", params={"about": agent, "state": "open"})).json()
            return status if status["state"] == "ready" and status["health"] >= 70 and not still["items"] else {}

        return await soon(look, what=f"{agent} is well", limit_s=LIMIT_S)


async def measure(installation: Installation) -> Ward:
    with installation.http() as known:
        http = httpx.AsyncClient(base_url=known.base_url, headers=known.headers, timeout=30)
    async with http:
        ward = Ward(installation, http)
        others = [kind for kind in KINDS if kind != "dependency down"]
        downs = FAULTS // len(KINDS)
        faults = iter(list(itertools.islice(itertools.cycle(others), FAULTS - downs)))  # all lanes take of one list
        lanes = [ward.lane(faults, [f"bot/{n}" for n in range(BOTS) if n % LANES == lane]) for lane in range(LANES)]
        await asyncio.gather(*lanes, ward.lane(["dependency down"] * downs, []))
        return ward


def tell(ward: Ward) -> None:
    for kind in KINDS:
        seen, well = ward.detected[kind], ward.recovered[kind]
        if not seen or not well:
            row(f"{kind} → seen", "nothing was measured", met=False, target="all")
            continue
        every_s = SPACE_EVERY_S if kind == "disk full" else EVERY_S
        crash = kind == "kill -9"
        seen_max, well_max = (0.005, 1.0) if crash else (2 * every_s, every_s + 2.0)
        p50, p99 = p50_p99(seen)
        met = p50 <= seen_max if crash else p99 <= seen_max
        which = "p50" if crash else "p99"
        row(f"{kind} → seen", percentiles(seen), value=p50, target=f"{which} ≤ {seen_max * 1e3:g} ms", met=met)
        p50, _ = p50_p99(well)
        steps = f"; {ward.steps[kind] / len(seen):.1f} steps each"
        goal = f"p50 ≤ {well_max * 1e3:g} ms"
        row(f"{kind} → verified recovery", percentiles(well) + steps, value=p50, target=goal, met=p50 <= well_max)
    told = ", ".join(f"{count} {what}" for what, count in sorted(ward.ended.items()))
    good = ward.ended["recovered"] + ward.ended["escalated"]
    row(
        "mixed faults that ended as the policy says",
        f"{good} of {FAULTS} ({told})",
        target="all",
        met=good == FAULTS,
    )


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        db_port = free.getsockname()[1]
    with running(manifest(db_port)) as installation:
        for fleet, count in (("bot", BOTS), ("db", 1), ("front", 2)):
            installation.ready(fleet, count)
        tell(asyncio.run(measure(installation)))
    note(
        f"{LANES + 1} faults at a time over {BOTS} bots; probes every {EVERY_S:g} s, that of the folder every "
        f"{SPACE_EVERY_S:g} s; storm control from 90 % of the fleet on, no budget: single healing is measured"
    )


if __name__ == "__main__":
    run(main)
