"""A real nats-server for a test, with its syncer and connections by role."""

from __future__ import annotations

from pathlib import Path

from paddock.fabric import embedded, subjects
from paddock.fabric.client import NatsFabric, connect
from paddock.fabric.identity import Identities
from paddock.fabric.syncer import Syncer
from paddock.model.errors import Unavailable


class RealBroker:
    """A nats-server of its own folder. Its connections must be closed and it stopped by `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: embedded.EmbeddedServer | None = None
        self.connections: list[NatsFabric] = []
        self._syncer: tuple[Syncer, NatsFabric] | None = None

    @property
    def identities(self) -> Identities:
        return Identities.open(self.folder / "keys")

    async def start(self, *, durability: str = "always") -> None:
        self.server = await embedded.start(self.folder, durability=durability)
        if self._syncer is None:  # it goes on when the broker is started anew
            await self.start_syncer()

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop()

    async def start_syncer(self) -> None:
        fabric = await self.connect()
        self.connections.remove(fabric)
        self._syncer = Syncer(fabric, embedded.streams_folder(self.folder, self.identities)), fabric

    async def stop_syncer(self) -> None:
        if self._syncer is not None:
            (syncer, fabric), self._syncer = self._syncer, None
            syncer.close()
            await fabric.close()

    async def close(self) -> None:
        await self.stop_syncer()
        for connection in self.connections:
            await connection.close()
        await self.stop()

    async def connect(self, creds: str = "", inbox: str = "_INBOX.server") -> NatsFabric:
        if self.server is None:
            raise Unavailable("start the broker first")
        creds = creds or self.identities.minter("server").creds("server", {})
        self.connections.append(await connect(self.server.url, creds=creds, inbox=inbox, name="test"))
        return self.connections[-1]

    async def agent(self, fleet: str, name: str) -> NatsFabric:
        creds = self.identities.minter("agent").agent("here", fleet, name)
        return await self.connect(creds, subjects.agent_inbox("here", fleet, name, 1))

    async def node(self, node: str) -> NatsFabric:
        return await self.connect(self.identities.minter("node").creds(node, {"node": node}), f"_INBOX.node.{node}")
