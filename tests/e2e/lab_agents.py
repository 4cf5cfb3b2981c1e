"""Agents that the end-to-end tests torment."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from paddock.agent import Agent, Message, Retry, TaskError, every, on, task


class Lab(Agent):
    @task
    async def echo(self, value: Any) -> Any:
        return value

    @task
    async def add(self, x: int, y: int = 1) -> int:
        return x + y

    @task(timeout_s=0.2)
    async def too_slow(self) -> None:
        await asyncio.sleep(60)

    @task
    async def wait_for(self, path: str) -> str:
        """Runs until a file exists."""
        while not Path(path).exists():  # noqa: ASYNC110 - a test's agent
            await asyncio.sleep(0.02)
        return "seen"

    @task
    async def note(self, path: str, text: str) -> None:
        """Appends a line: what was run, in order, how often."""
        with open(path, "a") as file:  # noqa: ASYNC230 - a test's agent
            file.write(text + "\n")

    @task(retries=2, backoff_s=0.05)
    async def flaky(self, path: str) -> int:
        """Fails until it was tried three times."""
        with open(path, "a") as file:  # noqa: ASYNC230 - a test's agent
            file.write("x")
        tries = len(Path(path).read_text())
        if tries < 3:
            raise ValueError(f"try {tries}")
        return tries

    @task(retries=1, backoff_s=0.05)
    async def hopeless(self) -> None:
        raise ValueError("never works")

    @task
    async def refuse(self) -> None:
        raise TaskError("not on a Sunday")

    @task
    async def again(self) -> None:
        raise Retry("not yet")

    @task
    async def die(self) -> None:
        """Kills its own process, like a segfault would."""
        os.kill(os.getpid(), signal.SIGKILL)

    @task
    async def die_once(self, path: str) -> str:
        if not Path(path).exists():
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    @task
    async def hang(self) -> None:
        """Blocks the event loop: no beats."""
        time.sleep(600)  # noqa: ASYNC251 - that is the point

    @task
    def block(self, seconds: float) -> str:
        """A plain function: blocks a thread, and the beats go on."""
        time.sleep(seconds)
        return "done"

    @task
    async def unserialisable(self) -> Any:
        return object()

    @task
    async def not_a_number(self) -> float:
        return float("nan")

    @task
    async def half_way(self, path: str) -> str:
        self.progress(0.5, "half way")
        return await self.wait_for(path=path)

    @task
    async def remember(self, key: str, value: str) -> None:
        await self.state.put(key, value)

    @task
    async def recall(self, key: str) -> Any:
        return await self.state.get(key)

    @task
    async def ask_other(self, whom: str) -> Any:
        return await self.ask(whom, "add", x=1, y=2)

    @task
    async def tell(self, text: str) -> None:
        await self.remember(key="unused", value="")
        self.publish("lab.news", {"text": text})

    @on("lab.news")
    async def heard(self, message: Message) -> None:
        await self.state.put("heard", message.value["text"])

    @task
    async def environment(self) -> dict[str, str]:
        return dict(os.environ)

    @every(seconds=0.2)
    async def tick(self) -> None:
        self.log.info("tick")
