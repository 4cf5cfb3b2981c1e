"""What a connection listens to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddock.fabric.connection import Connection

RawHandler = Callable[[str, str, str, Mapping[str, str], bytes], None]
"""(subject, reply, status such as "404 No Messages" or "", headers, data)"""


class Subscription:
    """Ends by `close`; what the server sent before it knew may still come to `late`, if that was given."""

    def __init__(self, connection: Connection, sid: int, subject: str, queue: str, handler: RawHandler) -> None:
        self.sid, self.subject, self.queue, self.handler = sid, subject, queue, handler
        self._connection = connection

    @property
    def line(self) -> bytes:
        queue = f" {self.queue}" if self.queue else ""
        return f"SUB {self.subject}{queue} {self.sid}\r\n".encode()

    def close(self, late: RawHandler | None = None, done: Callable[[], None] | None = None) -> None:
        """What was on its way goes to `late`; `done` is called when nothing can come any more."""
        self._connection.unsubscribe(self, late, done)


class Listening:
    """See `paddock.ports.fabric.Subscription`."""

    def __init__(self, held: Subscription) -> None:
        self._held = held

    def close(self, *, late: bool = False) -> None:
        self._held.close(self._held.handler if late else None)
