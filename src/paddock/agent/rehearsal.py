"""A rehearsal in the warm image: short lives of an agent, before any is forked, with a stand-in for broker and node.

Every page of the image that a fork writes to is copied for it, and costs time and memory in each agent. Much of what a
first life writes is the same in every process: modules and types made when first used, code that the interpreter
adapts to what it sees, caches. Rehearsed once in the image, the agents share it (measured with Python 3.11: 5.1 MB of
private memory an agent instead of 6.1). What remains is written anew in each: reference counts, all over the image.

Nothing of the author's is run here: his `__init__` and `start` belong to the agent's own process.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

import msgspec
import uvloop

from paddock.agent.base import Agent, task
from paddock.agent.runner import Runner, Who
from paddock.fabric import subjects
from paddock.fabric.client import connect
from paddock.fabric.identity import nobody
from paddock.model.fleet import FleetSpec
from paddock.model.task import Task
from paddock.ports.fabric import Fabric

LIVES = 8
"""The interpreter adapts code that ran eight times."""
LIVES_S_MAX = 5.0
_FLEET = FleetSpec(name="rehearsal", runtime="python", agent="paddock.agent.rehearsal:Stand")


class Stand(Agent):
    """Who lives in the rehearsal."""

    lived = 0
    """Lives in which its task was done."""

    @task
    async def noop(self, payload: str = "") -> None:
        """One task is done in each life."""
        Stand.lived += 1


def rehearse(lives: int = LIVES) -> None:
    """Live `lives` short lives. Leaves no thread, no descriptor, and no signal handler behind."""
    creds = nobody()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_lives(lives, creds))


async def _lives(lives: int, creds: str) -> None:
    loop = asyncio.get_running_loop()
    node_path = f"\0paddock-rehearsal-{os.getpid()}-{os.urandom(8).hex()}"  # abstract: no file is left behind
    node = await loop.create_unix_server(_Node, node_path)
    listening = socket.create_server(("127.0.0.1", 0))  # a host's name here would start the loop's resolver threads
    broker = await loop.create_server(_Broker, sock=listening)
    url = f"nats://127.0.0.1:{listening.getsockname()[1]}"
    try:
        async with asyncio.timeout(LIVES_S_MAX):
            for epoch in range(1, lives + 1):
                await _life(url, creds, node_path, epoch)
    finally:
        for server in (node, broker):
            server.close()


async def _life(url: str, creds: str, node_path: str, epoch: int) -> None:
    inbox = subjects.agent_inbox("rehearsal", _FLEET.name, "0", epoch)
    env = {
        "PADDOCK_AGENT": f"{_FLEET.name}/0",
        "PADDOCK_EPOCH": str(epoch),
        "PADDOCK_NATS_URL": url,
        "PADDOCK_INBOX": inbox,
        "PADDOCK_SOCKET": node_path,
    }
    who = Who.read(env)

    async def connected() -> Fabric:
        return await connect(who.url, creds=creds, inbox=who.inbox, name=f"{who.fleet}/{who.name}")

    runner = Runner(Stand, _FLEET, who, connected)
    _Broker.acknowledged = runner.drain
    await runner.run()


YOUNG = 4e9
"""Unix seconds, after any rehearsal."""


class _Node(asyncio.Protocol):
    """Takes every line and says nothing."""


class _Broker(asyncio.Protocol):
    """Speaks as much of the NATS protocol as an agent hears in its first minute: one task, then nothing."""

    acknowledged: Callable[[], None] = staticmethod(lambda: None)
    """Called when the task was acknowledged."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._rest = b""
        self._listens: dict[str, str] = {}
        self._served = False
        info = {"server_id": "rehearsal", "version": "0", "nonce": "rehearsal", "max_payload": 1 << 20}
        self._transport.write(b"INFO %b\r\n" % msgspec.json.encode(info))

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        while (end := data.find(b"\r\n")) >= 0:
            verb, *words = data[:end].decode().split(" ")
            size = int(words[-1]) + 2 if verb in ("PUB", "HPUB") else 0
            if len(data) < end + 2 + size:
                break
            payload, data = data[end + 2 : end + 2 + size], data[end + 2 + size :]
            self._take(verb, words, payload)
        self._rest = data

    def _take(self, verb: str, words: list[str], payload: bytes) -> None:
        if verb == "PING":
            self._transport.write(b"PONG\r\n")
        elif verb == "SUB":
            self._listens[words[0]] = words[-1]
        elif verb == "UNSUB":
            self._listens = {subject: sid for subject, sid in self._listens.items() if sid != words[0]}
        elif verb in ("PUB", "HPUB") and words[0].startswith("$JS.ACK."):
            asyncio.get_running_loop().call_soon(self.acknowledged)
        elif verb in ("PUB", "HPUB") and len(words) > (2 if verb == "PUB" else 3):
            self._answer(words[0], words[1], payload)

    def _answer(self, subject: str, reply: str, payload: bytes) -> None:
        say = partial(self._say, reply)
        if subject.startswith("$JS.API.CONSUMER.MSG.NEXT.") and b'"expires"' in payload:
            if not self._served:
                self._served = True
                self._hand_out(reply)
        elif subject.startswith("$JS.API."):
            say(b"", b"NATS/1.0 404 No Messages\r\n\r\n")
        else:
            say(b'{"stream":"RESULTS","seq":1}')

    def _hand_out(self, reply: str) -> None:
        # Queued after the connection began, as most are: else its agent would first ask its node who else holds it.
        work = Task(id="rehearsal", fleet=_FLEET.name, method="noop", submitted_at=YOUNG)
        ack = f"$JS.ACK.{subjects.work_stream(_FLEET.name)}.p2.1.1.1.1.0"
        self._say(reply, msgspec.json.encode(work), subject=subjects.work(work), ack=ack)

    def _say(self, to: str, data: bytes, headers: bytes = b"", *, subject: str = "", ack: str = "") -> None:
        """A message to who listens at `to`: there, or at `<its beginning>.*`."""
        sid = self._listens.get(to) or self._listens.get(f"{to.rpartition('.')[0]}.*")
        if sid is None:
            return
        head = f"{'HMSG' if headers else 'MSG'} {subject or to} {sid} {ack + ' ' if ack else ''}"
        sizes = f"{len(headers)} {len(headers) + len(data)}" if headers else f"{len(data)}"
        self._transport.write(f"{head}{sizes}\r\n".encode() + headers + data + b"\r\n")
