"""People are told by the real thing: a manifest, a server process, a real HTTP server at the other end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from paddock.testing.installation import Installation

SECRET = "hunter22-of-the-pager"


class Pager(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.got: list[tuple[str, Any]] = []
        self.status = 200


class Answer(BaseHTTPRequestHandler):
    server: Pager

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers["Authorization"], json.loads(data)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def pager() -> Iterator[Pager]:
    server = Pager()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_channels_of_a_manifest_are_tried_and_say_what_is_wrong(
    installation: Installation, pager: Pager, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    manifest = tmp_path / "told.yaml"
    url = f"http://127.0.0.1:{pager.server_port}/"
    manifest.write_text(
        "paddock: 1\nfleets: {sleeper: {command: sleep 600}}\nnotifications:\n  channels:\n"
        f"    - {{name: pager, kind: webhook, url: '{url}', secret_file: secret}}\n"
        "    - {name: log, kind: log}\n"
    )
    installation.up(manifest)
    assert installation.json("alert", "test") == [
        {"channel": "pager", "ok": True, "text": ""},
        {"channel": "log", "ok": True, "text": ""},
    ]
    [(token, message)] = pager.got
    assert (token, message["title"]) == (f"Bearer {SECRET}", "[info] Paddock can reach you")
    pager.status = 404
    done = installation.cli("alert", "test", "pager", ok=False)
    assert done.returncode == 1
    assert "127.0.0.1 answered 404" in done.stdout
    told = installation.json("status")["alerts"]
    assert (told["log"], "answered 404" in told["pager"]) == ("ok", True)
    said = [path for path in installation.data.rglob("*.log") if SECRET in path.read_text(errors="replace")]
    assert said == []
