"""What the node and a fork server say to each other.

Node to server, on a socket: each request as 4 bytes of length and JSON. Server to node, on a pipe: JSON lines, each
shorter than PIPE_BUF, so that server and children can write to it at once and no line is torn.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from paddock.model.fleet import Method

RUNNER = "paddock.agent.runner:run_forked"
"""What a forked child runs: (class, environment, spec as JSON) → exit code."""
RUN_ENV = "PADDOCK_FORK_RUNNER"
"""For tests of the runtime alone: another `module:function`."""

LINE_BYTES_MAX = 4000
_LENGTH = struct.Struct("!I")


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """First request: the image to make."""

    spec: bytes


class Fork(msgspec.Struct, frozen=True, kw_only=True):
    """One agent to fork."""

    id: int
    agent: str
    epoch: int
    env: dict[str, str]
    folder: str
    log_path: str
    spec: bytes


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`what` is ready, broken, started (by the child itself), failed (could not be started), ended."""

    what: str
    id: int = 0
    pid: int = 0
    ticks: int = 0
    status: int = 0
    text: str = ""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a check. `broken` empty: it can be made live, and these are its methods."""

    broken: str = ""
    methods: list[Method] = []


def frame(value: msgspec.Struct) -> bytes:
    data = msgspec.json.encode(value)
    return _LENGTH.pack(len(data)) + data


def frames(buffer: bytearray) -> Iterator[bytes]:
    """Take whole requests off the front of `buffer`."""
    while len(buffer) >= _LENGTH.size:
        end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
        if len(buffer) < end:
            return
        data = bytes(buffer[_LENGTH.size : end])
        del buffer[:end]
        yield data


def line(report: Report) -> bytes:
    """Encode a report; a text that is too long is cut."""
    data = msgspec.json.encode(report)
    if len(data) > LINE_BYTES_MAX:
        data = msgspec.json.encode(msgspec.structs.replace(report, text=report.text[:600]))
    return data + b"\n"
