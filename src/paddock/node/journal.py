"""The node's process table on disk: what it may say about its agents after it was killed at any line.

    <crc32> <json>\\n       one entry a line; the first is a snapshot of all that was before
    <crc32> <json>\\n
    <crc32> {"op":"RowS    a torn last line: dropped

`put` returns when the entry is on disk; entries of many callers share one fsync. `note` is for what only has to
survive the node, not the machine. One thread writes; the table in memory is always ahead of the file.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import structlog

from paddock.fabric.files import sync_folder
from paddock.model.agent import AgentState
from paddock.model.errors import DataDirError, Unavailable
from paddock.model.fleet import Placement
from paddock.model.policy import Action
from paddock.ports.runtime import Handle

log = structlog.get_logger(__name__)

FORMAT = 1
NOTE_S = 0.005
"""How long holds and drops gather before they are written."""
ENTRIES_MIN = 20_000
"""Compacted when this many entries were written since, and more than ten for each that counts."""

MENDS = (Action.RESTART, Action.RESTART_CLEAN, Action.REDEPLOY)
"""Recovery actions that are a start of another kind, the mildest first."""


class Hold(msgspec.Struct, frozen=True):
    """A task that an agent holds."""

    ack: str
    since: float


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One agent. An `intent` without handle: a start was under way, nobody knows whether it happened."""

    epoch: int = 0
    intent: bool = False
    handle: Handle | None = None
    version: str = ""
    """Of the template that this incarnation was started from."""
    started_at: float = 0.0
    restarts: int = 0
    ports: dict[str, int] = {}
    begun: bool = False
    """Its startup probes have passed, or it has none that count: they are not asked again."""
    mend: str = ""
    """One of `MENDS`: this incarnation is to be stopped, and the next one started so."""
    rest: str = ""
    """Why it rests; empty: it should run."""
    rest_state: AgentState = AgentState.STOPPED
    rest_until: float = 0.0
    """Unix seconds; 0: until somebody asks for it."""


class RowSet(msgspec.Struct, frozen=True, tag=True, tag_field="op"):
    agent: str
    row: Row


class RowGone(msgspec.Struct, frozen=True, tag=True, tag_field="op"):
    agent: str


class Forgotten(msgspec.Struct, frozen=True, tag=True, tag_field="op"):
    """Nothing of a gone agent is left to be told: its key in the bucket `now` is deleted, or is another's."""

    agent: str


class Placed(msgspec.Struct, frozen=True, tag=True, tag_field="op"):
    placement: Placement


class Unplaced(msgspec.Struct, frozen=True, tag=True, tag_field="op"):
    fleet: str


class Held(msgspec.Struct, frozen=True, tag=True, tag_field="op"):
    agent: str
    task: str
    hold: Hold


class Dropped(msgspec.Struct, frozen=True, tag=True, tag_field="op"):
    agent: str
    task: str


class Table(msgspec.Struct, tag="Table", tag_field="op"):
    """All that counts, and the first line of a compacted journal."""

    format: int = FORMAT
    epoch: int = 0
    """The last that was given out, over all agents: so it is never reused, even for one that was gone meanwhile."""
    rows: dict[str, Row] = {}
    placements: dict[str, Placement] = {}
    holds: dict[str, dict[str, Hold]] = {}
    gone: dict[str, None] = {}
    """Agents that are gone, but the fabric was not told so yet."""

    def apply(self, entry: Entry) -> None:
        if isinstance(entry, RowSet):
            before = self.rows.get(entry.agent)
            if before is None or before.epoch != entry.row.epoch or entry.row.handle is None:
                self.holds.pop(entry.agent, None)
            self.rows[entry.agent] = entry.row
            self.gone.pop(entry.agent, None)
            self.epoch = max(self.epoch, entry.row.epoch)
        elif isinstance(entry, RowGone):
            self.rows.pop(entry.agent, None)
            self.holds.pop(entry.agent, None)
            self.gone[entry.agent] = None
        elif isinstance(entry, Forgotten):
            self.gone.pop(entry.agent, None)
        elif isinstance(entry, Placed):
            self.placements[entry.placement.spec.name] = entry.placement
        elif isinstance(entry, Unplaced):
            self.placements.pop(entry.fleet, None)
        elif isinstance(entry, Held):
            self.holds.setdefault(entry.agent, {})[entry.task] = entry.hold
        elif isinstance(entry, Dropped):
            self.holds.get(entry.agent, {}).pop(entry.task, None)

    def size(self) -> int:
        return len(self.rows) + len(self.placements) + len(self.gone) + sum(map(len, self.holds.values()))


Entry = RowSet | RowGone | Forgotten | Placed | Unplaced | Held | Dropped
_decode = msgspec.json.Decoder(Entry | Table).decode


def line(entry: Entry | Table) -> bytes:
    data = msgspec.json.encode(entry)
    return b"%08x %s\n" % (zlib.crc32(data), data)


def read(path: Path) -> tuple[Table, int]:
    """The table as the journal tells it, and how many lines were of no use (one: a torn end)."""
    table, bad = Table(rows={}, placements={}, holds={}, gone={}), 0
    if not path.exists():
        return table, bad
    for text in path.read_bytes().split(b"\n"):
        if not text:
            continue
        crc, _, data = text.partition(b" ")
        if crc != b"%08x" % zlib.crc32(data):
            bad += 1
            continue
        try:
            entry = _decode(data)
        except msgspec.ValidationError as error:
            raise DataDirError(f"{path} was written by another version of Paddock, or by none: {error}") from error
        if not isinstance(entry, Table):
            table.apply(entry)
        elif entry.format > FORMAT:
            raise DataDirError(f"{path} has format {entry.format}; this version of Paddock reads up to {FORMAT}")
        else:
            table = entry
    return table, bad


class Journal:
    """Opened and locked for one node."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = _lock(path.with_suffix(".lock"))
        self.doubtful = not path.exists() or path.stat().st_size == 0
        """Whether something may run that the table does not tell of."""
        try:
            self.table, bad = read(path)
            self.doubtful |= bad > 0
            if bad:
                log.warning("lines of the journal were torn or spoilt, and dropped", path=str(path), lines=bad)
            self._file = -1
            self._compact(line(self.table))
        except BaseException:
            os.close(self._lock)
            raise
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._buffer: list[Entry | None] = []
        self._fresh: dict[tuple[str, str], int] = {}
        """(agent, task) → the place in the buffer of a hold that nothing on disk speaks of."""
        self._soon: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._entries = 0
        self._busy: asyncio.Future[None] | None = None

    def next_epoch(self, now: float) -> int:
        """A fencing token above all before. It follows the clock, in milliseconds, so that
        it grows even if the journal is lost."""
        self.table.epoch = max(self.table.epoch + 1, int(now * 1000))
        return self.table.epoch

    async def put(self, entry: Entry) -> None:
        """Return when it is on disk; `Unavailable` when it could not be written."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(written)
        self._add(entry)
        self._kick()
        await written

    def note(self, entry: Entry) -> None:
        """Write it soon: it survives the node's death, not the machine's. Holds and drops gather for NOTE_S, and a task
        that is dropped before its hold was written leaves no line: most tasks are that short."""
        if isinstance(entry, Held | Dropped):
            key = entry.agent, entry.task
            known = entry.task in self.table.holds.get(entry.agent, {})
            place = self._fresh.pop(key, None)
            if isinstance(entry, Held):
                if not known:
                    self._fresh[key] = len(self._buffer)
            elif place is not None:
                self._buffer[place] = None
                self.table.apply(entry)
                return
            self._add(entry)
            self._kick_soon()
            return
        self._add(entry)
        if self._busy is None:
            # Not at once: a put that follows in the same turn of the loop then needs no second write.
            asyncio.get_running_loop().call_soon(self._kick)

    def _add(self, entry: Entry) -> None:
        self.table.apply(entry)
        self._buffer.append(entry)

    async def close(self) -> None:
        self._kick()
        while self._busy is not None:
            await asyncio.wait([self._busy])
            self._kick()
        self._thread.shutdown(wait=True)
        os.close(self._file)
        os.close(self._lock)

    def _kick_soon(self) -> None:
        if self._soon is None and self._buffer:
            self._soon = asyncio.get_running_loop().call_later(NOTE_S, self._kick)

    def _kick(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._busy is not None or not self._buffer:
            return
        data = b"".join([line(entry) for entry in self._buffer if entry is not None])
        self._buffer.clear()
        self._fresh.clear()
        if not data:
            return
        waiters, self._waiters = self._waiters, []
        self._entries += data.count(b"\n")
        loop = asyncio.get_running_loop()
        if self._entries > max(ENTRIES_MIN, 10 * self.table.size()):
            self._entries = 0
            self._busy = loop.run_in_executor(self._thread, self._compact, line(self.table))
        else:
            self._busy = loop.run_in_executor(self._thread, self._append, data, bool(waiters))
        self._busy.add_done_callback(lambda done: self._written(done, waiters))

    def _written(self, done: asyncio.Future[None], waiters: list[asyncio.Future[None]]) -> None:
        self._busy = None
        error = done.exception()
        if error is not None:
            log.error("the journal cannot be written", path=str(self._path), error=str(error))
            self._entries = ENTRIES_MIN + 10 * self.table.size() + 1  # what is missing now comes with a snapshot
        for waiter in waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(Unavailable(f"the node's journal {self._path} cannot be written: {error}"))
        if any(not isinstance(entry, Held | Dropped | None) for entry in self._buffer):
            self._kick()
        else:
            self._kick_soon()

    # --- in the journal's thread

    def _append(self, data: bytes, sync: bool) -> None:
        size = os.fstat(self._file).st_size
        try:
            _write_all(self._file, data)
        except OSError:
            os.ftruncate(self._file, size)
            raise
        if sync:
            os.fdatasync(self._file)

    def _compact(self, snapshot: bytes) -> None:
        temporary = self._path.with_suffix(".new")
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(file, snapshot)
            os.fsync(file)
            os.rename(temporary, self._path)
            sync_folder(self._path.parent)
        except OSError:
            os.close(file)
            raise
        old, self._file = self._file, file
        if old >= 0:
            os.close(old)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise DataDirError(f"{path.parent} is in use by another node of this host") from error
    return fd
