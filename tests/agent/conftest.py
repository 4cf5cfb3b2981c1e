from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .world import LIMIT_S, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.node.start()
    yield world
    for runner, running in world.runners:
        runner.terminate()
        await asyncio.wait_for(running, LIMIT_S)
    await world.node.stop()
    left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not [name for name in left if not name.startswith("Task-")], f"tasks were left behind: {left}"
