"""A whole Paddock of real processes in a folder of its own, driven as a user drives it: by the CLI and by HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from paddock.testing.wait import until


class Installation:
    """Starts nothing by itself; `down` at the end is the test's duty (see the fixture `installation`)."""

    def __init__(self, data: Path, *, env: dict[str, str] | None = None) -> None:
        self.data = data
        self._env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "160", **(env or {})}

    def cli(self, *words: str, ok: bool = True, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run `paddock …` on this installation. With `ok`, AssertionError with all it said unless it exits with 0."""
        done = subprocess.run(
            [sys.executable, "-m", "paddock", *words, "--data", str(self.data)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self._env,
            check=False,
        )
        if ok and done.returncode != 0:
            raise AssertionError(f"paddock {' '.join(words)} → {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def up(self, *manifests: str | Path, options: Sequence[str] = ()) -> None:
        self.cli("up", *map(str, manifests), "--detach", "--port", "0", *options)

    def down(self) -> None:
        self.cli("down", ok=False)

    def json(self, *words: str) -> Any:
        """What a command prints with `-o json`."""
        return json.loads(self.cli(*words, "-o", "json").stdout)

    def running(self, role: str) -> dict[str, Any]:
        """Content of `run/<role>.json`."""
        held: dict[str, Any] = json.loads((self.data / f"run/{role}.json").read_text())
        return held

    def http(self) -> httpx.Client:
        """A client of the API with the token of this installation."""
        token = (self.data / "token").read_text().strip()
        return httpx.Client(
            base_url=self.running("server")["url"], headers={"Authorization": f"Bearer {token}"}, timeout=60.0
        )

    def agents(self, fleet: str = "") -> dict[str, dict[str, Any]]:
        """Agents by id, by HTTP."""
        with self.http() as http:
            found = http.get("/api/v1/agents", params={"fleet": fleet, "limit": 1000}).raise_for_status().json()
        return {agent["id"]: agent for agent in found["items"]}

    def ready(self, fleet: str, count: int, *, limit_s: float = 60.0) -> dict[str, dict[str, Any]]:
        """Wait until just `count` agents of the fleet are there and all are ready."""

        def look() -> dict[str, dict[str, Any]]:
            agents = self.agents(fleet)
            states = [agent["state"] for agent in agents.values()]
            return agents if states == ["ready"] * count else {}

        return until(look, what=f"{count} ready agents of {fleet}", limit_s=limit_s)

    def processes(self) -> list[psutil.Process]:
        """All processes that carry this data directory in their environment or command line, or work in it (a forked
        agent carries nothing)."""
        found, mark = [], str(self.data)
        for process in psutil.process_iter():
            try:
                told = [*process.cmdline(), process.cwd(), *process.environ().values()]
                if any(mark in text for text in told):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [process for process in found if process.pid != os.getpid()]
