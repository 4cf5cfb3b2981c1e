"""Probes against real servers that misbehave, real processes and real logs."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paddock.agent.clock import HostClock
from paddock.agent.owner import Owner
from paddock.model.fleet import FleetSpec, Logs
from paddock.model.health import Probe
from paddock.node import checks, logs, probes, web
from paddock.node.leftovers import Leftovers
from paddock.ports.runtime import Usage
from paddock.testing.runtime_contract import alive
from paddock.testing.wait import soon

LIMIT_S = 20.0
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    """A server on a free port."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except OSError:
            pass  # the prober has heard enough
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answering(*answers: bytes) -> Serve:
    """The first answer to the first request, and so on; the last to all that follow."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    return serve


@pytest.mark.parametrize(
    ("answer", "match", "wrong"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nall well", "well", ""),
        (b"HTTP/1.1 200 OK\r\n\r\nerror: no database", "well", "without the pattern"),
        (b"HTTP/1.1 500 Oh\r\n\r\nall well", "well", "answered 500"),
        (b"HTTP/1.1 404 No\r\n\r\n", "", "answered 404"),
        (b"HTTP/1.1 304 Same\r\n\r\n", "", ""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", "", ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n5\r\n well\r\n0\r\n\r\n", "^all well$", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nall well", "all", ""),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\nall", "all", "did not answer with HTTP"),
        (b"SSH-2.0\r\n", "", "did not answer with HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "", "did not answer with HTTP"),
        (b"", "", "did not answer with HTTP"),
    ],
)
async def test_an_answer_is_judged_by_its_status_and_its_body(answer: bytes, match: str, wrong: str) -> None:
    async with serving(answering(answer)) as port:
        problem = await web.get(f"http://127.0.0.1:{port}/health", LIMIT_S, match=match)
        assert wrong in problem
        assert bool(problem) == bool(wrong)


async def test_a_circle_of_redirects_and_a_long_way_round_fail_and_a_short_one_is_followed() -> None:
    there = b"HTTP/1.1 302 Found\r\nLocation: /there\r\n\r\n"
    away = b"HTTP/1.1 301 Moved\r\nLocation: http://192.0.2.1/\r\n\r\n"
    async with serving(answering(there, b"HTTP/1.1 503 No\r\n\r\n")) as port:
        assert await web.get(f"http://127.0.0.1:{port}/", LIMIT_S) == f"http://127.0.0.1:{port}/there answered 503"
    async with serving(answering(there)) as port:
        assert "in a circle" in await web.get(f"http://127.0.0.1:{port}/there", LIMIT_S)
        assert await web.get(f"http://127.0.0.1:{port}/there", LIMIT_S, follow=False) == ""
    ways = [b"HTTP/1.1 302 Found\r\nLocation: /%d\r\n\r\n" % number for number in range(9)]
    async with serving(answering(*ways)) as port:
        assert "more than 3 times" in await web.get(f"http://127.0.0.1:{port}/", LIMIT_S)
    async with serving(answering(away)) as port:
        assert await web.get(f"http://127.0.0.1:{port}/", LIMIT_S) == "", "that it sends elsewhere is an answer"


async def test_an_answer_of_ten_megabytes_is_cut() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(100):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000
        writer.write(b"needle")

    async with serving(serve) as port:
        problem = await web.get(f"http://127.0.0.1:{port}/", LIMIT_S, match="needle")
        assert "without the pattern in the first 64 kB" in problem
    assert sent < 10_000_000, "it was not read to its end"


async def test_a_stream_without_an_end_and_a_server_without_an_answer_are_cut_by_time() -> None:
    over = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntick\r\n")
        await over.wait()

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()

    async with serving(stream) as port, serving(silence) as deaf:
        url = f"http://127.0.0.1:{port}/"
        assert await web.get(url, LIMIT_S) == "", "its status is all that was asked for"
        assert "in what came in time" in await web.get(url, 0.2, match="tock")
        assert await web.get(url, 0.2, match="tick") == ""
        assert "did not answer within 0.2 s" in await web.get(f"http://127.0.0.1:{deaf}/", 0.2)
        over.set()


@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "http://127.0.0.1:{port}/", "http://127.0.0.1:1/", "http://ä ö/"]
)
async def test_an_address_that_is_none_is_a_failure_and_no_error(url: str) -> None:
    assert await web.get(url, LIMIT_S)


async def test_tcp_says_whether_somebody_listens() -> None:
    async with serving(answering(b"")) as port:
        assert await checks.tcp(f"127.0.0.1:{port}", LIMIT_S) == ""
    assert "127.0.0.1:1" in await checks.tcp("127.0.0.1:1", LIMIT_S)
    assert "is not host:port" in await checks.tcp("127.0.0.1", LIMIT_S)


def check(text: str, folder: Path, *, timeout_s: float = LIMIT_S) -> checks.Check:
    command = ["/bin/sh", "-c", text]
    env = {"PATH": os.environ["PATH"], "KEY": "s3cr3t-of-mine"}
    return checks.Check(command=command, cwd=str(folder), env=env, user="", timeout_s=timeout_s, secrets=[env["KEY"]])


async def test_a_command_passes_with_0_and_else_says_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    assert await checks.run(check("test -f mark", tmp_path)) == ""
    assert (
        await checks.run(check("echo no mark; echo $KEY >&2; exit 3", tmp_path))
        == "sh ended with 3: no mark [redacted]"
    )
    assert "killed by signal 9" in await checks.run(check("kill -9 $$", tmp_path))
    missing = checks.Check(command=["/no/such"], cwd=str(tmp_path), env={}, user="", timeout_s=LIMIT_S)
    assert "No such file" in await checks.run(missing)


async def test_a_command_whose_time_is_over_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    text = "sleep 1000 & echo $! $$ > pids.new; mv pids.new pids; wait"
    asked = asyncio.create_task(checks.run(check(text, tmp_path, timeout_s=3.0)))
    assert "did not end within 3 s" in await asked
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]

    async def both_dead() -> bool:
        return not any(alive(pid) for pid in pids)

    await soon(both_dead, what="both are dead")


@pytest.fixture
def subreaper() -> Iterator[None]:
    """What loses its parent becomes a child of this process, as it does with a node."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


async def test_what_a_probe_started_in_a_session_of_its_own_is_ended_too(subreaper: None, tmp_path: Path) -> None:
    away = "setsid sh -c 'echo $$ > pid.new; mv pid.new pid; exec sleep 1000' >/dev/null 2>&1 &"
    text = f"{away} while [ ! -f pid ]; do sleep 0.02; done"
    agent: Any = SimpleNamespace(
        id="bot/0",
        running=FleetSpec(name="bot", runtime="exec", command=["true"], cwd=str(tmp_path)),
        row=SimpleNamespace(ports={}),
    )
    leftovers = Leftovers(Owner(lambda name, error: None), HostClock(), subreaper=True)
    probe = Probe(name="away", kind="exec", command=["/bin/sh", "-c", text], timeout_s=LIMIT_S)
    assert await probes.ask(probe, agent, leftovers) == ""
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid), "it left the group of the probe"
    await leftovers.end_probes()
    assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == signal.SIGKILL


async def test_a_command_that_prints_without_end_fills_nothing_and_is_ended_by_time(tmp_path: Path) -> None:
    assert "did not end within" in await checks.run(check("yes", tmp_path, timeout_s=1.0))
    assert list(tmp_path.iterdir()) == []


def test_only_new_lines_of_a_log_count_also_after_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    path.write_text("FATAL before it was watched\n")
    watch = checks.LogWatch(str(path))
    assert watch.look("FATAL") == ""
    with path.open("a") as file:
        file.write("well\nFATAL: disk password=hunter22 gone\nFAT")
        file.flush()
        assert watch.look("FATAL") == "its log says: FATAL: disk password=[redacted]"
        assert watch.look("FATAL") == "", "what was seen once is old"
        file.write("AL again\n")
        file.flush()
        assert "FATAL again" in watch.look("FATAL"), "a line that was half there is seen when it is whole"
    logs.rotate(str(path), Logs(max_bytes=1000, keep=1))
    with path.open("a") as file:
        file.write("FATAL after\n")
    assert "FATAL after" in watch.look("FATAL")
    path.unlink()
    assert watch.look("FATAL") == ""


def test_of_a_flooded_log_the_newest_part_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    watch = checks.LogWatch(str(path))
    path.write_bytes(b"FATAL first\n" + b"x" * (2 * checks.LOG_BYTES_MAX) + b"\nFATAL last\n")
    assert "FATAL last" in watch.look("FATAL")
    with path.open("ab", buffering=0) as file:
        file.write(b"y" * (2 * checks.LOG_BYTES_MAX))
        assert watch.look("FATAL") == ""
        file.write(b"FATAL\n")
        assert watch.look("FATAL")


def test_a_metric_above_its_threshold_fails_and_an_unknown_one_does_not() -> None:
    probe = Probe(name="m", kind="metric", metric="memory_bytes", above=100e6)
    assert checks.metric(probe, Usage(memory_bytes=150_000_000)) == "memory is at 150 MB, above 100 MB"
    assert checks.metric(probe, Usage(memory_bytes=100_000_000)) == ""
    assert checks.metric(probe, Usage()) == ""
    assert checks.metric(probe, None) == ""
    files = Probe(name="f", kind="metric", metric="open_files", above=10)
    assert checks.metric(files, Usage(open_files=11)) == "open_files is 11, above 10"
