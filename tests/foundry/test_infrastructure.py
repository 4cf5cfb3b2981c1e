"""The agent that watches the machine: what it sees, what it does, and what it says it may not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.agent import TaskError
from paddock.foundry import Infrastructure, infrastructure
from paddock.foundry.infrastructure import LIMITS, OLD_LOG_S, find_data, limits_of, open_files


class State:
    """What an agent saves; `hangs` and `error` are what a broker may do instead."""

    def __init__(self) -> None:
        self.saved: dict[str, Any] = {}
        self.error: Exception | None = None
        self.hangs = False

    async def put(self, key: str, value: Any) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        self.saved[key] = value


class Log:
    def info(self, text: str, **more: Any) -> None:
        pass


class Watch(Infrastructure):
    """With a life of its own: no node, no fabric."""

    config: Any = {}  # noqa: RUF012  # stands in for a property
    log: Any = Log()
    state: Any = State()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory; the agent works in a folder of it."""
    here = tmp_path / "data" / "agents" / "watch" / "0"
    here.mkdir(parents=True)
    (tmp_path / "data" / "run").mkdir()
    (tmp_path / "data" / "run" / "fabric.json").write_text(json.dumps({"pid": 2**30}))
    monkeypatch.chdir(here)
    return tmp_path / "data"


@pytest.fixture
async def agent(data: Path) -> Watch:
    watch = Watch()
    watch.state = State()
    await watch.start()
    return watch


@contextlib.asynccontextmanager
async def listening(hello: bytes) -> AsyncIterator[str]:
    """The address of a service that greets with this, until whoever came has gone."""
    gone = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hello)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        gone.set()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await gone.wait()


def found(told: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {finding["part"]: finding for finding in told}


async def test_it_looks_at_every_part_and_says_the_limit(agent: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(b'INFO {"server_id":"x"}\r\n') as url:
        monkeypatch.setenv("PADDOCK_NATS_URL", url)
        told = found(await agent.look())
    assert list(told) == ["cpu", "memory", "disk", "files", "clock", "broker"]
    for part in ("cpu", "memory", "disk", "files"):
        assert 0.0 <= told[part]["value"] <= 100.0
        assert told[part]["limit"] == LIMITS[part]
        assert told[part]["text"].endswith(f"{LIMITS[part]:.0f} % are the limit")
        assert told[part]["bad"] == (told[part]["value"] >= LIMITS[part])
    assert (told["broker"]["bad"], told["clock"]["bad"]) == (False, False)
    assert "looked" in agent.state.saved


async def test_full_parts_are_bad_and_kept_in_its_history(agent: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_NATS_URL", "nats://127.0.0.1:1")
    agent._limits = dict.fromkeys(LIMITS, 0.0)
    told = found(await agent.look())
    assert all(told[part]["bad"] for part in ("cpu", "memory", "disk", "files", "broker"))
    assert told["broker"]["text"].startswith("the broker does not answer: ")
    [noted] = await agent.history()
    assert noted["what"] == "seen"
    assert "of memory is used" in noted["text"]


@pytest.mark.parametrize(
    ("hello", "state", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", {}, "does not greet as one"),
        (b"INFO {}\r\n", {"error": RuntimeError("no space left")}, "takes no write: no space left"),
        (b"INFO {}\r\n", {"hangs": True}, "does not take a write within"),
        (b"", {}, "does not take a write within"),
    ],
    ids=["another service", "full", "hangs at a write", "hangs at once"],
)
async def test_a_broker_that_is_there_and_does_not_work_is_bad(
    agent: Watch, monkeypatch: pytest.MonkeyPatch, hello: bytes, state: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(infrastructure, "ANSWER_S_MAX", 0.2)
    for name, value in state.items():
        setattr(agent.state, name, value)
    async with listening(hello) as url:
        monkeypatch.setenv("PADDOCK_NATS_URL", url)
        told = found(await agent.look())["broker"]
    assert told["bad"]
    assert said in told["text"]


async def test_a_clock_that_was_set_is_told_once(agent: Watch) -> None:
    agent._offset_s -= 3600.0
    told = agent._clock()
    assert (told["bad"], told["text"]) == (True, "the clock was set by +3600.0 s")
    assert agent._clock()["bad"] is False


# --- doing


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is called as the broker is."""
    path = tmp_path / "nats-server"
    path.symlink_to("/bin/sleep")
    with subprocess.Popen([str(path), "600"]) as process:
        yield process
        process.kill()


def test_the_broker_is_ended_and_nobody_else(data: Path, victim: subprocess.Popen[bytes]) -> None:
    async def act() -> tuple[Any, Any]:
        agent = Watch()
        await agent.start()
        (data / "run" / "fabric.json").write_text(json.dumps({"pid": os.getpid()}))
        refused = agent.act("restart-broker")
        (data / "run" / "fabric.json").write_text(json.dumps({"pid": victim.pid}))
        return refused, agent.act("restart-broker")

    refused, done = asyncio.run(act())
    assert refused["ok"] is False
    assert "not the broker" in refused["detail"]
    assert done["ok"] is True
    assert victim.wait(10) == -9


@pytest.mark.parametrize("text", ["", "{", "{}", '{"pid": null}', '{"pid": "x"}', '{"pid": 1073741824}'])
async def test_where_the_broker_is_not_known_nothing_is_ended(agent: Watch, data: Path, text: str) -> None:
    (data / "run" / "fabric.json").write_text(text)
    told = agent.act("restart-broker")
    assert told["ok"] is False
    assert told["detail"].startswith("not permitted or not possible here: ")


async def test_old_rotated_logs_go_and_nothing_else(agent: Watch, data: Path) -> None:
    folder = data / "logs"
    folder.mkdir()
    old, new, current, other = (folder / name for name in ("a.log.1", "b.log.2", "a.log", "notes.txt"))
    for path in (old, new, current, other):
        path.write_bytes(b"x" * 1_000_000)
    long_ago = old.stat().st_mtime - OLD_LOG_S - 60
    for path in (old, current, other):
        os.utime(path, (long_ago, long_ago))
    assert agent.act("clean-data") == {"ok": True, "detail": "1 rotated logs removed, 1.0 MB"}
    assert [path.exists() for path in (old, new, current, other)] == [False, True, True, True]


async def test_caches_are_dropped_where_that_is_permitted(
    agent: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infrastructure, "DROP_CACHES", tmp_path / "drop_caches")
    assert agent.act("drop-caches")["ok"] is True
    assert (tmp_path / "drop_caches").read_text() == "1\n"
    monkeypatch.setattr(infrastructure, "DROP_CACHES", tmp_path / "no" / "such" / "file")
    told = agent.act("drop-caches")
    assert told["ok"] is False
    assert [entry["what"] for entry in await agent.history()] == ["drop-caches", "drop-caches"]


async def test_what_it_does_not_know_it_does_not_do(agent: Watch) -> None:
    with pytest.raises(TaskError, match="none of restart-broker, drop-caches, clean-data"):
        agent.act("rm -rf /")


def test_off_the_machine_of_the_data_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_data(tmp_path) is None

    async def act() -> list[Any]:
        agent = Watch()
        await agent.start()
        return [agent.act("restart-broker"), agent.act("clean-data")]

    for told in asyncio.run(act()):
        assert (told["ok"], "is not on this machine" in told["detail"]) == (False, True)


# --- settings


def test_limits_are_those_of_the_fleet_over_the_usual_ones() -> None:
    assert limits_of({}) == LIMITS
    assert limits_of({"limits": None}) == LIMITS
    assert limits_of({"limits": {"disk": 95}}) == {**LIMITS, "disk": 95}


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"dsk": 95}, "config.limits has dsk; known are cpu, memory"),
        ({"disk": "95 %"}, "config.limits.disk is '95 %'; it must be a number over 0"),
        ({"disk": True}, "must be a number over 0"),
        ({"disk": 0}, "must be a number over 0"),
        ({"disk": float("nan")}, "must be a number over 0"),
        ([95], "config.limits is no mapping"),
    ],
)
def test_limits_that_are_none_are_refused_when_it_starts(limits: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        limits_of({"limits": limits})


def test_the_share_of_open_files_is_one() -> None:
    assert 0.0 <= open_files() <= 100.0
