"""One channel's way out: its queue and its worker. A channel that hangs or fails holds up nobody but itself.

put ──> pending ──release──> queue ──> being sent ──accepted──> (told: sent)
                               ^          ├──may go later──> waits, longer each time ──┐
                               └──────────┼────────────────────────────────────────────┘
                                          └──refused, too old, pushed out by newer ones──> (told: given up)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

import structlog

from paddock.control.owner import Wake, within
from paddock.model.errors import Denied, PaddockError, Refused, TimedOut, Unavailable
from paddock.model.notify import Channel, Message
from paddock.ports.alerts import PartlyRefused, Sender, Senders
from paddock.ports.clock import Clock

log = structlog.get_logger(__name__)

QUEUE_MAX = 50
"""Messages that wait for one channel; over it the oldest is given up."""
AGE_S_MAX = 6 * 3600.0
"""Older news are given up."""
BACKOFF_S_MIN, BACKOFF_S_MAX = 2.0, 60.0
FAILS_TOLD = 3
"""Failed tries in a row after which the channel counts as failing; a refusal counts at once."""
SLACK_S = 5.0
"""A sender keeps to its channel's time-out by itself; this much later it is cut off."""


class Report(Protocol):
    """Who hears what became of messages. None of these may take long."""

    async def sent(self, channel: str, message: Message) -> None: ...
    async def given_up(self, channel: str, message: Message, error: PaddockError) -> None: ...
    async def failing(self, channel: str, error: PaddockError) -> None: ...
    async def well(self, channel: str) -> None: ...


class Outlet:
    def __init__(self, channel: Channel, senders: Senders, clock: Clock, report: Report) -> None:
        self.channel = channel
        self.problem = ""
        """Why it fails; empty while it works."""
        self.failing_since = 0.0
        self.dropped = 0
        """Messages given up since the server's start."""
        self._senders, self._clock, self._report = senders, clock, report
        self._sender: Sender | None = None
        self._queue: deque[Message] = deque()
        self._pending: list[Message] = []
        self._pushed_out: list[Message] = []
        self._fails = 0
        self._wake = Wake()

    @property
    def waiting(self) -> list[Message]:
        """All that was not sent yet, oldest first."""
        return [*self._queue, *self._pending]

    def put(self, messages: Iterable[Message]) -> None:
        """Queue messages that may be sent once they are released."""
        self._pending += messages

    def release(self) -> None:
        self._queue.extend(self._pending)
        self._pending.clear()
        while len(self._queue) > QUEUE_MAX:
            self._pushed_out.append(self._queue.popleft())
        self._wake.set()

    def shed(self) -> bool:
        """Give up the oldest for want of room; False when nothing waits."""
        if self._queue or self._pending:
            self._pushed_out.append(self._queue.popleft() if self._queue else self._pending.pop(0))
            return True
        return False

    async def tested(self, error: PaddockError | None) -> None:
        """A test message went by the same way: what came of it says how the channel is."""
        if error is None:
            await self._is_well()
        else:
            await self._is_failing(error)

    async def run(self) -> None:
        """Send what is queued, for ever."""
        try:
            while True:
                await self._tell_pushed_out()
                if self._queue:
                    await self._round(self._queue[0])
                else:
                    await self._wake.wait()
        finally:
            await self._drop_sender()

    async def _round(self, message: Message) -> None:
        error = await self._try(message)
        if error is None or isinstance(error, PartlyRefused):
            self._done(message)
            await self._report.sent(self.channel.name, message)
        if error is None:
            await self._is_well()
            return
        final = isinstance(error, Refused | Denied)
        self._fails += 1
        if final or self._fails >= FAILS_TOLD:
            await self._is_failing(error)
        if final:
            await self._drop_sender()  # its secret may be another by the next time
        if isinstance(error, PartlyRefused):
            return
        if final or self._clock.now() - message.at > AGE_S_MAX:
            self._done(message)
            await self._give_up(message, error)
        else:
            await self._clock.sleep(min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2 ** min(self._fails - 1, 10)))

    async def _try(self, message: Message) -> PaddockError | None:
        async def send() -> bool:
            if self._sender is None:
                self._sender = self._senders(self.channel)
            await self._sender.send(message)
            return True

        try:
            limit_s = self.channel.timeout_s + SLACK_S
            if await within(self._clock, send(), limit_s):
                return None
            return TimedOut(f"it did not end within {limit_s:g} s")
        except PaddockError as error:
            return error
        except Exception as error:
            # A library's slip must not end the server; it is ours to see in the log.
            log.error("channel broken", channel=self.channel.name, error=type(error).__name__)
            return Unavailable(f"it broke in an unforeseen way ({type(error).__name__})")

    def _done(self, message: Message) -> None:
        if self._queue and self._queue[0] is message:  # else it was pushed out meanwhile
            self._queue.popleft()
        self._pushed_out = [other for other in self._pushed_out if other is not message]

    async def _tell_pushed_out(self) -> None:
        while self._pushed_out:
            await self._give_up(self._pushed_out.pop(0), Refused("newer messages needed its place in the queue"))

    async def _give_up(self, message: Message, error: PaddockError) -> None:
        self.dropped += 1
        await self._report.given_up(self.channel.name, message, error)

    async def _is_failing(self, error: PaddockError) -> None:
        new = not self.problem
        self.problem = error.message
        if new:
            self.failing_since = self._clock.now()
            await self._report.failing(self.channel.name, error)

    async def _is_well(self) -> None:
        self._fails = 0
        if self.problem:
            self.problem = ""
            await self._report.well(self.channel.name)

    async def _drop_sender(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            try:
                await sender.close()
            except Exception as error:
                log.warning("channel not closed", channel=self.channel.name, error=type(error).__name__)
