"""An agent that can be up and wrong: what only a known-answer task finds."""

from __future__ import annotations

from paddock.agent import Agent, task


class Sums(Agent):
    async def start(self) -> None:
        self.off = 0

    @task
    async def add(self, a: int, b: int) -> int:
        """The sum of two numbers, as long as it is not confused."""
        return a + b + self.off

    @task
    async def confuse(self, off: int = 1) -> str:
        """Be wrong from now on by so much; a restart mends it."""
        self.off = off
        return f"every sum is wrong by {off} now"
