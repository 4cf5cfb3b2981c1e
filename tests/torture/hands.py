"""The agents that are tortured. Every run of a task leaves a line in a file: so it is known how often each ran."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from paddock.agent import Agent, Message, on, task


def leave(effects: str, line: str, epoch: int) -> None:
    """One write, appended: whole or not at all, whoever else writes."""
    handle = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{line} {epoch} {os.getpid()}\n".encode())
    finally:
        os.close(handle)


class Hand(Agent):
    @task
    async def work(self, line: str, effects: str, ms: float) -> dict[str, Any]:
        """Takes `ms` milliseconds; says who did it."""
        leave(effects, line, self.epoch)
        await asyncio.sleep(ms / 1000)
        return {"line": line, "epoch": self.epoch, "pid": os.getpid()}

    @task
    async def wait(self, line: str, effects: str, gate: str) -> dict[str, Any]:
        """Runs until a file exists."""
        leave(effects, line, self.epoch)
        while not Path(gate).exists():  # noqa: ASYNC110 - a test's agent
            await asyncio.sleep(0.02)
        return {"line": line, "epoch": self.epoch, "pid": os.getpid()}

    @task
    async def poison(self, line: str, effects: str) -> None:
        """Ends its process as a segmentation fault would."""
        leave(effects, line, self.epoch)
        os.kill(os.getpid(), signal.SIGKILL)

    @task
    async def hang(self, line: str, effects: str, times: int) -> str:
        """Blocks the whole process the first `times` times that it is run."""
        leave(effects, line, self.epoch)
        if Path(effects).read_text().count(f"{line} ") <= times:
            time.sleep(600)  # noqa: ASYNC251 - that is the point
        return "well"

    @task
    async def tell(self, line: str, effects: str) -> None:
        """Everybody is to leave this line."""
        self.publish("torture.news", {"line": line, "effects": effects})

    @on("torture.news")
    async def heard(self, message: Message) -> None:
        leave(message.value["effects"], f"{message.value['line']}-{self.id}", self.epoch)
