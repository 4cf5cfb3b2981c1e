"""For programs that use agents: submit tasks, await results, ask."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from paddock.agent.calls import Calls, TaskOptions
from paddock.fabric.subjects import agent_inbox
from paddock.model.errors import Refused
from paddock.model.task import TaskResult
from paddock.ports.fabric import Fabric


class Client:
    """One connection of a program; make it with `connect()`, use it with `async with` or close it."""

    def __init__(self, fabric: Fabric, *, inbox: str, who: str) -> None:
        self._fabric = fabric
        self._calls = Calls(fabric, inbox=inbox, who=who)

    async def submit(
        self,
        to: str,
        method: str,
        args: dict[str, Any] | None = None,
        /,
        *,
        options: TaskOptions | None = None,
        **named: Any,
    ) -> str:
        """Submit a durable task for a fleet or for one agent (`fleet/name`); its id, once it is on disk."""
        return await self._calls.submit(to, method, {**(args or {}), **named}, options)

    async def run(
        self,
        to: str,
        method: str,
        args: dict[str, Any] | None = None,
        /,
        *,
        options: TaskOptions | None = None,
        **named: Any,
    ) -> Any:
        """Submit a task and await its result; TaskError with its code and message when it ended otherwise."""
        return await self._calls.run(to, method, {**(args or {}), **named}, options)

    async def ask(
        self, to: str, method: str, args: dict[str, Any] | None = None, /, *, timeout_s: float = 30.0, **named: Any
    ) -> Any:
        """Ask directly; nothing is stored."""
        return await self._calls.ask(to, method, {**(args or {}), **named}, timeout_s=timeout_s)

    async def task_result(self, task_id: str, fleet: str = "") -> TaskResult | None:
        """The stored outcome of a task, or None while it has none. Name the fleet, unless this is the server's own
        identity, which alone may search all results."""
        return await self._calls.task_result(task_id, fleet)

    async def close(self) -> None:
        await self._fabric.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def connect(url: str | None = None, creds: str | None = None) -> Client:
    """Connect a program to the fabric; by default as `PADDOCK_NATS_URL` and `PADDOCK_CREDS` say."""
    from paddock.fabric.client import connect as connect_fabric  # here: see `paddock.agent`, quick to import

    url = url or os.environ.get("PADDOCK_NATS_URL", "")
    if not url:
        raise Refused("where is the fabric? give its url, or set PADDOCK_NATS_URL")
    creds_path = creds or os.environ.get("PADDOCK_CREDS") or None
    who, inbox = await asyncio.to_thread(_identity, creds_path)
    fabric = await connect_fabric(url, creds_path=creds_path, inbox=inbox, name=who)
    return Client(fabric, inbox=inbox, who=who)


def _identity(creds_path: str | None) -> tuple[str, str]:
    """Name and inbox prefix that the credentials are for, as the tags of their token say: it allows no other inbox."""
    tags: dict[str, str] = {}
    if creds_path is not None:
        try:
            token = re.search(r"^eyJ[\w-]+\.([\w-]+)\.", Path(creds_path).read_text(), re.MULTILINE)
            if token is not None:
                claims = json.loads(base64.urlsafe_b64decode(token[1] + "=" * (-len(token[1]) % 4)))
                tags = dict(tag.split(":", 1) for tag in claims.get("nats", {}).get("tags", []) if ":" in tag)
        except OSError as error:
            raise Refused(f"credentials at {creds_path} cannot be read: {error.strerror}") from error
        except (ValueError, AttributeError, TypeError) as error:
            raise Refused(f"credentials at {creds_path} are damaged: copy the file again") from error
    if "fleet" in tags:
        return f"{tags['fleet']}/{tags['name']}", agent_inbox(tags["node"], tags["fleet"], tags["name"])
    if "node" in tags:
        return tags["node"], f"_INBOX.node.{tags['node']}"
    name = tags.get("name") or uuid.uuid4().hex[:12]
    return f"client {name}", f"_INBOX.client.{name}"
