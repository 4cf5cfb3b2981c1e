"""An agent for the faults of the host: it works, logs, and misbehaves when asked to."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from paddock.agent import Agent, every, task


class Lab(Agent):
    @task
    async def add(self, x: int, y: int = 1) -> int:
        return x + y

    @task
    async def note(self, path: str, text: str, takes_s: float = 0.0) -> str:
        """Appends a line: what was run, and how often."""
        await asyncio.sleep(takes_s)
        with open(path, "a") as file:  # noqa: ASYNC230 - a test's agent
            file.write(text + "\n")
        return text

    @task
    async def chatter(self, lines: int) -> int:
        """Prints as people do, without a thought of a full disk."""
        for number in range(lines):
            print(f"line {number} " + "x" * 1000)
        return lines

    @every(seconds=0.2)
    async def tick(self) -> None:
        self.log.info("tick", room="x" * 2000)  # what is left of the log's last page takes no more than two

    @task
    async def wait_for(self, path: str) -> str:
        """Runs until a file exists."""
        while not Path(path).exists():  # noqa: ASYNC110 - a test's agent
            await asyncio.sleep(0.02)
        return "seen"

    @task
    def overrun(self, path: str) -> str:
        """Blocks for as long as a file is missing, whatever its time-out says; then returns."""
        while not Path(path).exists():
            time.sleep(0.02)
        Path(path + ".returned").touch()
        return "too late"

    @task
    async def fork(self, path: str) -> list[int]:
        """Starts children: one in its group, one in a session of its own; both ignore SIGTERM."""
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(86397)"
        children = [
            subprocess.Popen([sys.executable, "-c", code], start_new_session=apart).pid  # noqa: ASYNC220 - a test's agent
            for apart in (False, True)
        ]
        Path(path).write_text(" ".join(map(str, children)))
        return children

    @task
    async def deaf_and_busy(self) -> None:
        """Ignores SIGTERM, and has no end."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    @task
    def flood(self, seconds: float) -> int:
        """Writes to stdout as fast as it can; returns how many bytes."""
        line, written, over_at = "x" * 999 + "\n", 0, time.monotonic() + seconds
        while time.monotonic() < over_at:
            sys.stdout.write(line)
            written += len(line)
        return written

    @task
    async def hang_up(self) -> int:
        """Closes the line to its node, behind the back of the library."""
        closed = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                other = socket.socket(fileno=os.dup(int(name)))
            except OSError:
                continue
            with other:
                if other.family == socket.AF_UNIX and other.type == socket.SOCK_STREAM:
                    other.shutdown(socket.SHUT_RDWR)
                    closed += 1
        return closed

    @task
    def eat(self) -> int:
        """Takes memory until it is stopped."""
        eaten: list[bytearray] = []
        while True:
            eaten.append(bytearray(os.urandom(1024) * 4096))
