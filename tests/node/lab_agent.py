"""An agent of the tests: speaks the node's socket by hand, and misbehaves as its config says.

config: {"hang": true} stops beating once the file `<folder>/hang` is there; {"deaf": true} ignores SIGTERM and drain;
{"silent": true} never says hello; {"die": true} ends with code 3 before it is ready; {"mute": true} never says that it
is ready; {"hold": {"T": ack}} holds these tasks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from typing import Any

TERMINATED: list[int] = []


class Lab:
    pass


def run(cls: type, env: dict[str, str], spec_json: bytes) -> int:
    config = json.loads(spec_json).get("config", {})
    print("hello from", env["PADDOCK_AGENT"], env["PADDOCK_EPOCH"], flush=True)
    if config.get("die"):
        print("I die", env.get("SECRET", ""), flush=True)
        return 3
    signal.signal(signal.SIGTERM, signal.SIG_IGN if config.get("deaf") else lambda number, frame: TERMINATED.append(1))
    ready = False
    while config.get("silent") and not TERMINATED:
        time.sleep(0.02)
    while True:
        try:
            done = talk(env, config, ready)
        except OSError:
            done = bool(TERMINATED)
        if done:
            print("drained", flush=True)
            return 0
        ready = True
        time.sleep(0.02)


def talk(env: dict[str, str], config: dict[str, Any], ready: bool) -> bool:
    """True: told to drain."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(env["PADDOCK_SOCKET"])
        holds = [{"task": task, "ack": ack} for task, ack in config.get("hold", {}).items()]
        say(line, op="hello", agent=env["PADDOCK_AGENT"], epoch=int(env["PADDOCK_EPOCH"]), holds=holds,
            token=env["PADDOCK_SOCKET_TOKEN"], pid=os.getpid(), ready=ready)  # fmt: skip
        if not config.get("mute"):
            say(line, op="ready")
        line.settimeout(0.05)
        rest = b""
        beats = 0
        while not TERMINATED:
            try:
                data = line.recv(4096)
            except TimeoutError:
                data = None
            if data == b"":
                return False
            *lines, rest = (rest + (data or b"")).split(b"\n")
            for text in lines:
                word = json.loads(text)
                print("told", text.decode(), flush=True)
                if word["op"] == "refused" or (word["op"] == "drain" and not config.get("deaf")):
                    return True
            beats += 1
            if not (config.get("hang") and os.path.exists("hang")):
                say(line, op="beat", done=beats, failed=0)
    return True


def say(line: socket.socket, **words: object) -> None:
    line.sendall(json.dumps(words).encode() + b"\n")
