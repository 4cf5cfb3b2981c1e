"""What the agents of the contract suite do, by the variable SCRIPT; for both runtimes."""

from __future__ import annotations

import os
import signal
import sys
import time


class Lab:
    pass


def play(script: str, tree: str) -> int:
    word, _, rest = script.partition(" ")
    if word == "exit":
        return int(rest)
    if word == "print":
        print(rest, flush=True)
    if word == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf now", flush=True)
    if word == "tree":
        grow(tree)
    while True:
        time.sleep(60)


def grow(tree: str) -> None:
    """A child, and its child; their pids are written when both are there."""
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild:
            with open(tree + ".new", "w") as file:
                file.write(f"{os.getpid()} {grandchild}")
            os.rename(tree + ".new", tree)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)


def run(cls: type, env: dict[str, str], spec_json: bytes) -> int:
    return play(env["SCRIPT"], env["TREE"])


if __name__ == "__main__":
    sys.exit(play(os.environ["SCRIPT"], os.environ["TREE"]))
