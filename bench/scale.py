"""0 → many live Python agents: how long, how much memory each, and what the keepers cost while all are idle."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import psutil
from _bench import manifest, row, running

from paddock.testing.wait import until

AGENTS = int(os.environ.get("BENCH_AGENTS", "1000"))
IDLE_S = 20.0


def main() -> None:
    with running(manifest("many", replicas=1)) as installation, installation.http() as http:
        before = time.perf_counter()
        http.post("/api/v1/fleets/many/scale", json={"replicas": AGENTS}).raise_for_status()
        until(
            lambda: http.get("/api/v1/fleets/many").json()["ready"] == AGENTS,
            what=f"{AGENTS} agents are ready",
            limit_s=600,
            every_s=0.1,
        )
        row(f"scale 0 → {AGENTS:,} live Python agents", f"{time.perf_counter() - before:.1f} s")
        pids, after = [], ""
        while True:
            page = http.get("/api/v1/agents", params={"limit": 1000, **({"after": after} if after else {})}).json()
            pids += [agent["pid"] for agent in page["items"]]
            after = page["next"]
            if not after:
                break
        private = [private_bytes(pid) for pid in pids[:: max(1, len(pids) // 100)]]
        row("private memory of one agent, median", f"{statistics.median(private) / 1e6:.1f} MB")
        idle(installation)


def private_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Private_"))


def idle(installation: object) -> None:
    processes = {
        role: psutil.Process(installation.running(role)["pid"])  # type: ignore[attr-defined]  # an Installation
        for role in ("fabric", "node", "server")
    }
    time.sleep(5)
    before = {role: sum(process.cpu_times()[:2]) for role, process in processes.items()}
    time.sleep(IDLE_S)
    shares = {role: (sum(process.cpu_times()[:2]) - before[role]) / IDLE_S for role, process in processes.items()}
    parts = ", ".join(f"{role} {share:.1%}" for role, share in shares.items())
    row(f"idle with {AGENTS:,} agents, of one core", f"{sum(shares.values()):.1%} ({parts})")
    memory = ", ".join(f"{role} {process.memory_info().rss / 1e6:.0f} MB" for role, process in processes.items())
    row(f"resident memory with {AGENTS:,} agents", memory)


if __name__ == "__main__":
    main()
