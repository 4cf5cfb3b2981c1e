"""A task that a test leaves behind fails it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

LEAKY = """
import asyncio
from paddock.testing.plugin import no_leaked_tasks

async def test_leaky(no_leaked_tasks):
    test_leaky.task = asyncio.create_task(asyncio.sleep(60), name="the-forgotten-one")

async def test_tidy(no_leaked_tasks):
    await asyncio.create_task(asyncio.sleep(0), name="awaited")
"""


def test_a_task_left_behind_fails_its_test_and_is_named(pytester: pytest.Pytester) -> None:
    path = Path(pytester.path, "test_inner.py")
    path.write_text(LEAKY)
    outcome = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-o", "asyncio_mode=auto", str(path))
    outcome.assert_outcomes(passed=2, errors=1)
    outcome.stdout.fnmatch_lines(["*LeakedTasks*", "*the-forgotten-one*"])
