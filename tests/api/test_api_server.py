"""The edge on a real port: streams, bodies in chunks, hosts, ports, and an orderly stop."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from paddock.api.serve import Server, ServerEnded, bind, config_of, run, serve
from paddock.control.service import Change
from paddock.model.errors import Refused, Unavailable
from paddock.testing.control import FakeControl

from .helpers import AUTH, Running, turn_until


@pytest.fixture
async def client(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, headers=AUTH, timeout=30) as client:
        yield client


class Events:
    """Reads server-sent events off an answer."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def block(self) -> list[str]:
        """The lines up to the next empty one; none at the end of the stream."""
        lines: list[str] = []
        async with asyncio.timeout(20):
            async for line in self._lines:
                if not line:
                    return lines
                lines.append(line)
        return lines

    async def event(self) -> list[str]:
        """The next that is no comment."""
        while (lines := await self.block()) and all(line.startswith(":") for line in lines):
            pass
        return lines


async def test_changes_arrive_as_events_with_id_kind_and_data(client: httpx.AsyncClient, control: FakeControl) -> None:
    async with client.stream("GET", "/api/v1/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = Events(answer)
        assert await events.block() == ["retry: 1000", ": open"]
        control.publish(Change(id=17, kind="agent", data=control.agent("critic/0")))
        name, kind, data = await events.event()
        assert (name, kind) == ("id: 17", "event: agent")
        assert json.loads(data.removeprefix("data: "))["id"] == "critic/0"
    await turn_until(lambda: not control.readers)


async def test_a_silent_stream_has_a_heartbeat(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/api/v1/events") as answer:
        events = Events(answer)
        await events.block()
        assert await events.block() == [": alive"]
        assert await events.block() == [": alive"]


async def test_a_reader_that_fell_behind_is_told_and_the_stream_ends(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    async with client.stream("GET", "/api/v1/events") as answer:
        events = Events(answer)
        await events.block()
        control.publish(Change(id=1, kind="node", data={}))
        control.lose(control.readers[0])
        assert (await events.event())[1] == "event: node"
        assert (await events.event())[0] == "event: lost"
        assert await events.event() == []


async def test_a_reader_that_reconnects_is_told_that_it_missed_changes(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/api/v1/events", headers={"Last-Event-ID": "5"}) as answer:
        events = Events(answer)
        await events.block()
        assert (await events.event())[0] == "event: lost"


async def test_a_failure_within_the_stream_breaks_it_off(client: httpx.AsyncClient, control: FakeControl) -> None:
    async with client.stream("GET", "/api/v1/events") as answer:
        events = Events(answer)
        await events.block()
        control.publish(Change(id=1, kind="node", data=object()))
        with pytest.raises(httpx.RemoteProtocolError):
            await events.event()


async def test_the_stop_ends_open_streams_and_waits_and_frees_the_port(
    client: httpx.AsyncClient, control: FakeControl, server: Running
) -> None:
    view = (await client.post("/api/v1/tasks", json={"fleet": "critic", "method": "review"})).json()
    asking = asyncio.create_task(client.get(f"/api/v1/tasks/{view['id']}", params={"wait_s": 300}))
    async with client.stream("GET", "/api/v1/events") as answer:
        events = Events(answer)
        await events.block()
        await turn_until(lambda: control.waiters)
        await server.stop()
        assert (await events.event())[0] == "event: stopping"
        assert await events.event() == []
    assert (await asking).json()["state"] == "queued"
    assert (control.readers, control.waiters) == ([], 0)
    bind("127.0.0.1", server.port).close()


async def test_a_caller_that_hangs_up_ends_its_wait(
    client: httpx.AsyncClient, control: FakeControl, server: Running
) -> None:
    await client.post("/api/v1/tasks", json={"fleet": "critic", "method": "review"})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = (
        f"GET /api/v1/tasks/t1?wait_s=300 HTTP/1.1\r\nHost: localhost\r\nAuthorization: {AUTH['Authorization']}\r\n\r\n"
    )
    writer.write(head.encode())
    await turn_until(lambda: control.waiters)
    writer.close()
    await writer.wait_closed()
    await turn_until(lambda: not control.waiters)
    assert await reader.read() == b""


async def test_a_caller_that_hangs_up_within_its_body_is_no_error(
    server: Running, control: FakeControl, log_file: io.StringIO
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: {AUTH['Authorization']}\r\n"
    writer.write(head.encode() + b'Content-Length: 50\r\n\r\n{"fleet": ')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await turn_until(lambda: "/api/v1/tasks" in log_file.getvalue())
    assert json.loads(log_file.getvalue())["status"] == 0
    assert not control.views


async def _send_raw(port: int, data: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(30):
            answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


async def test_an_endless_body_in_chunks_is_answered_before_its_end(server: Running) -> None:
    head = f"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: {AUTH['Authorization']}\r\n"
    chunk = b"186A0\r\n" + b" " * 100_000 + b"\r\n"
    status, body = await _send_raw(server.port, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 30)
    assert status == 413  # and the last chunk, which says that the body is whole, was never sent
    assert json.loads(body)["type"] == "urn:paddock:problem:too-large"


async def test_a_body_that_is_announced_as_too_large_is_not_waited_for(server: Running) -> None:
    head = f"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: {AUTH['Authorization']}\r\n"
    status, _ = await _send_raw(server.port, head.encode() + b"Content-Length: 9000000000\r\n\r\n")
    assert status == 413


async def test_a_foreign_host_is_refused_on_the_wire_too(server: Running) -> None:
    status, body = await _send_raw(
        server.port, b"GET /healthz HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n"
    )
    assert (status, json.loads(body)["status"]) == (421, 421)


def test_a_taken_port_is_said_with_who_has_it_and_what_to_do() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"port {port} is taken \(by pid {os.getpid()}, .*\); use --port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", 70_000, "not a port"),
        ("127.0.0.1", -1, "not a port"),
        ("203.0.113.7", 0, "not an address of this machine"),
        ("no such host", 0, "--host"),
    ],
)
def test_a_place_where_nobody_can_listen_is_refused(host: str, port: int, words: str) -> None:
    with pytest.raises(Refused, match=words):
        bind(host, port)


async def test_serve_binds_by_itself_and_takes_a_version_6_address(app: FastAPI) -> None:
    try:
        sock = bind("::1", 0)
    except (Refused, Unavailable):  # a machine without IPv6: then the same on version 4
        sock = bind("127.0.0.1", 0)
    host, port = sock.getsockname()[:2]
    sock.close()
    stopping = asyncio.Event()
    task = asyncio.create_task(serve(app, host=host, port=port, stopping=stopping), name="server under test")
    shown = f"[{host}]" if sock.family is socket.AF_INET6 else host
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=5)) as client:
        assert (await client.get(f"http://{shown}:{port}/healthz")).status_code == 200
    stopping.set()
    await task


class EndsAtOnce(Server):
    async def main_loop(self) -> None:
        return


async def test_a_server_that_ends_by_itself_is_an_error(app: FastAPI) -> None:
    with pytest.raises(ServerEnded):
        await run(EndsAtOnce(config_of(app)), bind("127.0.0.1", 0), asyncio.Event())
