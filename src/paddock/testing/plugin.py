"""Fixtures for tests in real time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from paddock.testing.loop import check_leaks


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fails a test that leaves asyncio tasks running. Ask for it first: what later fixtures start they also end."""
    before = asyncio.all_tasks()
    yield
    check_leaks({task for task in asyncio.all_tasks() if task not in before and task is not asyncio.current_task()})
