"""The smallest agent that shows everything: tasks, a topic, a timer, saved state."""

from __future__ import annotations

from paddock.agent import Agent, Message, TaskError, every, on, task


class Hello(Agent):
    async def start(self) -> None:
        self.count: int = await self.state.get("count", 0)

    @task
    async def greet(self, name: str, times: int = 1) -> str:
        """Greet somebody."""
        if times < 1:
            raise TaskError("I greet at least once", code="too-shy")
        self.count += 1
        await self.state.put("count", self.count)
        self.publish("greeted", {"name": name})
        return " ".join([f"{self.config.get('word', 'Hello')}, {name}!"] * times)

    @task(timeout_s=60, retries=2)
    def work(self, steps: int) -> int:
        """A plain function that blocks; it runs in a thread and reports how far it is."""
        total = 0
        for step in range(steps):
            if self.cancelled:
                break
            total += sum(range(10_000))
            self.progress((step + 1) / steps, f"step {step + 1}")
        return total

    @on("greeted")
    async def heard(self, message: Message) -> None:
        self.log.info("somebody was greeted", name=message.value["name"])

    @every(seconds=30, jitter=3)
    async def tidy(self) -> None:
        self.log.info("still here", greeted=self.count)
