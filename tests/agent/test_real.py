"""Agents as processes of their own, with their own tokens, on a real nats-server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from paddock.agent import TaskError, connect
from paddock.agent.calls import TaskOptions
from paddock.fabric import subjects
from paddock.model.fleet import FleetSpec
from paddock.testing.broker import RealBroker

from .world import until

HELLO = FleetSpec(name="hello", runtime="python", agent="hello:Hello", concurrency=4, stop_grace_s=3.0)
EXAMPLES = Path(__file__).parents[2] / "examples"


class Site:
    """A fabric and agents of the example; ends what it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = RealBroker(folder / "fabric")
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        assert self.broker.server is not None
        return self.broker.server.url

    def creds(self, name: str, text: str) -> str:
        path = self.folder / f"{name}.creds"
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def client_creds(self) -> str:
        return self.creds("client", self.broker.identities.minter("client").creds("me", {"name": "me"}))

    def agent(self, name: str) -> subprocess.Popen[bytes]:
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(EXAMPLES),
            "PADDOCK_AGENT": f"hello/{name}",
            "PADDOCK_EPOCH": "1",
            "PADDOCK_NATS_URL": self.url,
            "PADDOCK_CREDS": self.creds(name, self.broker.identities.minter("agent").agent("here", "hello", name)),
            "PADDOCK_INBOX": subjects.agent_inbox("here", "hello", name, 1),
            "PADDOCK_SPEC": msgspec.json.encode(HELLO).decode(),
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "paddock.agent", "hello:Hello"]
            self.processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        return self.processes[-1]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.broker.start()
    server = await site.broker.connect()
    await server.ensure(*subjects.STREAMS, subjects.work_stream_spec(HELLO))
    yield site
    for process in site.processes:
        process.kill()
        process.wait()
    await site.broker.close()


async def test_a_program_has_its_tasks_done_by_agents_in_processes_of_their_own(site: Site) -> None:
    site.agent("0")
    site.agent("1")
    async with await connect(site.url, site.client_creds()) as client:
        limit = TaskOptions(wait_s=20)
        assert await client.run("hello", "greet", name="Ada", options=limit) == "Hello, Ada!"
        assert await client.run("hello/1", "greet", name="Bob", options=limit) == "Hello, Bob!"
        assert await client.run("hello/0", "greet", name="Cy", options=limit) == "Hello, Cy!"
        assert await client.ask("hello/0", "greet", name="Di") == "Hello, Di!"
        assert await client.run("hello", "work", steps=3, options=limit) == 3 * sum(range(10_000))
        with pytest.raises(TaskError) as caught:
            await client.run("hello", "greet", nam="Ada", options=limit)
        assert caught.value.code == "bad-arguments"


async def test_the_state_and_the_tasks_outlive_a_killed_agent(site: Site) -> None:
    first = site.agent("0")
    async with await connect(site.url, site.client_creds()) as client:
        await client.run("hello", "greet", name="Ada", options=TaskOptions(wait_s=20))
        first.kill()
        first.wait()
        task_id = await client.submit("hello", "greet", name="Bob")
        site.agent("0")
        result = await until(lambda: client.task_result(task_id, "hello"))
        assert result.result == "Hello, Bob!"
    server = await site.broker.connect()
    stored = await server.last(subjects.STATE, "$KV.state.hello.0.count")
    assert stored is not None
    assert stored.data == b"2"


async def test_sigterm_ends_an_agent_with_exit_code_0(site: Site) -> None:
    process = site.agent("0")
    async with await connect(site.url, site.client_creds()) as client:
        await client.run("hello", "greet", name="Ada", options=TaskOptions(wait_s=20))
    process.send_signal(signal.SIGTERM)
    assert await until(lambda: process.poll() is not None)
    assert process.returncode == 0


async def test_agents_go_on_after_the_fabric_was_killed(site: Site) -> None:
    site.agent("0")
    async with await connect(site.url, site.client_creds()) as client:
        await client.run("hello", "greet", name="Ada", options=TaskOptions(wait_s=20))
    assert site.broker.server is not None
    os.kill(site.broker.server.pid, signal.SIGKILL)
    await until(lambda: site.broker.server is not None and not site.broker.server.alive())
    await site.broker.start()
    async with await connect(site.url, site.client_creds()) as client:
        assert await client.run("hello", "greet", name="Bob", options=TaskOptions(wait_s=20)) == "Hello, Bob!"
