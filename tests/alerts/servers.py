"""Real servers on loopback that take messages, refuse them, hang, break off, talk nonsense, or talk for ever."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port on which `handler` serves connections; all end with it."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the other side has had enough
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# -- of any protocol ---------------------------------------------------------------------------------------------------


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xff\xfe nonsense \r\n\r\n" * 20)
    await writer.drain()
    await reader.read(100_000)


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A line without an end."""
    while True:
        writer.write(b"2" * 65_536)
        await writer.drain()


# -- HTTP --------------------------------------------------------------------------------------------------------------


class Http:
    """Reads requests and answers them with `status` and `body`."""

    def __init__(self, status: int = 200, body: bytes = b'{"ok": true}', *, headers: str = "") -> None:
        self.status, self.body, self.headers = status, body, headers
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        """(path, headers, JSON)"""
        self.statuses: dict[str, int] = {}
        """text in the request's body → the status for it, instead"""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            data = await reader.readexactly(int(headers.get("content-length", "0")))
            self.requests.append((first.split()[1], headers, json.loads(data)))
            status = next((code for text, code in self.statuses.items() if text in data.decode()), self.status)
            length = f"Content-Length: {len(self.body)}\r\n{self.headers}\r\n"
            writer.write(f"HTTP/1.1 {status} Said\r\n{length}".encode() + self.body)
            await writer.drain()


async def http_endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A good status, and a body that never ends."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await endless_chunks(writer)


async def endless_chunks(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        await writer.drain()


# -- SMTP --------------------------------------------------------------------------------------------------------------


class Smtp:
    """Speaks just enough to refuse at one point: `answers` by command, such as {"RCPT": "550 no"}."""

    def __init__(self, **answers: str) -> None:
        self.answers = {
            "GREETING": "220 here",
            "EHLO": "250-here\r\n250 AUTH PLAIN LOGIN",
            "MAIL": "250 ok",
            "RCPT": "250 ok",
            "DATA": "354 go on",
            "END": "250 ok",
            "AUTH": "235 ok",
            "QUIT": "221 bye",
            "RSET": "250 ok",
        } | answers

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{self.answers['GREETING']}\r\n".encode())
        in_data = False
        while line := await reader.readline():
            word = line.decode().strip().partition(" ")[0].upper()
            if in_data:
                if line != b".\r\n":
                    continue
                word, in_data = "END", False
            answer = self.answers.get(word, "502 what?")
            in_data = word == "DATA" and answer.startswith("354")
            writer.write(f"{answer}\r\n".encode())
            await writer.drain()
            if word == "QUIT":
                return


class Mailbox:
    """A handler for aiosmtpd that keeps what came."""

    def __init__(self, *refused: str) -> None:
        self.letters: list[tuple[list[str], Any]] = []
        self.logins: list[tuple[str, str]] = []
        self.refused = refused

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refused:
            return "550 no such address"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.letters.append((list(envelope.rcpt_tos), message_from_bytes(envelope.content, policy=default)))
        return "250 OK"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> AuthResult:
        self.logins.append((login.login.decode(), login.password.decode()))
        return AuthResult(success=login.password == b"hunter22-mail")


@asynccontextmanager
async def mail_server(
    box: Mailbox, *, starttls: ssl.SSLContext | None = None, tls: ssl.SSLContext | None = None, auth: bool = False
) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    sessions: list[SMTP] = []

    def make() -> SMTP:
        protocol = SMTP(
            box,
            hostname="mail.test",
            loop=loop,
            tls_context=starttls,
            require_starttls=starttls is not None,
            authenticator=box.authenticate,
            auth_required=auth,
            auth_require_tls=starttls is not None,
        )
        sessions.append(protocol)
        return protocol

    server = await loop.create_server(make, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for protocol in sessions:
            if protocol.transport is not None:
                protocol.transport.close()
            task = protocol._handler_coroutine
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
