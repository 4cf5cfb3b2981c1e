"""A bot that answers HTTP, and has every fault that a bot can have, to switch on. Nothing but the standard library.

    python3 bot.py PORT            serve on 127.0.0.1:PORT
    python3 bot.py check PORT      exit code 1 when the bot's folder holds too much (an exec probe)

GET /health is what a probe asks; POST /fault/NAME switches a fault on, POST /fault/none all of them off. What each does
is said in FAULTS. A fault is real: the memory is taken, the disk is written, the port is closed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = {
    "hang": "GET is not answered any more, though it is connected to",
    "leak": "it takes 10 MB more every tenth of a second, up to 400 MB",
    "slow": "GET is answered after 3 seconds",
    "garbage": "GET is answered with 200, and with what is not the answer",
    "error": "GET is answered with 500",
    "log": "it writes a line that says that its database is gone",
    "port": "it listens no more, and its process goes on",
    "disk": "it fills its folder with 8 MB; a restart alone does not mend that",
    "die": "its process ends with exit code 3",
    "none": "all of the above are over, as far as they can be",
}
SLOW_S = 3.0
LEAK_BYTES, LEAK_BYTES_MAX = 10_000_000, 400_000_000
JUNK_BYTES, FOLDER_BYTES_MAX = 8_000_000, 4_000_000
FOLDER = Path(os.environ.get("PADDOCK_CREDS", "./agent.creds")).parent
"""Its own, which Paddock empties when it restarts it clean."""


class Bot:
    def __init__(self) -> None:
        self.name = os.environ.get("PADDOCK_AGENT", "bot")
        self.faults: set[str] = set()
        self.well = threading.Event()
        self.well.set()
        self.taken: list[bytes] = []

    def switch(self, fault: str) -> None:
        if fault == "none":
            self.faults.clear()
            self.taken.clear()
            self.junk.unlink(missing_ok=True)
            self.well.set()
            return
        self.faults.add(fault)
        print(f"fault {fault} is on", flush=True)
        if fault == "die":
            os._exit(3)
        elif fault == "hang":
            self.well.clear()
        elif fault == "leak":
            threading.Thread(target=self.leak, daemon=True).start()
        elif fault == "disk":
            self.junk.write_bytes(b"x" * JUNK_BYTES)
        elif fault == "log":
            print("ERROR the database is gone", flush=True)

    @property
    def junk(self) -> Path:
        return FOLDER / "junk"

    def leak(self) -> None:
        while "leak" in self.faults and len(self.taken) * LEAK_BYTES < LEAK_BYTES_MAX:
            self.taken.append(os.urandom(1000) * (LEAK_BYTES // 1000))
            time.sleep(0.1)

    def health(self) -> tuple[int, bytes]:
        self.well.wait()
        if "slow" in self.faults:
            time.sleep(SLOW_S)
        if "error" in self.faults:
            return 500, b'{"error": "something broke"}'
        if "garbage" in self.faults:
            return 200, b"\x00\xff<html>It works!"
        return 200, json.dumps({"status": "ok", "bot": self.name}).encode()


def handler(bot: Bot) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path == "/health":
                self.answer(*bot.health())
            elif self.path == "/space":
                bot.well.wait()
                used = sum(path.stat().st_size for path in FOLDER.glob("*") if path.is_file() and path.suffix != ".log")
                self.answer(200, json.dumps({"bytes": used}).encode())
            else:
                self.answer(404, b'{"error": "there is /health, and POST /fault/NAME"}')

        def do_POST(self) -> None:
            fault = self.path.removeprefix("/fault/")
            if fault not in FAULTS:
                self.answer(404, json.dumps({"error": "no such fault", "faults": FAULTS}).encode())
                return
            self.answer(200, json.dumps({"fault": fault, "means": FAULTS[fault]}).encode())
            self.wfile.flush()
            self.connection.close()
            bot.switch(fault)
            if fault == "port":
                threading.Thread(target=self.close_port, daemon=True).start()

        def close_port(self) -> None:
            self.server.shutdown()
            self.server.server_close()

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """One line a probe would be all that is in its log."""

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asked went away: that is no fault."""


def serve(port: int) -> None:
    bot = Bot()
    server = Server(("127.0.0.1", port), handler(bot))
    print(f"{bot.name} listens on {port}", flush=True)
    server.serve_forever(poll_interval=0.05)
    while True:  # its port is closed, its process goes on
        time.sleep(60)


def check(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/space", timeout=5) as answer:
        used = json.load(answer)["bytes"]
    if used > FOLDER_BYTES_MAX:
        print(f"its folder holds {used / 1e6:.0f} MB")
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "check":
        sys.exit(check(int(sys.argv[2])))
    serve(int(sys.argv[1]))
