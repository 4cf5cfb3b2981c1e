"""Who is told of what, and when: routes, cool-down, grouping, quiet hours, and word of the recovery to just those who
heard of the matter. Pure: the state goes in and comes out, so that it can be kept.

An alert of one key:

sign ──> waiting (to be grouped) ──> told, open ──recovered──> waiting ──> told, closed ──cool-down over──> forgotten
 │            └──quiet hours──> held ──their end──> told        │                │
 └──told already, within the cool-down: counted                └──sign──> open   └──sign──> again, told once it is over
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import msgspec

from paddock.decide.rendering import message
from paddock.model.incident import Severity
from paddock.model.notify import Alert, Message, Notifications, Quiet

WAITING_MAX = 200
"""Different alerts that wait to be grouped, or for the end of quiet hours; over it the least severe and oldest is
dropped, counted, and the count is said."""
TOLD_MAX = 1000
KEY_CHARS_MAX, TITLE_CHARS_MAX, TEXT_CHARS_MAX = 200, 200, 1000
HELD_LOOK_S = 30.0
"""How often the end of quiet hours is looked for while anything waits for it."""
CHANNEL_KEY = "channel:"
"""Beginning of the keys of alerts about channels themselves: those go out by the others."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A matter that people were told of."""

    at: float
    """When it was last sent."""
    severity: Severity
    channels: list[str]
    """Who heard of it."""
    open: bool = True
    """False: they were told that it is over."""
    repeats: int = 0
    """How often it came since."""
    again: Alert | None = None
    """It came again soon after it was over; told once the cool-down has passed, if it is not over by then."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that is remembered between two rounds."""

    waiting: dict[str, Alert] = {}
    group_at: float = 0.0
    """When what waits goes out."""
    held: dict[str, Alert] = {}
    """Kept for the end of quiet hours."""
    told: dict[str, Told] = {}
    dropped: int = 0


def take(state: State, alerts: Sequence[Alert], rules: Notifications, now: float) -> State:
    """The state after these alerts came."""
    work = _Work(state, rules, now)
    for alert in alerts:
        alert = _trimmed(alert)
        if alert.recovered:
            work.recovered(alert)
        else:
            work.sign(alert)
    return work.done()


def due(state: State, rules: Notifications, now: float) -> tuple[State, list[Message]]:
    """What is to be sent now, and the state once it is."""
    work = _Work(state, rules, now)
    messages = work.release()
    return work.done(), messages


def next_at(state: State, rules: Notifications, now: float) -> float | None:
    """When `due` may have something; None: not before something comes."""
    times = [told.at + rules.cooldown_s for told in state.told.values() if told.again is not None]
    if state.waiting:
        times.append(state.group_at)
    if state.held:
        times.append(now + HELD_LOOK_S)
    return min(times, default=None)


def not_told(state: State, channel: str, keys: Sequence[str]) -> State:
    """`channel` has given up on these matters: its people know nothing of them, so they need no word of their end."""
    told = dict(state.told)
    for key in keys:
        if key in told:
            heard = [name for name in told[key].channels if name != channel]
            told[key] = msgspec.structs.replace(told[key], channels=heard)
    return msgspec.structs.replace(state, told=told)


def quieted(severity: Severity, rules: Notifications, now: float) -> bool:
    """Whether something of this severity has to wait for the end of quiet hours."""
    return any(severity.rank < quiet.but.rank and _in_force(quiet, now) for quiet in rules.quiet)


def recipients(alert: Alert, rules: Notifications) -> list[str]:
    """The channels that the routes give, in the order of the channels."""
    wanted: set[str] = set()
    for route in rules.routes:
        if alert.severity.rank >= route.severity.rank and (not route.fleets or alert.fleet in route.fleets):
            wanted.update(route.to)
    if not rules.routes and alert.severity.rank >= Severity.WARNING.rank:
        wanted = {channel.name for channel in rules.channels}
    if alert.key.startswith(CHANNEL_KEY):
        broken = alert.key.removeprefix(CHANNEL_KEY)
        wanted = wanted - {broken} or {channel.name for channel in rules.channels if channel.name != broken}
    return [channel.name for channel in rules.channels if channel.name in wanted]


def _in_force(quiet: Quiet, now: float) -> bool:
    """By the wall clock of its timezone: it begins and ends by what people see, also when clocks are changed."""
    at = datetime.fromtimestamp(now, _zone(quiet.timezone)).strftime("%H:%M")
    if quiet.start < quiet.end:
        return quiet.start <= at < quiet.end
    return at >= quiet.start or at < quiet.end


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # known where it was applied, but not here
        return UTC


def _trimmed(alert: Alert) -> Alert:
    return msgspec.structs.replace(
        alert,
        key=alert.key[:KEY_CHARS_MAX],
        about=alert.about[:KEY_CHARS_MAX],
        title=alert.title[:TITLE_CHARS_MAX],
        text=alert.text[:TEXT_CHARS_MAX],
    )


def _merged(old: Alert | None, new: Alert) -> Alert:
    """The newer words, the worse severity, and how often it came."""
    if old is None:
        return new
    severity = max(old.severity, new.severity, key=lambda one: one.rank)
    return msgspec.structs.replace(new, severity=severity, repeats=old.repeats + new.repeats + 1)


class _Work:
    """One round on copies of the state."""

    def __init__(self, state: State, rules: Notifications, now: float) -> None:
        self.rules, self.now = rules, now
        self.waiting, self.held, self.told = dict(state.waiting), dict(state.held), dict(state.told)
        self.group_at, self.dropped = state.group_at, state.dropped

    def done(self) -> State:
        self._forget()
        return State(waiting=self.waiting, group_at=self.group_at, held=self.held, told=self.told, dropped=self.dropped)

    # -- what comes ------------------------------------------------------------------------------------------------

    def sign(self, alert: Alert) -> None:
        key, told = alert.key, self.told.get(alert.key)
        before = self.waiting.pop(key, None)
        if before is not None and not before.recovered:
            self.waiting[key] = _merged(before, alert)
        elif key in self.held and not self._is_word_of_end(self.held[key]):
            alert = _merged(self.held.pop(key), alert)
            if quieted(alert.severity, self.rules, self.now):
                self.held[key] = alert
            else:
                self._wait(alert)
        elif told is None or not self._cooling(told) or alert.severity.rank > told.severity.rank:
            # A recovery that waits meanwhile never was one.
            self.held.pop(key, None)
            again = told.again if told is not None else None
            repeats = alert.repeats + (told.repeats if told is not None else 0)
            if told is not None:
                self.told[key] = msgspec.structs.replace(told, again=None)
            self._wait(msgspec.structs.replace(_merged(again, alert), repeats=repeats + (again is not None)))
        elif told.open:
            self.held.pop(key, None)
            self.told[key] = msgspec.structs.replace(told, repeats=told.repeats + alert.repeats + 1)
        else:
            self.told[key] = msgspec.structs.replace(told, again=_merged(told.again, alert))

    def recovered(self, alert: Alert) -> None:
        key, told = alert.key, self.told.get(alert.key)
        before = self.waiting.pop(key, None)
        if told is not None and told.open:
            self.held.pop(key, None)
            self._wait(msgspec.structs.replace(alert, severity=told.severity))
        elif key in self.held:
            # It came and went in quiet hours: that is worth a word in the morning, but is no news by itself.
            old = self.held[key]
            self.held[key] = msgspec.structs.replace(old, recovered=True, at=alert.at)
        elif told is not None and (told.again is not None or before is not None):
            self.told[key] = msgspec.structs.replace(told, again=None, repeats=told.repeats + 1)

    def _wait(self, alert: Alert) -> None:
        if not self.waiting:
            self.group_at = self.now + self.rules.group_s
        self.waiting[alert.key] = alert
        self._limit(self.waiting)

    def _limit(self, alerts: dict[str, Alert]) -> None:
        while len(alerts) > WAITING_MAX:
            del alerts[min(alerts, key=lambda key: alerts[key].severity.rank)]  # the oldest of the least severe
            self.dropped += 1

    def _cooling(self, told: Told) -> bool:
        # A clock that was set back must not silence anything for longer.
        return told.at <= self.now < told.at + self.rules.cooldown_s

    def _is_word_of_end(self, alert: Alert) -> bool:
        told = self.told.get(alert.key)
        return alert.recovered and told is not None and told.open

    # -- what goes out ---------------------------------------------------------------------------------------------

    def release(self) -> list[Message]:
        for key, told in list(self.told.items()):
            if told.again is not None and not self._cooling(told):
                self.told[key] = msgspec.structs.replace(told, again=None, repeats=0)
                self._wait(msgspec.structs.replace(told.again, repeats=told.again.repeats + told.repeats))
        messages = self._summaries()
        if self.waiting and not self.now < self.group_at <= self.now + self.rules.group_s:
            batch, self.waiting = self.waiting, {}
            loud = [alert for alert in batch.values() if not quieted(alert.severity, self.rules, self.now)]
            for alert in batch.values():
                if quieted(alert.severity, self.rules, self.now):
                    self.held[alert.key] = alert
            self._limit(self.held)
            messages += self._messages(loud, summary=False)
        return messages

    def _summaries(self) -> list[Message]:
        over = [alert for alert in self.held.values() if not quieted(alert.severity, self.rules, self.now)]
        for alert in over:
            del self.held[alert.key]
        return self._messages(over, summary=True)

    def _messages(self, alerts: Sequence[Alert], *, summary: bool) -> list[Message]:
        by_channel: dict[str, list[Alert]] = {}
        for alert in alerts:
            channels = self._channels(alert)
            for channel in channels:
                by_channel.setdefault(channel, []).append(alert)
            self._tell(alert, channels)
        dropped = self.dropped if by_channel else 0
        self.dropped -= dropped
        return [
            message(channel.name, by_channel[channel.name], self.now, summary=summary, dropped=dropped)
            for channel in self.rules.channels
            if channel.name in by_channel
        ]

    def _channels(self, alert: Alert) -> list[str]:
        if self._is_word_of_end(alert):
            known = {channel.name for channel in self.rules.channels}
            return [name for name in self.told[alert.key].channels if name in known]
        return recipients(alert, self.rules)

    def _tell(self, alert: Alert, channels: list[str]) -> None:
        told = self.told.get(alert.key)
        if alert.recovered:
            if told is not None:
                self.told[alert.key] = msgspec.structs.replace(told, open=False)
        elif channels:
            heard = [name for name in told.channels if name not in channels] if told is not None and told.open else []
            # Appended, so that the oldest stand first.
            self.told.pop(alert.key, None)
            self.told[alert.key] = Told(at=self.now, severity=alert.severity, channels=[*channels, *heard])

    def _forget(self) -> None:
        for key, told in list(self.told.items()):
            if not told.open and told.again is None and not self._cooling(told):
                del self.told[key]
        over = len(self.told) - TOLD_MAX
        if over > 0:
            for key in sorted(self.told, key=lambda key: self.told[key].open)[:over]:
                del self.told[key]
