"""Who is told of what, and by which channel."""

from __future__ import annotations

from typing import Literal

import msgspec

from paddock.model.incident import Severity


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One way to reach people; `kind` says which of the other fields count. Secrets are named by `*_env` or `*_file`,
    never written into a manifest."""

    name: str
    kind: Literal["log", "smtp", "telegram", "webhook"]
    url: str = ""
    """webhook: where to POST; empty: the secret is the whole address, as with Slack's. telegram: the API's address, if
    not https://api.telegram.org."""
    shape: Literal["generic", "slack"] = "generic"
    host: str = ""
    port: int = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: str = ""
    to: list[str] = []
    """smtp: addresses. telegram: chat ids."""
    user: str = ""
    secret_env: str = ""
    """Name of the variable of the server's environment with the password, token, or the webhook's bearer token."""
    secret_file: str = ""
    """The same, from a file that its owner alone can read."""
    timeout_s: float = 10.0


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Which alerts go to which channels. All routes that match count."""

    to: list[str]
    severity: Severity = Severity.WARNING
    """This one and worse."""
    fleets: list[str] = []
    """Empty: all, and what concerns no fleet."""


class Quiet(msgspec.Struct, frozen=True, kw_only=True):
    """Hours in which only the worst is sent; the rest is sent as one summary at their end."""

    start: str
    """`22:00`"""
    end: str
    timezone: str = "UTC"
    but: Severity = Severity.CRITICAL


class Notifications(msgspec.Struct, frozen=True, kw_only=True):
    channels: list[Channel] = []
    routes: list[Route] = []
    """None at all: every channel gets everything from warning on."""
    cooldown_s: float = 300.0
    """The same alert is not sent again within this time; how often it came meanwhile is said with the next one."""
    group_s: float = 5.0
    """Alerts that come within this time go out as one message."""
    quiet: list[Quiet] = []


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to tell. The same `key` is the same matter; `recovered` ends it and is told to whoever heard of it."""

    key: str
    at: float
    severity: Severity
    fleet: str = ""
    about: str
    title: str
    text: str = ""
    recovered: bool = False
    incident: int = 0
    repeats: int = 0
    """How often it came while it was held back."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What goes out by one channel at once."""

    channel: str
    at: float
    severity: Severity
    """The worst of its alerts."""
    title: str
    text: str
    """For people; at most 3,500 characters, without secrets."""
    recovered: bool = False
    """All of its alerts are recoveries."""
    alerts: list[Alert] = []
    """The same for programs; of many, the worst."""
