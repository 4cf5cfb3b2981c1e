"""The example agent does what it shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from paddock.model.task import TaskState

from .world import World, until


async def test_hello_greets_counts_and_tells(world: World) -> None:
    path = Path(__file__).parents[2] / "examples" / "hello.py"
    found = importlib.util.spec_from_file_location("hello_example", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    heard: list[str] = []
    world.fabric.subscribe("topic.greeted", lambda message: heard.append(message.subject))
    await world.agent(module.Hello, config={"word": "Good day"})
    assert (await world.outcome("greet", {"name": "Ada", "times": 2})).result == "Good day, Ada! Good day, Ada!"
    await until(lambda: heard)
    assert (await world.outcome("greet", {"name": "Ada", "times": 0})).state is TaskState.FAILED
    assert (await world.outcome("work", {"steps": 3})).result == 3 * sum(range(10_000))
