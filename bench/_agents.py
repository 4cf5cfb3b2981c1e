"""The agents that the benchmarks run."""

from __future__ import annotations

import asyncio

from paddock.agent import Agent, task


class Noop(Agent):
    @task
    async def noop(self, payload: str) -> None:
        """What every queue is measured with: nothing."""

    @task
    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
