"""The agents that the benchmarks run."""

from __future__ import annotations

import asyncio
import os

from paddock.agent import Agent, task


class Noop(Agent):
    @task
    async def noop(self, payload: str) -> int:
        """What every queue is measured with: nothing."""
        return len(payload)

    @task
    async def pid(self) -> int:
        return os.getpid()

    @task
    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @task
    async def held(self, socket: str, name: str) -> int:
        """Say on a Unix socket who runs this task, then wait for the word that lets it end."""
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(f"{name} {os.getpid()}\n".encode())
        try:
            await reader.readline()
        finally:
            writer.close()
        return os.getpid()
