"""Tasks per second end to end and submit → result, idle; beside huey, the quickest of the peers, in the same run.

Our default syncs every task and every result to disk before it is acknowledged; huey's SQLite and Redis do not.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from _bench import PAYLOAD, all_of, client, manifest, percentiles, row, running, timed_each

TASKS = int(os.environ.get("BENCH_TASKS", "20000"))
AT_ONCE = 256

PEER = """
    import sys
    from huey import SqliteHuey
    huey = SqliteHuey(filename=sys.argv[-1] if sys.argv[-1].endswith(".db") else %(path)r, fsync=False)
    @huey.task()
    def noop(payload): return 1
"""


def main() -> None:
    ours: dict[str, float] = {}
    for durability in ("always", "interval"):
        with running(manifest("noop", replicas=2, concurrency=128), durability=durability) as installation:

            async def measure(held: object = installation, durability: str = durability) -> None:
                async with client(held) as program:  # type: ignore[arg-type]  # bound per turn

                    async def one() -> None:
                        await program.run("noop", "noop", payload=PAYLOAD)

                    await all_of(one, 500, at_once=AT_ONCE)
                    ours[durability] = TASKS / await all_of(one, TASKS, at_once=AT_ONCE)
                    row(f"tasks/s, 2 workers, durability {durability}", f"{ours[durability]:,.0f}")
                    row(f"submit → result, idle, SDK, {durability}", percentiles(await timed_each(one, 500)))

            asyncio.run(measure())
            if durability == "always":
                by_http(installation)
    peer = huey_per_s()
    if peer:
        row("tasks/s, huey on SQLite, 2 worker processes, no fsync", f"{peer:,.0f}")
        for durability, per_s in ours.items():
            row(f"ratio to huey, durability {durability}", f"{per_s / peer:.2f} ×")
    else:
        row("huey", "not installed: pip install huey to see the ratio")


def by_http(installation: object) -> None:
    with installation.http() as http:  # type: ignore[attr-defined]  # an Installation
        body = {"fleet": "noop", "method": "noop", "args": {"payload": PAYLOAD}}
        taken = []
        for _ in range(300):
            before = time.perf_counter()
            answer = http.post("/api/v1/tasks", params={"wait_s": 10}, json=body)
            taken.append(time.perf_counter() - before)
            assert answer.json()["state"] == "done", answer.text
    row("submit → result, idle, HTTP, always", percentiles(taken))


def huey_per_s() -> float:
    """The peer in the same minute on the same machine; 0 when it is not installed."""
    if importlib.util.find_spec("huey") is None:
        return 0.0
    count = min(TASKS, 4000)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "peer.py").write_text(textwrap.dedent(PEER % {"path": str(Path(folder, "huey.db"))}))
        env = {**os.environ, "PYTHONPATH": folder}
        consumer = Path(sys.executable).parent / "huey_consumer"
        workers = subprocess.Popen(
            [str(consumer), "peer.huey", "-w", "2", "-k", "process", "-d", "0.001", "-m", "0.01", "-q"],
            env=env,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        program = textwrap.dedent(f"""
            import time
            from peer import noop
            noop("x")(blocking=True, timeout=20)
            before = time.perf_counter()
            results = [noop("{PAYLOAD}") for _ in range({count})]
            for result in results: result(blocking=True, backoff=1.0, max_delay=0.01)
            print({count} / (time.perf_counter() - before))
        """)
        try:
            done = subprocess.run(
                [sys.executable, "-c", program],
                env=env,
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
                timeout=300,
            )
            return float(done.stdout)
        finally:
            workers.terminate()
            workers.wait(20)


if __name__ == "__main__":
    main()
