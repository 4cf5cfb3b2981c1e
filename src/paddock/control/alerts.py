"""Tells people: takes alerts, decides by `decide/alerting.py`, sends by the channels of `notifications`.

tell ──> inbox ──> state and messages decided ──> both stored ──> each channel's own outlet ──> sent, or given up
                                                                   └──> stored again, without what was sent

What is stored (`$KV.state._paddock.alerts`) survives the server: the next one repeats nothing, goes on with what was
not sent, and knows who has to hear of an end. Killed between a channel's yes and the note of it (milliseconds), it
sends that one message again: rather twice than never.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import structlog

from paddock.control.events import Events
from paddock.control.mirror import Mirror
from paddock.control.outlet import SLACK_S, Outlet
from paddock.control.owner import Owner, Wake, each, within
from paddock.control.service import AlertTest
from paddock.control.views import nearest
from paddock.decide import alerting
from paddock.decide.redact import redact
from paddock.decide.rendering import message
from paddock.fabric import subjects
from paddock.model.errors import NotFound, PaddockError, Refused, TimedOut, Unavailable
from paddock.model.incident import Severity
from paddock.model.notify import Alert, Channel, Message, Notifications
from paddock.ports.alerts import Sender, Senders
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric

log = structlog.get_logger(__name__)

INBOX_MAX = 1000
"""Alerts that were told and not looked at yet; over it the oldest is dropped and counted."""
BATCH_MAX = 100
"""Alerts looked at in one round, so that a flood leaves time for everything else."""
KEPT_BYTES_MAX = 900_000
"""Of what is stored: it must fit into one message of the fabric (1 MiB)."""
STORE_S_MAX = 2.0
"""So long an alert waits to be stored before it is sent: the fabric may be what it is about."""
RETRY_S = 5.0
TEST_S_MAX = 40.0
"""Somebody waits for the outcome of a test."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What survives the server."""

    state: alerting.State = alerting.State()
    outbox: dict[str, list[Message]] = {}
    """Channel → what it has not sent yet."""


def no_senders(channel: Channel) -> Sender:
    """For a server that is given no channels: tests, and programs that embed one."""
    raise Refused("this server was started without channels")


class Alerts:
    def __init__(self, fabric: Fabric, clock: Clock, mirror: Mirror, events: Events, senders: Senders) -> None:
        self._fabric, self._clock, self._mirror, self._events = fabric, clock, mirror, events
        self._senders = senders
        self._inbox: deque[Alert] = deque()
        self._dropped = 0
        self._state = alerting.State()
        self._outlets: dict[str, tuple[Outlet, asyncio.Task[None]]] = {}
        self._owner: Owner | None = None
        self._wake = Wake()
        self._dirty = False
        mirror.on_notifications.append(self._wake.set)

    def tell(self, alert: Alert) -> None:
        """Take an alert; never blocks. The same `key` is the same matter, `recovered` ends it."""
        self._inbox.append(alert)
        if len(self._inbox) > INBOX_MAX:
            self._inbox.popleft()
            self._dropped += 1
        self._wake.set()

    def start(self, owner: Owner) -> None:
        self._owner = owner
        owner.loop("alerts", self._run(owner))

    def channels(self) -> dict[str, str]:
        """Channel → `ok`, or since when and why it fails."""
        told = {}
        for name, (outlet, _) in self._outlets.items():
            at = datetime.fromtimestamp(outlet.failing_since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            told[name] = f"failing since {at}: {outlet.problem}" if outlet.problem else "ok"
            for count, what in (
                (len(outlet.waiting) if outlet.problem else 0, "waiting"),
                (outlet.dropped, "given up"),
            ):
                told[name] += f"; {count} {what}" if count else ""
        return told

    async def test(self, channel: str = "", *, by: str = "") -> Sequence[AlertTest]:
        """Send a message by this channel, or by each, now: past routes, cool-down, quiet hours and the queue."""
        known = {one.name: one for one in self._mirror.notifications.channels}
        if not known:
            raise Refused("there are no channels: add 'notifications' to a manifest and apply it")
        if channel and channel not in known:
            near = nearest(channel[:80], known)
            raise NotFound(f"there is no channel {channel[:80]!r}{near} (known: {', '.join(sorted(known))})")
        outcomes: dict[str, AlertTest] = {}

        async def try_it(one: Channel) -> None:
            error = await self._try(one, by)
            text = error.message if error is not None else ""
            outcomes[one.name] = AlertTest(channel=one.name, ok=error is None, text=text)
            outlet, _ = self._outlets.get(one.name, (None, None))
            if outlet is not None and outlet.channel == one:
                await outlet.tested(error)

        chosen = [known[channel]] if channel else list(known.values())
        for error in await each("alert-test", chosen, try_it, at_once=8):
            raise error
        return [outcomes[one.name] for one in chosen]

    async def _try(self, channel: Channel, by: str) -> PaddockError | None:
        now = self._clock.now()
        text = f"A test, asked for by {by or 'somebody'}. Nothing is wrong."
        alert = Alert(key="test", at=now, severity=Severity.INFO, about="", title="Paddock can reach you", text=text)

        async def send() -> bool:
            sender = self._senders(channel)
            try:
                await sender.send(message(channel.name, [alert], now, summary=False, dropped=0))
            finally:
                await sender.close()
            return True

        limit_s = min(channel.timeout_s + SLACK_S, TEST_S_MAX)
        try:
            if not await within(self._clock, send(), limit_s):
                return TimedOut(f"it did not answer within {limit_s:g} s")
        except PaddockError as error:
            return error
        except Exception as error:
            log.error("channel broken", channel=channel.name, error=type(error).__name__)
            return Unavailable(f"it broke in an unforeseen way ({type(error).__name__})")
        return None

    # -- the loop --------------------------------------------------------------------------------------------------

    async def _run(self, owner: Owner) -> None:
        kept = await self._load()
        self._state = kept.state
        waiting = kept.outbox
        while True:
            rules = self._mirror.notifications
            await self._follow_rules(owner, rules, waiting)
            waiting = {}
            await self._round(rules)
            soonest = alerting.next_at(self._state, rules, self._clock.now())
            if self._inbox:
                continue
            if self._dirty:
                soonest = min(self._clock.now() + RETRY_S, soonest or float("inf"))
            if soonest is None:
                await self._wake.wait()
            else:
                await self._wake.wait_for(self._clock, soonest - self._clock.now())

    async def _round(self, rules: Notifications) -> None:
        now, before = self._clock.now(), self._state
        taken = [self._inbox.popleft() for _ in range(min(BATCH_MAX, len(self._inbox)))]
        if taken:
            secrets = self._mirror.secrets()
            clean = [_clean(alert, secrets) for alert in taken]
            self._state = alerting.take(self._state, clean, rules, now)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._state = msgspec.structs.replace(self._state, dropped=self._state.dropped + dropped)
        self._state, messages = alerting.due(self._state, rules, now)
        for one in messages:
            self._outlets[one.channel][0].put([one])
        if self._dirty or self._state != before or messages:
            await self._store()
        for outlet, _ in self._outlets.values():
            outlet.release()

    async def _follow_rules(self, owner: Owner, rules: Notifications, outbox: dict[str, list[Message]]) -> None:
        """An outlet for each channel. One that is changed begins anew and keeps what waits for it."""
        wanted = {channel.name: channel for channel in rules.channels}
        waiting = dict(outbox)
        for name, (outlet, task) in list(self._outlets.items()):
            if wanted.get(name) != outlet.channel:
                await owner.end(task)
                del self._outlets[name]
                waiting[name] = outlet.waiting
                self._dirty = True
        for name, channel in wanted.items():
            if name not in self._outlets:
                outlet = Outlet(channel, self._senders, self._clock, self)
                outlet.put(waiting.get(name, []))
                self._outlets[name] = (outlet, owner.loop(f"alerts-{name}", outlet.run()))

    # -- what becomes of messages ----------------------------------------------------------------------------------

    async def sent(self, channel: str, message: Message) -> None:
        self._changed()
        keys = [alert.key for alert in message.alerts]
        data = {"severity": str(message.severity), "keys": keys}
        await self._events.tell("alert.sent", channel, f"told by {channel}: {message.title}", data=data)

    async def given_up(self, channel: str, message: Message, error: PaddockError) -> None:
        self._state = alerting.not_told(self._state, channel, [alert.key for alert in message.alerts])
        self._changed()
        text = f"not told by {channel}: {message.title} ({error.message})"
        await self._events.tell("alert.failed", channel, text, data={"severity": str(message.severity)})

    async def failing(self, channel: str, error: PaddockError) -> None:
        log.warning("channel fails", channel=channel, error=error.message)
        self.tell(_of_channel(channel, self._clock.now(), title=f"channel {channel} fails", text=error.message))
        await self._events.tell("alert.failed", channel, f"channel {channel} fails: {error.message}")

    async def well(self, channel: str) -> None:
        log.info("channel works again", channel=channel)
        self.tell(_of_channel(channel, self._clock.now(), title=f"channel {channel} works again", recovered=True))

    def _changed(self) -> None:
        self._dirty = True
        self._wake.set()

    # -- what is kept ----------------------------------------------------------------------------------------------

    async def _load(self) -> Kept:
        while True:
            try:
                stored = await self._fabric.last(subjects.STATE, subjects.alerts_kept())
                return msgspec.json.decode(stored.data, type=Kept) if stored is not None else Kept()
            except PaddockError as error:
                log.warning("what was told before is not readable yet", error=error.message)
            except msgspec.MsgspecError as error:
                log.error("what was told before cannot be read; it begins anew", error=str(error))
                return Kept()
            await self._clock.sleep(RETRY_S)

    async def _store(self) -> None:
        """What cannot be stored now is stored later; alerts do not wait for it."""
        self._dirty = False
        try:
            await self._fabric.store(subjects.alerts_kept(), self._encoded(), timeout_s=STORE_S_MAX)
        except PaddockError as error:
            self._dirty = True
            log.warning("what is told is not stored yet", error=error.message)

    def _encoded(self) -> bytes:
        while True:
            outbox = {name: outlet.waiting for name, (outlet, _) in self._outlets.items() if outlet.waiting}
            data = msgspec.json.encode(Kept(state=self._state, outbox=outbox))
            fullest = max(self._outlets.values(), key=lambda pair: len(pair[0].waiting), default=None)
            if len(data) <= KEPT_BYTES_MAX or fullest is None or not fullest[0].shed():
                return data


def _clean(alert: Alert, secrets: Sequence[str]) -> Alert:
    return msgspec.structs.replace(
        alert,
        title=redact(alert.title, secrets, limit=alerting.TITLE_CHARS_MAX),
        text=redact(alert.text, secrets, limit=alerting.TEXT_CHARS_MAX),
    )


def _of_channel(channel: str, at: float, *, title: str, text: str = "", recovered: bool = False) -> Alert:
    return Alert(
        key=f"{alerting.CHANNEL_KEY}{channel}",
        at=at,
        severity=Severity.ERROR,
        about="",
        title=title,
        text=text,
        recovered=recovered,
    )
