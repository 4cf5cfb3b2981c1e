"""Running Python code that nobody trusts: the agent's side. The cage itself is `jail.py`, in a process of its own."""

from __future__ import annotations

import json
import os
import selectors
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from paddock.agent import TaskError
from paddock.foundry import jail

SUPERVISOR_S = 5.0
"""The supervisor ends the code at its time limit; this much later it is itself ended."""
LOOK_S = 0.2
"""How often it is asked whether the run should stop."""
SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/lib32",
    "/bin",
    "/sbin",
    "/etc",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/dev/random",
)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to run and within which limits."""

    code: str
    timeout_s: float
    memory_bytes: int
    stdin: str
    output_bytes_max: int
    allow_unisolated: bool = False


def run(order: Order, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Run the code to its end or its limits; `stop` is asked now and then and ends it early. Blocks."""
    with tempfile.TemporaryDirectory(prefix="paddock-run-", ignore_cleanup_errors=True) as folder:
        Path(folder, "main.py").write_text(order.code, encoding="utf-8", newline="")
        try:
            return _run(order, folder, stop)
        finally:
            _make_removable(folder)


def _run(order: Order, folder: str, stop: Callable[[], bool]) -> dict[str, Any]:
    control_read, control_write = os.pipe()
    status_read, status_write = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", jail.__file__, _order(order, folder), str(control_read), str(status_write)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(control_read, status_write),
            env={},
            cwd=folder,
            start_new_session=True,
        )
    except BaseException:
        os.close(control_write)
        os.close(status_read)
        raise
    finally:
        os.close(control_read)
        os.close(status_write)
    pipes = _Pipes(process, status_read, order)
    try:
        with process:
            try:
                pipes.pump(time.monotonic() + order.timeout_s + SUPERVISOR_S, stop)
            finally:
                os.close(control_write)  # lets go of the supervisor, which ends what still runs
                pipes.pump(time.monotonic() + SUPERVISOR_S, lambda: False)
                if not pipes.ended:
                    process.kill()
    finally:
        pipes.close()
        os.close(status_read)
    return _answer(pipes)


def _order(order: Order, folder: str) -> str:
    interpreters = dict.fromkeys((sys.executable, getattr(sys, "_base_executable", sys.executable), "/usr/bin/python3"))
    readable = dict.fromkeys((*SYSTEM, sys.prefix, sys.base_prefix, sys.exec_prefix, *site.getsitepackages()))
    # A prefix that is a whole file system would open everything.
    return json.dumps(
        {
            "folder": folder,
            "commands": [[path, "-I", "-u", "-X", "utf8", "main.py"] for path in interpreters if os.path.exists(path)],
            "readable": [path for path in readable if path != "/"],
            "env": {"HOME": folder, "TMPDIR": folder, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            "timeout_s": order.timeout_s,
            "memory_bytes": order.memory_bytes,
            "allow_unisolated": order.allow_unisolated,
        }
    )


class _Pipes:
    """Feeds stdin and reads the rest with limits: what is over them is read and thrown away, so that the code does
    not block on a full pipe and the agent's memory stays small."""

    def __init__(self, process: subprocess.Popen[bytes], status: int, order: Order) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("the process must be made with pipes")
        self._stdin, self._status, self._most = process.stdin, status, order.output_bytes_max
        self._input = memoryview(order.stdin.encode("utf-8", "surrogateescape"))
        self.texts = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray(), status: bytearray()}
        self.stdout, self.stderr = process.stdout.fileno(), process.stderr.fileno()
        self.truncated = False
        self._selector = selectors.DefaultSelector()
        for fd in self.texts:
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ)
        os.set_blocking(self._stdin.fileno(), False)
        self._selector.register(self._stdin.fileno(), selectors.EVENT_WRITE)

    @property
    def ended(self) -> bool:
        """All pipes are at their end; what the supervisor had to say is there."""
        return not self._selector.get_map()

    @property
    def status(self) -> bytes:
        return bytes(self.texts[self._status])

    def pump(self, deadline: float, stop: Callable[[], bool]) -> None:
        """Until all pipes have ended, the deadline, or a stop."""
        while not self.ended and (left_s := deadline - time.monotonic()) > 0 and not stop():
            for key, _ in self._selector.select(min(left_s, LOOK_S)):
                if key.fd in self.texts:
                    self._read(key.fd)
                else:
                    self._write()

    def close(self) -> None:
        self._selector.close()

    def _read(self, fd: int) -> None:
        part = os.read(fd, 65536)
        if not part:
            self._selector.unregister(fd)
            return
        text = self.texts[fd]
        room = self._most - len(text) if fd != self._status else len(part)
        text += part[:room]
        self.truncated |= len(part) > room

    def _write(self) -> None:
        try:
            sent = os.write(self._stdin.fileno(), self._input[:65536]) if self._input else 0
        except BlockingIOError:
            return
        except OSError:
            self._input = memoryview(b"")  # the code does not read its input; that is its right
        else:
            self._input = self._input[sent:]
        if not self._input:
            self._selector.unregister(self._stdin.fileno())
            self._stdin.close()


def _answer(pipes: _Pipes) -> dict[str, Any]:
    try:
        status = msgspec.json.decode(pipes.status, type=dict[str, Any])
    except msgspec.DecodeError:
        text = bytes(pipes.texts[pipes.stderr]).decode("utf-8", "replace").strip()[-500:]
        raise TaskError(f"the sandbox broke: {text or 'its supervisor was killed'}", code="sandbox") from None
    if refused := status.pop("refused"):
        raise TaskError(f"the sandbox did not start the code: {refused}", code="no-isolation")
    return {
        "stdout": bytes(pipes.texts[pipes.stdout]).decode("utf-8", "replace"),
        "stderr": bytes(pipes.texts[pipes.stderr]).decode("utf-8", "replace"),
        "truncated": pipes.truncated,
        **status,
    }


def _make_removable(folder: str) -> None:
    """Folders that the code locked (mode 000) are opened again, so that all can be removed."""
    try:
        os.chmod(folder, 0o700)
    except OSError:
        return  # it removed its own folder
    for root, names, _ in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if not os.path.islink(path):
                try:
                    os.chmod(path, 0o700)
                except OSError:
                    pass  # not ours; the removal says the same
