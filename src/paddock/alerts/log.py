"""The channel `log`: a line of the server's own log for each message."""

from __future__ import annotations

import structlog

from paddock.model.incident import Severity
from paddock.model.notify import Channel, Message

log = structlog.get_logger(__name__)


class LogSender:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel.name

    async def send(self, message: Message) -> None:
        quiet = message.recovered or message.severity is Severity.INFO
        level = "info" if quiet else "warning" if message.severity is Severity.WARNING else "error"
        getattr(log, level)(
            "alert",
            channel=self._channel,
            severity=str(message.severity),
            recovered=message.recovered,
            title=message.title,
            text=message.text,
        )

    async def close(self) -> None:
        pass
