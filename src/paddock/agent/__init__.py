"""What an author of agents imports. Small, stable, quick to import.

No server code, no SQL, no web framework may be imported from here; what only a running agent needs (the event loop,
the fabric) is imported when it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paddock.agent.base import Agent, Message, every, on, task
from paddock.agent.methods import describe
from paddock.model.errors import Retry, TaskError

if TYPE_CHECKING:
    from paddock.agent.client import Client

__all__ = ["Agent", "Message", "Retry", "TaskError", "connect", "describe", "every", "on", "task"]


async def connect(url: str | None = None, creds: str | None = None) -> Client:
    """Connect a program to the fabric, to submit tasks and await results; by default as `PADDOCK_NATS_URL` and
    `PADDOCK_CREDS` say."""
    from paddock.agent import client

    return await client.connect(url, creds)
