"""The NATS client protocol as bytes: what comes in is parsed, what goes out is framed. No I/O.

Source of the grammar: NATS "Client protocol" reference (INFO, MSG, HMSG, PING, PONG, +OK, -ERR; PUB, HPUB, SUB, UNSUB).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

LINE_BYTES_MAX = 64 * 1024
"""Longest control line accepted (INFO carries the server's description); longer is garbage, not NATS."""

HEADER_LINE = b"NATS/1.0"


class Info(msgspec.Struct):
    """What the server says of itself in INFO, as far as it matters here."""

    nonce: str = ""
    version: str = ""
    server_name: str = ""
    max_payload: int = 1_048_576
    tls_required: bool = False


class ProtocolError(Exception):
    """What came is not the NATS protocol."""


MessageHandler = Callable[[int, str, str, bytes, bytes], None]
"""(subscription id, subject, reply or "", raw headers or b"", payload)"""

ControlHandler = Callable[[bytes, bytes], None]
"""(verb in capitals, rest of the line)"""


class Parser:
    """Feed it chunks; it calls back for every whole message or control line."""

    def __init__(self, on_message: MessageHandler, on_control: ControlHandler) -> None:
        self._on_message = on_message
        self._on_control = on_control
        self._buffer = b""

    def feed(self, chunk: bytes) -> None:
        """Parse `chunk` after what was left over. Raises ProtocolError on garbage."""
        data = self._buffer + chunk if self._buffer else chunk
        start, size = 0, len(data)
        while start < size:
            line_end = data.find(b"\r\n", start)
            if line_end < 0:
                if size - start > LINE_BYTES_MAX:
                    raise ProtocolError("a control line does not end")
                break
            first = data[start]
            if first in b"MH" and data[start : start + 4] in (b"MSG ", b"HMSG"):
                after = self._message(data, start, line_end)
                if after < 0:
                    break
                start = after
                continue
            verb, _, rest = data[start:line_end].partition(b" ")
            self._on_control(verb.upper(), rest)
            start = line_end + 2
        self._buffer = data[start:] if start < size else b""

    def _message(self, data: bytes, start: int, line_end: int) -> int:
        """Deliver the message whose control line is data[start:line_end]; -1 when it is not all there yet."""
        has_headers = data[start] == 0x48  # H
        parts = data[start:line_end].split()
        try:
            total = int(parts[-1])
            header_size = int(parts[-2]) if has_headers else 0
            reply = parts[3].decode() if len(parts) == (6 if has_headers else 5) else ""
            subject, sid = parts[1].decode(), int(parts[2])
        except (ValueError, IndexError) as error:
            raise ProtocolError(f"not a message line: {data[start : min(line_end, start + 80)]!r}") from error
        body = line_end + 2
        end = body + total
        if len(data) < end + 2:
            return -1
        headers = data[body : body + header_size] if has_headers else b""
        self._on_message(sid, subject, reply, headers, data[body + header_size : end])
        return end + 2


def parse_headers(raw: bytes) -> tuple[str, dict[str, str]]:
    """Status line (such as "404 No Messages", or "") and headers; of a repeated header the last counts."""
    if not raw:
        return "", {}
    lines = raw.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name] = value.strip()
    return lines[0][len(HEADER_LINE) :].strip(), headers


def frame(subject: str, data: bytes, reply: str = "", headers: Mapping[str, str] | None = None) -> bytes:
    """PUB or HPUB."""
    target = f"{subject} {reply} " if reply else f"{subject} "
    if not headers:
        return b"PUB %b%d\r\n%b\r\n" % (target.encode(), len(data), data)
    block = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode()
    head = b"NATS/1.0\r\n%b\r\n" % block
    return b"HPUB %b%d %d\r\n%b%b\r\n" % (target.encode(), len(head), len(head) + len(data), head, data)
