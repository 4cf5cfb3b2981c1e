"""Watches the machine and Paddock's own servers, heals what it may, and says what it may not.

An agent like any other: put one into a manifest with the capability `infrastructure`, and the server asks it. What it
can do follows from the user that it runs as; nothing is done that was not asked for.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from paddock.agent import Agent, TaskError, task

LIMITS = {"cpu": 90.0, "memory": 85.0, "disk": 90.0, "files": 80.0, "clock_s": 5.0}
"""Percent, and for the clock seconds by which it was set between two looks. `config: {limits: {…}}` changes them."""
ANSWER_S_MAX = 2.0
HISTORY_MAX = 200
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
FILE_NR = Path("/proc/sys/fs/file-nr")
OLD_LOG_S = 3600.0


class Infrastructure(Agent):
    """`look` tells how the parts are, `act` does one thing about one of them, `history` what was seen and done."""

    async def start(self) -> None:
        self._limits = limits_of(self.config)
        self._data = find_data(Path.cwd())
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY_MAX)
        self._offset_s = time.time() - time.monotonic()
        import psutil

        psutil.cpu_percent(None)  # the first answer of every process is meaningless

    @task(timeout_s=15)
    async def look(self) -> list[dict[str, Any]]:
        """How the parts of this machine are: `part`, `bad`, `text`, `value`, `limit`."""
        import psutil

        where = self._data or Path.cwd()
        found = [
            self._share("cpu", psutil.cpu_percent(None), "of the processors are busy"),
            self._share("memory", psutil.virtual_memory().percent, "of memory is used"),
            self._share("disk", psutil.disk_usage(str(where)).percent, "of the disk with Paddock's data is used"),
            self._share("files", open_files(), "of the system's open files are used"),
            self._clock(),
            await self._broker(),
        ]
        bad = [finding["text"] for finding in found if finding["bad"]]
        if bad:
            self._note("seen", "; ".join(bad))
        return found

    @task(timeout_s=60)
    def act(self, action: str) -> dict[str, Any]:
        """Do one thing: restart-broker, drop-caches, clean-data. `ok` false: it may not, and `detail` says why."""
        deeds = {"restart-broker": self._restart_broker, "drop-caches": drop_caches, "clean-data": self._clean}
        if action not in deeds:
            raise TaskError(f"action {action!r} is none of {', '.join(deeds)}", code="bad-arguments")
        try:
            detail, ok = deeds[action](), True
        except (OSError, LookupError, ValueError, TypeError) as error:
            detail, ok = f"not permitted or not possible here: {error}", False
        self._note(action, detail)
        return {"ok": ok, "detail": detail}

    @task
    async def history(self) -> list[dict[str, Any]]:
        """What was seen and done since this agent started, the newest last."""
        return list(self._history)

    # --- looking

    def _share(self, part: str, value: float, text: str) -> dict[str, Any]:
        limit = float(self._limits[part])
        told = f"{value:.0f} % {text}; {limit:.0f} % are the limit"
        return {"part": part, "bad": value >= limit, "text": told, "value": value, "limit": limit}

    def _clock(self) -> dict[str, Any]:
        """Whether somebody set the clock since the last look."""
        offset_s = time.time() - time.monotonic()
        moved_s, self._offset_s = offset_s - self._offset_s, offset_s
        limit = float(self._limits["clock_s"])
        bad = abs(moved_s) >= limit
        text = f"the clock was set by {moved_s:+.1f} s" if bad else "the clock runs evenly"
        return {"part": "clock", "bad": bad, "text": text, "value": abs(moved_s), "limit": limit}

    async def _broker(self) -> dict[str, Any]:
        """Whether the broker greets, and takes a write."""
        before = time.monotonic()
        why = await self._broker_problem()
        took_s = time.monotonic() - before
        text = f"the broker {why}" if why else f"the broker took a write in {took_s * 1000:.0f} ms"
        return {"part": "broker", "bad": bool(why), "text": text, "value": took_s, "limit": ANSWER_S_MAX}

    async def _broker_problem(self) -> str:
        parts = urlsplit(os.environ.get("PADDOCK_NATS_URL", ""))
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
                try:
                    greeting = await reader.readline()
                finally:
                    writer.close()
                if not greeting.startswith(b"INFO "):
                    return "does not greet as one"
                await self.state.put("looked", time.time())
        except TimeoutError:
            return f"does not take a write within {ANSWER_S_MAX:g} s"
        except OSError as error:
            return f"does not answer: {error}"
        except Exception as error:
            return f"takes no write: {error}"
        return ""

    # --- doing

    def _restart_broker(self) -> str:
        """End it; its keeper starts it anew."""
        if self._data is None:
            raise LookupError("the data directory is not on this machine")
        running = json.loads((self._data / "run" / "fabric.json").read_text())
        pid = int(running["pid"])
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        if "nats-server" not in name:
            raise LookupError(f"process {pid} is {name}, not the broker")
        os.kill(pid, signal.SIGKILL)  # one that hangs does not hear SIGTERM; what it acknowledged is on disk
        return f"the broker (pid {pid}) was ended; its keeper starts it anew"

    def _clean(self) -> str:
        """Remove rotated logs that nobody has touched for an hour."""
        if self._data is None:
            raise LookupError("the data directory is not on this machine")
        freed, count = 0, 0
        for path in self._data.rglob("*.log.[0-9]*"):
            try:
                status = path.stat()
                if time.time() - status.st_mtime > OLD_LOG_S:
                    path.unlink()
                    freed, count = freed + status.st_size, count + 1
            except FileNotFoundError:
                continue  # rotated away meanwhile
        return f"{count} rotated logs removed, {freed / 1e6:.1f} MB"

    def _note(self, what: str, text: str) -> None:
        self._history.append({"at": time.time(), "what": what, "text": text})
        self.log.info(text, what=what)


def limits_of(config: Mapping[str, Any]) -> dict[str, float]:
    """The limits of a fleet's `config`; ValueError, with the reason, when one of them is none."""
    told = config.get("limits") or {}
    if not isinstance(told, dict) or (unknown := sorted(set(told) - set(LIMITS))):
        what = f"has {', '.join(unknown)}" if isinstance(told, dict) else "is no mapping"
        raise ValueError(f"config.limits {what}; known are {', '.join(LIMITS)}")
    for part, limit in told.items():
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
            raise ValueError(f"config.limits.{part} is {limit!r}; it must be a number over 0")
    return {**LIMITS, **told}


def find_data(start: Path) -> Path | None:
    """The data directory of the installation that this agent runs in; None when it is not on this machine."""
    for folder in (start, *start.parents):
        if (folder / "run" / "fabric.json").exists():
            return folder
    return None


def open_files() -> float:
    """Percent of the files that the system can have open."""
    used, _, most = (int(word) for word in FILE_NR.read_text().split())
    return 100.0 * used / most


def drop_caches() -> str:
    os.sync()
    DROP_CACHES.write_text("1\n")
    return "the system's page cache was dropped"
