"""Keeps the roles of one machine alive. It starts no agents and stops none: that is the node's.

    absent ──spawn──> waking ──ready──> up ──ends──> resting ──back-off──> absent
       └── runs already (pid and start ticks): adopted ──> waking              │
    any ──stop, in the reverse order of start──> stopped <─────────────────────┘

Every role is a process in a session of its own, so that nothing that happens to the keeper (or to the terminal it
was started from) ends it; the next keeper finds it by its run file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paddock.app.data import DataDir, Running, explain
from paddock.app.process import send, start_ticks
from paddock.model.errors import Unavailable

Say = Callable[[str], None]

LOG_BYTES_MAX = 10_000_000
"""A role's log is set aside (one generation) when it is larger than this at the role's start."""

ALREADY_RUNS = 75
"""Exit code of a role process that found its role taken; the keeper then adopts the one that runs."""


UNWELL_EVERY_S = 5.0
UNWELL_MAX = 3
UNWELL_STARTING_MAX = 2
"""Of a role that is starting: so many times in a row surely unwell. It may only be slow."""


class RoleFailed(Unavailable):
    """A role of Paddock does not come up."""

    code = "role-failed"


@dataclass(frozen=True)
class Unwell:
    """Why a role does not work though it runs."""

    why: str
    sure: bool = False
    """It will not get well by itself."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """One process to keep alive."""

    name: str
    spawn: Callable[[], Awaitable[int]]
    """Start it in a session of its own and return its pid."""
    waits_for: Callable[[], Awaitable[str]]
    """What it still waits for, or empty when it is ready."""
    unwell: Callable[[], Awaitable[Unwell | None]] | None = None
    """Asked every `UNWELL_EVERY_S`; a role that is surely unwell, or `UNWELL_MAX` times in a row, is ended, and so
    started anew."""
    ready_s_max: float = 60.0
    stop_s_max: float = 15.0
    stopping: str = ""
    """What its stop means, for people who wait."""


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """How fast a role that dies comes back. It always does: a machine without its roles heals nothing."""

    max: int = 5
    window_s: float = 60.0
    delay_s_min: float = 0.5
    delay_s_max: float = 30.0

    def delay_s(self, deaths: Sequence[float], now: float) -> float:
        """The first death within the window costs nothing, each further one doubles the delay."""
        recent = self.recent(deaths, now)
        return 0.0 if recent <= 1 else min(self.delay_s_min * 2.0 ** min(recent - 2, 30), self.delay_s_max)

    def recent(self, deaths: Sequence[float], now: float) -> int:
        return sum(1 for at in deaths if now - at <= self.window_s)

    def is_loop(self, deaths: Sequence[float], now: float) -> bool:
        return self.recent(deaths, now) > self.max


class Watched:
    """A process and the moment of its end, by pidfd."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.reason = "how is not known, it was adopted"
        self.ended = False
        self.woken = asyncio.Event()
        """Set at its end, and by who wants the one that waits for it to look up."""
        self._fd = -1
        try:
            self._fd = os.pidfd_open(running.pid)
        except ProcessLookupError:
            self._end()
            return
        if not running.alive:
            self._end()
            return
        asyncio.get_running_loop().add_reader(self._fd, self._end)

    def _end(self) -> None:
        self.close()
        try:
            pid, status = os.waitpid(self.running.pid, os.WNOHANG)
            if pid:
                self.reason = _how(os.waitstatus_to_exitcode(status))
        except ChildProcessError:
            pass  # adopted: how it ended is known to nobody
        self.ended = True
        self.woken.set()

    def close(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@dataclass
class Keeper:
    """Starts roles in order, restarts what dies, stops in the reverse order. Hold `data.keep()` while it works."""

    data: DataDir
    roles: Sequence[Role]
    say: Say
    restarts: Restarts = field(default_factory=Restarts)
    _watched: dict[str, Watched] = field(default_factory=dict)
    _logged: dict[str, int] = field(default_factory=dict)
    """Bytes in the log of a role before its last start: what is told of a start is what came after."""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _kept: bool = False
    """From `run` on, a role that ends is started again."""

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def marker(self) -> Path:
        """Is there from the first start to a complete stop: after a kill it tells that something may be left."""
        return self.data.run / "started"

    async def start(self) -> None:
        """Start or adopt each role, each ready before the next begins. `RoleFailed` says why one did not come up;
        then what this call had started is stopped again, unless there was something to take over."""
        fresh = not self.marker.exists()
        try:
            self.marker.touch()
        except OSError as error:
            raise explain(error, self.marker) from error
        try:
            for role in self.roles:
                await self._bring(role)
        except BaseException:
            if fresh:
                await self.stop()
            self.close()
            raise

    async def run(self) -> None:
        """Restart what dies until `ask_stop`; then return, with everything still running."""
        self._kept = True
        async with asyncio.TaskGroup() as group:
            for role in self.roles:
                group.create_task(self._keep(role), name=f"keep-{role.name}")

    def ask_stop(self) -> None:
        """Make `run` return, and a `start` that waits give up."""
        self._stop.set()
        for watched in self._watched.values():
            watched.woken.set()

    async def stop_asked(self, limit_s: float) -> bool:
        """Wait so long at the most for a stop to be asked for; whether it was."""
        return await _within(self._stop, limit_s)

    def close(self) -> None:
        """Let go of all roles; they run on."""
        for watched in self._watched.values():
            watched.close()
        self._watched.clear()

    async def stop(self) -> bool:
        """End every role, last started first, and return when all have ended: False when one had to be killed."""
        clean = True
        for role in reversed(self.roles):
            watched = self._watched.get(role.name)
            running = self.data.running(role.name) or (watched and watched.running)
            if running and running.alive:
                clean &= await self._end(role, running)
        self.close()
        with contextlib.suppress(OSError):  # a disk that is read-only by now: the next one looks for what is left
            self.marker.unlink(missing_ok=True)
        return clean

    async def _keep(self, role: Role) -> None:
        deaths: deque[float] = deque(maxlen=64)
        while not self.stopping:
            watched = self._watched[role.name]
            await self._ended_or_unwell(role, watched)
            if self.stopping:
                return
            deaths.append(time.monotonic())
            self.say(f"{role.name} (pid {watched.running.pid}) ended: {watched.reason}; starting it again")
            while not await self._rest(role, deaths):
                try:
                    await self._bring(role)
                    break
                except Exception as error:  # whatever it is, trying again is all that helps
                    deaths.append(time.monotonic())
                    self.say(str(error))

    async def _ended_or_unwell(self, role: Role, watched: Watched) -> None:
        """Return when its process has ended, by itself or because it does not work."""
        times = 0
        while role.unwell is not None and not await _within(watched.woken, UNWELL_EVERY_S):
            unwell = await role.unwell()
            times = times + 1 if unwell else 0
            if unwell and (unwell.sure or times >= UNWELL_MAX) and not self.stopping:
                await self._end_unwell(role, watched, unwell)
                times = 0
        await watched.woken.wait()

    async def _rest(self, role: Role, deaths: Sequence[float]) -> bool:
        """Wait out the back-off; True when a stop was asked for meanwhile."""
        now = time.monotonic()
        delay_s = self.restarts.delay_s(deaths, now)
        if self.restarts.is_loop(deaths, now):
            self.say(
                f"{role.name} is in a crash loop ({self.restarts.recent(deaths, now)} ends in "
                f"{self.restarts.window_s:.0f} s); next try in {delay_s:.0f} s; see {self.data.log_file(role.name)}"
            )
        await _within(self._stop, delay_s)
        return self.stopping

    async def _bring(self, role: Role) -> None:
        """Find the role running, or start it; return when it is ready."""
        running = self.data.running(role.name)
        if running:
            self.say(f"{role.name} runs already (pid {running.pid})")
        else:
            with contextlib.suppress(OSError):
                self._logged[role.name] = self.data.log_file(role.name).stat().st_size
            pid = await role.spawn()
            running = Running(pid=pid, start_ticks=start_ticks(pid) or 0)
        watched = self._watch(role, running)
        await self._until_ready(role, watched)
        other = self.data.running(role.name)
        if other and other.pid != running.pid:  # a keeper that was killed had started it just before us
            watched = self._watch(role, other)
            await self._until_ready(role, watched)
        if watched.ended:
            raise RoleFailed(f"{role.name} ended before it was ready: {watched.reason}{self._last_lines(role)}")
        self.say(f"{role.name} is ready (pid {watched.running.pid})")

    def _watch(self, role: Role, running: Running) -> Watched:
        if before := self._watched.get(role.name):
            before.close()
        watched = self._watched[role.name] = Watched(running)
        return watched

    async def _until_ready(self, role: Role, watched: Watched) -> None:
        """Return when it is ready or has ended; one that surely does not work will not be ready, and is ended."""
        end = time.monotonic() + role.ready_s_max
        look_at, times = time.monotonic() + UNWELL_EVERY_S, 0
        pause_s = 0.05
        while not watched.ended and (what := await role.waits_for()):
            if self.stopping:
                raise RoleFailed(f"stopped while {role.name} was starting")
            self._all_well_before(role)
            if time.monotonic() > end:
                raise RoleFailed(
                    f"{role.name} (pid {watched.running.pid}) is not ready after {role.ready_s_max:.0f} s: "
                    f"it waits for {what}{self._last_lines(role)}"
                )
            if role.unwell is not None and time.monotonic() >= look_at:
                unwell = await role.unwell()
                look_at, times = time.monotonic() + UNWELL_EVERY_S, times + 1 if unwell and unwell.sure else 0
                if unwell and times >= UNWELL_STARTING_MAX:
                    await self._end_unwell(role, watched, unwell)
                    return
            await _within(watched.woken, pause_s)
            pause_s = min(pause_s * 1.3, 0.5)

    def _all_well_before(self, role: Role) -> None:
        """At the first start a role may wait in vain for one before it that has ended: tell that one's reason."""
        for before in self.roles[: self.roles.index(role)] if not self._kept else ():
            watched = self._watched.get(before.name)
            if watched and watched.ended:
                raise RoleFailed(f"{before.name} ended at its start: {watched.reason}{self._last_lines(before)}")

    async def _end_unwell(self, role: Role, watched: Watched, unwell: Unwell) -> None:
        self.say(f"{role.name} (pid {watched.running.pid}) runs but does not work ({unwell.why}): ending it")
        await self._end(role, watched.running)
        await watched.woken.wait()
        watched.reason = "it did not work"

    async def _end(self, role: Role, running: Running) -> bool:
        watched = Watched(running)
        self.say(f"stopping {role.name} (pid {running.pid}){role.stopping and f': {role.stopping}'}")
        send(running.pid, running.start_ticks, signal.SIGTERM)
        send(running.pid, running.start_ticks, signal.SIGCONT)  # one that was stopped would never see it
        begin = time.monotonic()
        while not await _within(watched.woken, min(5.0, role.stop_s_max)):
            waited_s = time.monotonic() - begin
            if waited_s >= role.stop_s_max:
                self.say(f"{role.name} did not stop in {role.stop_s_max:.0f} s: killed")
                send(running.pid, running.start_ticks, signal.SIGKILL)
                await watched.woken.wait()
                return False
            self.say(f"{role.name} is still stopping after {waited_s:.0f} s (at most {role.stop_s_max:.0f} s)")
        return True

    def _last_lines(self, role: Role, count: int = 10) -> str:
        path = self.data.log_file(role.name)
        lines = last_lines(path, count, since=self._logged.get(role.name, 0))
        return f"; the end of {path}:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""


async def _within(event: asyncio.Event, limit_s: float) -> bool:
    """Wait for the event, at most so long; whether it is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), limit_s)
    return event.is_set()


def last_lines(path: Path, count: int, *, since: int = 0) -> list[str]:
    """The end of a log, read from its last 16 kB only, and of what came after its first `since` bytes (unless it was
    set aside meanwhile)."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(0, size - 16_384, since if since <= size else 0))
            return [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()][-count:]
    except OSError:
        return []


def spawn(command: Sequence[str], log: Path, *, env: dict[str, str] | None = None, kept: Collection[int] = ()) -> int:
    """Start a process that is nobody's: own session, no terminal, no inherited file but `kept`; its output is appended
    to `log`.

    posix_spawn rather than subprocess: the process is to outlive us, and nobody here holds an object for it."""
    _let_nobody_inherit(kept)
    try:
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawn(
            command[0],
            list(command),
            dict(os.environ) if env is None else env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
        )
    except OSError as error:
        raise explain(error, log) from error


def _let_nobody_inherit(kept: Collection[int]) -> None:
    """What whoever started us let us inherit, such as a lock or a pipe: held by a process that stays, it would be held
    for ever. (A close as an action of posix_spawn is refused where a limit of open files was set below its number.)"""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the listing itself had one
            if fd > 2 and fd not in kept:
                os.set_inheritable(fd, False)
