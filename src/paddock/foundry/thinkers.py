"""Agents that need a model. Without one they say so; they never make up an answer."""

from __future__ import annotations

from typing import Any

from paddock.agent import Agent, TaskError, task


class Architect(Agent):
    """Designs how a goal can be reached."""

    @task
    async def design(self, goal: str) -> dict[str, Any]:
        """Design a system for a goal. Needs a model."""
        raise _no_model("designing")


class Coder(Agent):
    """Writes code for a task."""

    @task
    async def write(self, task: str) -> dict[str, Any]:
        """Write code for a task. Needs a model."""
        raise _no_model("writing code")


def _no_model(what: str) -> TaskError:
    return TaskError(
        f"no model configured: {what} needs a language model, and this installation has none", code="no-model"
    )
