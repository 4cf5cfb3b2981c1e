"""A real HTTP server on loopback that answers canned JSON, and a data directory that says it runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from typer.testing import CliRunner, Result

from paddock.app.data import DataDir
from paddock.cli.main import app


@dataclass
class Call:
    method: str
    path: str
    query: dict[str, str]
    body: Any
    token: str


Answer = Callable[[Call], tuple[int, Any]]


@dataclass
class Paddock:
    """The canned server and the way to call the CLI on it."""

    data: DataDir
    url: str = ""
    calls: list[Call] = field(default_factory=list)
    answers: dict[tuple[str, str], Any] = field(default_factory=dict)

    def on(self, method: str, path: str, answer: Any) -> None:
        """`answer`: the JSON, or (status, JSON), or a function of the call that returns one of them."""
        self.answers[method, path] = answer

    def answer(self, call: Call) -> tuple[int, Any]:
        self.calls.append(call)
        found = self.answers.get((call.method, call.path))
        if callable(found):
            found = found(call)
        if found is None:
            return 404, {"detail": f"there is no {call.path}", "type": "urn:paddock:problem:not-found"}
        return found if isinstance(found, tuple) else (200, found)

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--data", str(self.data.path)])


@contextmanager
def serving(folder: Path) -> Iterator[Paddock]:
    canned = Paddock(DataDir.open(folder / "data", create=True))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            query = dict(parse_qsl(parts.query))
            status, answer = canned.answer(Call(self.command, parts.path, query, body, token))
            content = answer if isinstance(answer, bytes) else b"" if status == 204 else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    canned.url = f"http://127.0.0.1:{server.server_port}"
    canned.data.make_token()
    canned.data.announce("server", url=canned.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="canned API")
    thread.start()
    try:
        yield canned
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
