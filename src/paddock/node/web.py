"""One GET for a probe, with every limit that a stranger's answer needs: of time, of bytes, of redirects.

connected ──status line──> known ──no body wanted──> judged
                             └──head──> body ──end · BODY_BYTES_MAX · time over──> judged by what came
"""

from __future__ import annotations

import asyncio
import re
from typing import cast
from urllib.parse import SplitResult, urljoin, urlsplit

from paddock.model.pattern import found

BODY_BYTES_MAX = 64 * 1024
HEAD_BYTES_MAX = 16 * 1024
REDIRECTS_MAX = 3
REDIRECTS = (301, 302, 303, 307, 308)

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})(?: [^\r\n]*)?\r?\n")
_LOCATION = re.compile(rb"(?im)^location:[ \t]*([^\r\n]*)")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,18})[ \t]*\r?$")
_CHUNKED = re.compile(rb"(?im)^transfer-encoding:[^\r\n]*chunked")


async def get(url: str, timeout_s: float, *, match: str = "", follow: bool = True) -> str:
    """Empty when the answer is from 200 to 399 and `match`, if given, is found in its body; else what is wrong.

    All of it takes `timeout_s` at the most. Redirects on the same host are followed, REDIRECTS_MAX of them; one to
    another host is an answer by itself, as is any when `follow` is not set."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    at, seen = url, {url}
    while True:
        try:
            parts = urlsplit(at)
            answer = await _ask(parts, deadline, follow=follow, whole=bool(match))
        except TimeoutError:
            return f"{at} did not answer within {timeout_s:g} s"
        except (OSError, ValueError) as error:
            return f"{at}: {error}"
        if not answer.status:
            return f"{at} did not answer with HTTP"
        if not 200 <= answer.status < 400:
            return f"{at} answered {answer.status}"
        onward = urljoin(at, answer.location) if answer.status in REDIRECTS and answer.location else ""
        if not follow or not onward or urlsplit(onward).hostname != parts.hostname:
            return _judged(at, answer, match)
        if onward in seen:
            return f"{url} redirects in a circle"
        if len(seen) > REDIRECTS_MAX:
            return f"{url} redirects more than {REDIRECTS_MAX} times"
        seen.add(onward)
        at = onward


def _judged(url: str, answer: _Answer, match: str) -> str:
    if not match or found(match, answer.body()):
        return ""
    cut = f" in the first {BODY_BYTES_MAX // 1024} kB" if answer.cut else " in what came in time" if answer.late else ""
    return f"{url} answered {answer.status}, but with a body without the pattern{cut}"


class _Answer(asyncio.Protocol):
    """What came of one request."""

    def __init__(self, request: bytes, *, follow: bool, whole: bool) -> None:
        self._request, self._follow, self._whole = request, follow, whole
        self._data = bytearray()
        self._head = -1
        """Length of the head, once all of it is there."""
        self._length = -1
        self._chunked = False
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.location = ""
        self.cut = self.late = False

    def body(self) -> bytes:
        if self._head < 0:
            return b""
        body = bytes(self._data[self._head :])
        return (_unchunked(body) if self._chunked else body)[:BODY_BYTES_MAX]

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            return
        self._data += data[: HEAD_BYTES_MAX + BODY_BYTES_MAX]
        while not self.status:
            line = _STATUS.match(self._data)
            if line is None:
                if b"\n" in self._data or len(self._data) > HEAD_BYTES_MAX:
                    self._end()  # no HTTP
                return
            status = int(line[1])
            if status >= 200:
                self.status = status
                break
            end = self._data.find(b"\r\n\r\n")  # such as 100 Continue: the answer itself comes after it
            if end < 0:
                return
            del self._data[: end + 4]
        if not (self._whole or (self._follow and self.status in REDIRECTS)):
            self._end()
        elif self._head >= 0 or self._read_head():
            self._read_body()

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _read_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        if end < 0:
            if len(self._data) >= HEAD_BYTES_MAX:
                self.status = 0
                self._end()
            return False
        head = bytes(self._data[:end])
        self._head = end + 4
        self._chunked = _CHUNKED.search(head) is not None
        if length := _LENGTH.search(head):
            self._length = int(length[1])
        if location := _LOCATION.search(head):
            self.location = location[1].decode("latin-1").strip()
        return True

    def _read_body(self) -> None:
        size = len(self._data) - self._head
        self.cut = self._whole and size >= BODY_BYTES_MAX and self._length != BODY_BYTES_MAX
        ended = self._data.endswith(b"0\r\n\r\n") if self._chunked else 0 <= self._length <= size
        if ended or self.cut or not self._whole:
            self._end()

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def _ask(parts: SplitResult, deadline: float, *, follow: bool, whole: bool) -> _Answer:
    """One request. `TimeoutError` when not even a status came by `deadline`, a time of the event loop."""
    if not parts.hostname:
        raise ValueError("it names no host")
    host, port, tls = parts.hostname, parts.port, parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: paddock\r\nConnection: close\r\n\r\n"
    answer = _Answer(head.encode("ascii"), follow=follow, whole=whole)
    try:
        async with asyncio.timeout_at(deadline):
            await asyncio.get_running_loop().create_connection(
                lambda: answer, host, port or (443 if tls else 80), ssl=tls or None
            )
            await answer.done
    except TimeoutError:
        if not answer.status:
            raise
        answer.late = True  # a stream without an end is judged by what came
    finally:
        answer.close()
    return answer


def _unchunked(data: bytes) -> bytes:
    """The body out of its chunks; of one that was cut, what there is."""
    out, at = bytearray(), 0
    while True:
        end = data.find(b"\r\n", at, at + 1024)
        if end < 0:
            return bytes(out)
        try:
            size = int(data[at:end].partition(b";")[0], 16)
        except ValueError:
            return bytes(out)
        if size <= 0:
            return bytes(out)
        out += data[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
