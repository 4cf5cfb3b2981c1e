"""One app over a control in memory, called in this process; `server` is the same one on a real port."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from paddock.api.app import create_app
from paddock.api.log import make_log
from paddock.api.serve import bind, serve
from paddock.testing.control import FakeControl

from .helpers import AUTH, TOKEN, Running


@pytest.fixture
async def control() -> FakeControl:
    fake = FakeControl()
    fake.add_fleet("critic", 2, capabilities=["review"])
    fake.add_fleet("executor", 3)
    return fake


@pytest.fixture
def log_file() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def app(control: FakeControl, log_file: io.StringIO) -> FastAPI:
    return create_app(control, token=TOKEN, version="1.2.3", heartbeat_s=0.01, log=make_log(log_file))


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=AUTH) as client:
        yield client


@pytest.fixture
async def server(app: FastAPI) -> AsyncIterator[Running]:
    sock = bind("127.0.0.1", 0)
    port, stopping = sock.getsockname()[1], asyncio.Event()
    task = asyncio.create_task(serve(app, port=port, sock=sock, stopping=stopping), name="server under test")
    running = Running(port, task, stopping)
    yield running
    await running.stop()
