"""The syncer of a broker without a Paddock, as a process: `python -m tests.power.syncing FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from paddock.fabric import embedded
from paddock.fabric.client import connect
from paddock.fabric.identity import Identities
from paddock.fabric.syncer import Syncer


async def main(folder: Path) -> None:
    identities = Identities.open(folder / "keys")
    url = f"nats://127.0.0.1:{(folder / 'nats.port').read_text()}"
    creds = identities.minter("server").creds("server", {})
    fabric = await connect(url, creds=creds, inbox="_INBOX.server.sync", name="sync", wait=True)
    syncer = Syncer(fabric, embedded.streams_folder(folder, identities))
    try:
        await asyncio.Event().wait()
    finally:
        syncer.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
