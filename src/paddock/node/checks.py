"""The kinds of probes other than HTTP. Each returns what is wrong, in words without secrets; nothing: it passed."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from paddock.decide.redact import said
from paddock.model.errors import PaddockError
from paddock.model.health import Probe
from paddock.model.pattern import found
from paddock.ports.runtime import Handle, Usage
from paddock.runtimes import process

OUTPUT_BYTES_KEPT = 4096
OUTPUT_BYTES_MAX = 1 << 20
"""A check that prints more is not listened to any further, and so ends by its time-out."""
LOG_BYTES_MAX = 256 * 1024
"""Of what is new in a log no more is looked at, the newest."""
_HOLE = re.compile(r"\{port(?:\.([a-z0-9_-]+))?\}")


def fill(text: str, ports: Mapping[str, int]) -> str:
    """Replace `{port}` and `{port.name}`; a port that there is not stays as it is, and the probe says so."""
    return _HOLE.sub(lambda hole: str(ports.get(hole[1] or "port", hole[0])), text)


async def tcp(address: str, timeout_s: float) -> str:
    """Whether somebody accepts connections at `host:port`."""
    try:
        parts = urlsplit(f"//{address}")
        if not parts.hostname or parts.port is None:
            return f"{address} is not host:port"
        async with asyncio.timeout(timeout_s):
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, parts.hostname, parts.port
            )
            transport.abort()
    except TimeoutError:
        return f"{address} did not accept a connection within {timeout_s:g} s"
    except (OSError, ValueError) as error:
        return f"{address}: {error}"
    return ""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A command to run as a probe."""

    command: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    user: str
    timeout_s: float
    secrets: Sequence[str] = ()


async def run(check: Check) -> str:
    """Run it in a group of its own, which is killed when it has ended or its time is over."""
    name = os.path.basename(check.command[0]) if check.command else "?"
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.set_blocking(theirs, True)
        command = process.Command(
            args=check.command, env=check.env, cwd=check.cwd, log_path="", user=check.user, output=theirs
        )
        pid = process.spawn(command)
    except PaddockError as error:
        os.close(ours)
        return said(error.message, check.secrets)
    finally:
        os.close(theirs)
    output = _Output(ours)
    live = process.Process(
        Handle(runtime="probe", pid=pid, start_ticks=process.first_ticks(pid), epoch=0), os.pidfd_open(pid)
    )
    try:
        async with asyncio.timeout(check.timeout_s):
            exit = await live.wait()
    except TimeoutError:
        return f"{name} did not end within {check.timeout_s:g} s"
    finally:
        live.kill()
        await asyncio.shield(live.wait())
        output.close()
    if exit.code == 0:
        return ""
    how = f"was killed by signal {exit.signal}" if exit.signal is not None else f"ended with {exit.code}"
    text = said(output.text, check.secrets)
    return f"{name} {how}: {text}" if text else f"{name} {how}"


class _Output:
    """The end of what a check printed."""

    def __init__(self, pipe: int) -> None:
        self._pipe, self._loop = pipe, asyncio.get_running_loop()
        self._kept, self._size = b"", 0
        self._loop.add_reader(pipe, self._read)

    @property
    def text(self) -> str:
        return self._kept.decode(errors="replace")

    def close(self) -> None:
        self._loop.remove_reader(self._pipe)
        while self._read():
            pass
        os.close(self._pipe)

    def _read(self) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(self._pipe, 65536) if self._size < OUTPUT_BYTES_MAX else b""
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._pipe)
            return False
        self._size += len(data)
        self._kept = (self._kept + data)[-OUTPUT_BYTES_KEPT:]
        return True


class LogWatch:
    """What is new in a log since the last look. It is found again after a rotation, which empties the file; lines that
    came between the last look and the rotation are not seen."""

    def __init__(self, path: str) -> None:
        """From its present end on."""
        self._path = path
        self._offset = _size(path)

    def look(self, match: str, secrets: Sequence[str] = ()) -> str:
        size = _size(self._path)
        if size < self._offset:
            self._offset = 0
        if size == self._offset:
            return ""
        start = max(self._offset, size - LOG_BYTES_MAX)
        try:
            with open(self._path, "rb") as file:
                file.seek(start)
                data = file.read(size - start)
        except OSError:
            return ""  # it is gone with its folder
        end = data.rfind(b"\n") + 1 or len(data) * (len(data) >= LOG_BYTES_MAX)
        self._offset = start + end  # a line that is not whole yet is read again
        if not end or not found(match, data[:end]):
            return ""
        line = next((line for line in reversed(data[:end].splitlines()) if found(match, line)), b"")
        return f"its log says: {said(line.decode(errors='replace'), secrets)}"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def metric(probe: Probe, usage: Usage | None) -> str:
    """Whether the process uses too much. What cannot be measured is no failure."""
    value = getattr(usage, probe.metric, -1)
    if value <= probe.above:
        return ""
    if probe.metric == "memory_bytes":
        return f"memory is at {value / 1e6:.0f} MB, above {probe.above / 1e6:g} MB"
    return f"{probe.metric} is {value:g}, above {probe.above:g}"
