"""The saved state of one agent: keys in the bucket `state`, which only this agent may write."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec

from paddock.agent.values import BadValue, encoded
from paddock.fabric import subjects
from paddock.model.errors import Refused, TooLarge
from paddock.model.task import PAYLOAD_BYTES_MAX
from paddock.ports.fabric import Fabric

LIST = "~keys"
"""Where the list of keys is kept; no key of an author can have this name."""
KEY = re.compile(r"[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]+)*")


class State:
    """`get`, `put`, `delete`, `keys`; values are JSON. All wait for the fabric."""

    def __init__(self, fabric: Fabric, fleet: str, name: str) -> None:
        self._fabric = fabric
        self._prefix = f"$KV.state.{fleet}.{name}."
        self._known: set[str] | None = None
        self._lock = asyncio.Lock()

    async def get(self, key: str, default: Any = None) -> Any:
        data = await self._read(_checked(key))
        return default if data is None else msgspec.json.decode(data)

    async def put(self, key: str, value: Any) -> None:
        """Return once it is on disk."""
        try:
            data = encoded(value)
        except BadValue as error:
            raise Refused(f"state {key!r} cannot be saved: {error}") from error
        if len(data) > PAYLOAD_BYTES_MAX:
            raise TooLarge(f"state {key!r} has {len(data)} bytes; {PAYLOAD_BYTES_MAX} are allowed")
        await self._list(_checked(key), there=True)
        await self._fabric.store(self._prefix + key, data)

    async def delete(self, key: str) -> None:
        await self._fabric.store(self._prefix + _checked(key), b"", headers={"KV-Operation": "DEL"})
        await self._list(key, there=False)

    async def keys(self) -> list[str]:
        """All keys that have a value."""
        async with self._lock:
            known = sorted(await self._listed())
        return [key for key in known if await self._read(key) is not None]

    async def _list(self, key: str, *, there: bool) -> None:
        """Keep the list of keys. An agent's token lets it read its keys by name, not search the bucket. It is written
        before a value comes and after one went, so that it can name too much, never too little."""
        async with self._lock:
            known = await self._listed()
            wanted = known | {key} if there else known - {key}
            if wanted != known:
                await self._fabric.store(self._prefix + LIST, msgspec.json.encode(sorted(wanted)))
                self._known = wanted

    async def _listed(self) -> set[str]:
        if self._known is None:
            data = await self._read(LIST)
            self._known = set() if data is None else msgspec.json.decode(data, type=set[str])
        return self._known

    async def _read(self, key: str) -> bytes | None:
        stored = await self._fabric.last(subjects.STATE, self._prefix + key)
        return None if stored is None or stored.deleted else stored.data


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise Refused(f"state key {key!r}: use letters, digits, '-', '_', '=' and dots between them")
    return key
