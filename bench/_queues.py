"""The task queues that Paddock is measured beside: how each is run, its rate, its idle time, and what a kill does."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from _bench import INTERRUPTED, note
from _peers import LOCKS, Absent, end_now, environment, family, process, redis, redis_version, version

LIMIT_S = float(os.environ.get("BENCH_LIMIT_S", "90"))
"""How long is waited for a task whose worker was killed."""
SECONDS = float(os.environ.get("BENCH_PEER_S", "10"))
"""How long each peer works for its rate; the number of tasks follows from it."""
NAP_S = 1.0


@dataclass(frozen=True)
class Queue:
    name: str
    lock: str
    module: str
    command: tuple[str, ...]
    how: str
    copies: int = 1
    env: dict[str, str] = field(default_factory=dict)
    is_on_redis: bool = True


CELERY = Queue(
    *("celery", "celery", "on_celery", ("python", "-m", "celery", "-A", "on_celery", "worker", "-c", "2")),
    how="worker -c 2 (prefork); Redis for broker and results",
)
DRAMATIQ = Queue(
    *("dramatiq", "dramatiq", "on_dramatiq", ("python", "-m", "dramatiq", "on_dramatiq", "--processes", "2")),
    how="--processes 2, 8 threads each by default; results by its RedisBackend",
)
RQ = Queue(
    *("rq", "rq", "on_rq", ("rq", "worker", "--url", "{redis}")),
    how="2 × 'rq worker', which forks for each task by default",
    copies=2,
)
RQ_SIMPLE = Queue(
    *("rq, SimpleWorker", "rq", "on_rq", ("rq", "worker", "--url", "{redis}", "-w", "rq.SimpleWorker")),
    how="the same without the fork, which is not its default",
    copies=2,
)
ARQ = Queue(
    *("arq", "arq", "on_arq", ("arq", "on_arq.WorkerSettings")),
    how="2 × 'arq', 10 jobs at once each and polls of 0.5 s by default",
    copies=2,
)
TASKIQ = Queue(
    *("taskiq", "taskiq", "on_taskiq", ("taskiq", "worker", "on_taskiq:broker", "--workers", "2")),
    how="worker --workers 2, RedisStreamBroker and RedisAsyncResultBackend",
)
HUEY_COMMAND = ("huey_consumer", "on_huey.huey", "-w", "2", "-k", "process")
HUEY = Queue("huey", "huey", "on_huey", HUEY_COMMAND, how="huey_consumer -w 2 -k process, RedisHuey")
HUEY_SQLITE = Queue(
    *("huey, SQLite", "huey", "on_huey", HUEY_COMMAND),
    how="the same on SqliteHuey as it comes: SQLite syncs every commit. Not on Redis, so not in the ratio",
    env={"PEER_STORE": "sqlite"},
    is_on_redis=False,
)
HUEY_SQLITE_NOSYNC = Queue(
    *("huey, SQLite, no fsync", "huey", "on_huey", HUEY_COMMAND),
    how="the same with fsync=False: nothing is synced. Not on Redis, so not in the ratio",
    env={"PEER_STORE": "sqlite-nosync"},
    is_on_redis=False,
)

QUEUES = (CELERY, DRAMATIQ, RQ, RQ_SIMPLE, ARQ, TASKIQ, HUEY, HUEY_SQLITE, HUEY_SQLITE_NOSYNC)


def wanted(queues: Sequence[Queue]) -> list[Queue]:
    """Those that BENCH_PEERS names by their locks (`celery,huey`, or `none`); all when it is not set."""
    named = os.environ.get("BENCH_PEERS")
    return [queue for queue in queues if named is None or queue.lock in named.split(",")]


class Site:
    """One queue with its workers and a Redis of its own, in a temporary folder."""

    def __init__(self, queue: Queue, folder: Path, url: str) -> None:
        self.queue = queue
        self._folder = folder
        self._bin = environment(queue.lock)
        self._env = {"PEER_REDIS": url, "PYTHONPATH": str(LOCKS), "PYTHONDONTWRITEBYTECODE": "1", **queue.env}
        program, *words = queue.command
        self._command: list[str | Path] = [self._bin / program, *(word.format(redis=url) for word in words)]
        self._stack = contextlib.ExitStack()
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._workers = [
            self._stack.enter_context(process(self._command, env=self._env, cwd=self._folder))
            for _ in range(self.queue.copies)
        ]

    def restart_ended(self) -> None:
        """What any supervisor around it would do: a worker that has ended is started anew."""
        for index, worker in enumerate(self._workers):
            if worker.poll() is not None:
                self._workers[index] = self._stack.enter_context(
                    process(self._command, env=self._env, cwd=self._folder)
                )

    def kill_all(self) -> None:
        """`kill -9` for every process of every worker."""
        end_now([one for worker in self._workers for one in family(worker.pid)])

    def drive(self, what: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self._bin / "python"), str(LOCKS / "drive.py"), self.queue.module, what, json.dumps(options)],
            env={**os.environ, **self._env},
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, what: str, limit_s: float, **options: Any) -> dict[str, Any]:
        """What the driver found out; Absent with its last line when it could not."""
        with self.drive(what, **options) as driver:
            try:
                out, err = driver.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                raise Absent(f"no answer within {limit_s:g} s") from None
            finally:
                driver.kill()
        if driver.returncode != 0:
            raise Absent((err.strip() or f"exit {driver.returncode}").splitlines()[-1][:200])
        found: dict[str, Any] = json.loads(out)
        return found

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def site(queue: Queue) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="paddock-bench-peer-") as folder, redis() as url:
        held = Site(queue, Path(folder), url)
        try:
            held.start()
            yield held
        finally:
            held.close()


def measured(queue: Queue) -> tuple[dict[str, Any], dict[str, Any]]:
    """(rate, idle) of one queue, as `peers/drive.py` says them; Absent with the reason."""
    most = int(os.environ.get("BENCH_TASKS", "20000"))
    with site(queue) as held:
        found = held.ask("rate", 60 + 6 * SECONDS, seconds=SECONDS, most=most)
        return found, held.ask("idle", 120, seconds=SECONDS, most=300)


def after_a_kill(queue: Queue, *, everybody: bool) -> str:
    """What becomes of a task whose worker is killed in the middle: the process that runs it, or all workers (which are
    started anew at once)."""
    with site(queue) as held, tempfile.TemporaryDirectory(prefix="paddock-bench-nap-") as folder:
        path = Path(folder) / "began"
        with held.drive("nap", path=str(path), seconds=NAP_S, limit_s=LIMIT_S) as driver:
            try:
                return _kill_and_look(held, path, driver, everybody=everybody)
            finally:
                driver.kill()


def _kill_and_look(held: Site, path: Path, driver: subprocess.Popen[str], *, everybody: bool) -> str:
    pid, _ = _began(path, 0, time.monotonic() + 30, held)
    if not pid:
        raise Absent("its task did not start within 30 s")
    at = time.time()
    if everybody:
        held.kill_all()
    else:
        psutil.Process(pid).kill()
    again, begun_at = _began(path, 1, time.monotonic() + LIMIT_S, held)
    if again:
        return f"runs again after {begun_at - at:.1f} s"
    said = ""
    if driver.poll() is not None and driver.stdout is not None:
        told = json.loads(driver.stdout.read() or "{}")
        if told and "Timeout" not in told["outcome"]:
            said = f"; {told['outcome'].split(':')[0]} after {told['at'] - at:.1f} s"
    return f"not within {LIMIT_S:g} s{said}"


def _began(path: Path, index: int, give_up: float, held: Site) -> tuple[int, float]:
    """(pid, unix seconds) of the start of this index; (0, 0.0) when it did not come."""
    while time.monotonic() < give_up and not INTERRUPTED.is_set():
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) > index:
            pid, at = lines[index].split()
            return int(pid), float(at)
        held.restart_ended()
        time.sleep(0.005 if index == 0 else 0.05)
    return 0, 0.0


def all_after_a_kill(queues: Sequence[Queue]) -> dict[tuple[str, bool], str]:
    """`after_a_kill` for each queue in both ways, all at the same time: they mostly wait."""
    if not queues:
        return {}

    def one(turn: tuple[Queue, bool]) -> str:
        try:
            return after_a_kill(turn[0], everybody=turn[1])
        except Absent as error:
            return f"not here: {error}"

    for queue in queues:  # one after the other: each may have to be fetched
        with contextlib.suppress(Absent):
            environment(queue.lock)
    turns = [(queue, everybody) for queue in queues for everybody in (False, True)]
    with ThreadPoolExecutor(len(turns)) as threads:
        found = list(threads.map(one, turns))
    return {(queue.name, everybody): text for (queue, everybody), text in zip(turns, found, strict=True)}


def tell_how(queues: Sequence[Queue]) -> None:
    with contextlib.suppress(Absent):
        note(f"Redis {redis_version()} as it comes, a fresh one for each: it does not sync what it acknowledges")
    for queue in queues:
        note(f"{queue.name} {version(queue.lock)}: {queue.how}")
