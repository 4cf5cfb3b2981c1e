"""The section `notifications`: its keys, what is judged of channels, routes and quiet hours, and what is made of them.

Secrets do not stand in manifests: a channel names a variable of the server's environment, or a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from paddock.model.incident import Severity
from paddock.model.kinds import ByKind, Kind
from paddock.model.manifest_words import NAME_TEXT, PATH_TEXT, Timezone, absolute, field
from paddock.model.notify import Channel, Notifications, Quiet, Route
from paddock.model.shapes import Duration, ListOf, Record, Schema, Text, Whole, nearest
from paddock.model.yaml_source import Listing, Mistakes, Node, Table, Where, Wrong, short

CHANNELS_MAX = 50
ROUTES_MAX = 200
QUIET_MAX = 20
RECIPIENTS_MAX = 50

_SEVERITY = Text(choices=tuple(str(severity) for severity in Severity))
_ADDRESS = re.compile(r"[^\s@<>,;:\"()\\]{1,64}@[A-Za-z0-9.\[\]:-]{1,255}")
_CHAT = re.compile(r"-?[0-9]{1,20}|@[A-Za-z][A-Za-z0-9_]{3,31}")
_NO_SECRETS = "secrets do not stand in manifests; name a variable of the server (secret_env) or a file (secret_file)"
_SECRET_PATHS = re.compile(r"^/services/T\w+/B\w+/|/api/webhooks/\w|/bot[0-9]+:|/webhookb2/\w", re.IGNORECASE)
_SECRET_KEYS = re.compile(r"token|secret|key|pass|sig|auth", re.IGNORECASE)


@dataclass(frozen=True)
class TimeOfDay:
    """`22:00`"""

    def read(self, node: Node, path: str, mistakes: Mistakes) -> str:
        text = Text(what="a time of day such as 22:00").read(node, path, mistakes)
        if not re.fullmatch(_TIME, text):
            raise Wrong(node.where, f"{path} {short(text, 20)} is not a time of day; write one from 00:00 to 23:59")
        return text

    def schema(self) -> Schema:
        return Text(pattern=_TIME, what="a time of day such as 22:00").schema()


_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"

_CHANNEL = ByKind(
    Record(
        {
            "name": field(NAME_TEXT, "Name of the channel, by which routes call it.", required=True),
            "kind": field(
                Text(choices=("log", "smtp", "telegram", "webhook")), "How people are reached.", required=True
            ),
            "url": field(
                Text(what="a URL", shown=False),
                "webhook: where to POST (left out: the secret is the whole URL); telegram: the API's address.",
            ),
            "shape": field(Text(choices=("generic", "slack")), "webhook: the form of its JSON; default generic."),
            "host": field(Text(pattern=r"[A-Za-z0-9._-]+|[0-9a-fA-F:.]+", what="a host"), "smtp: the mail server."),
            "port": field(Whole(1, 65_535), "smtp: its port; default 587, with tls 465."),
            "security": field(Text(choices=("starttls", "tls", "none")), "smtp: how it is encrypted."),
            "sender": field(Text(pattern=_ADDRESS.pattern, what="a mail address"), "smtp: from whom."),
            "to": field(
                ListOf(Text(what="an address"), RECIPIENTS_MAX, 1), "smtp: mail addresses; telegram: ids of chats."
            ),
            "user": field(Text(what="a user's name"), "smtp: who logs in; the secret is the password."),
            "secret_env": field(
                # Capitals alone: nearly every token that is written here by mistake is refused.
                Text(
                    pattern=r"[A-Z_][A-Z0-9_]{0,254}",
                    what="a variable's name in capitals (never the secret itself)",
                    shown=False,
                ),
                "Variable of the server's environment with the password, the token, or the whole URL.",
            ),
            "secret_file": field(PATH_TEXT, "The same, from a file that its owner alone can read."),
            "timeout_s": field(Duration(low=0.1, high=300), "How long one message may take; default 10s."),
        }
    ),
    kinds={
        "log": Kind(),
        "smtp": Kind(
            needs=("host", "sender", "to"), may=("port", "security", "user", "secret_env", "secret_file", "timeout_s")
        ),
        "telegram": Kind(needs=("to",), may=("url", "secret_env", "secret_file", "timeout_s")),
        "webhook": Kind(may=("url", "shape", "secret_env", "secret_file", "timeout_s")),
    },
    hints=dict.fromkeys(
        ("password", "token", "secret", "api_key", "apikey", "bot_token", "auth", "authorization", "headers", "pass"),
        _NO_SECRETS,
    )
    | {"from": "write sender", "email": "write to", "chat_id": "write to, a list"},
)
_ROUTE = Record(
    {
        "to": field(ListOf(NAME_TEXT, CHANNELS_MAX, 1), "Names of channels.", required=True),
        "severity": field(_SEVERITY, "This one and worse; default warning."),
        "fleets": field(ListOf(NAME_TEXT, 1000), "Only what concerns these; left out: everything."),
    }
)
_QUIET = Record(
    {
        "start": field(TimeOfDay(), "From when on.", required=True),
        "end": field(TimeOfDay(), "Until when; may be on the next day.", required=True),
        "timezone": field(Timezone(), "Where these times are meant; default UTC."),
        "but": field(_SEVERITY, "This one and worse is sent nevertheless; default critical."),
    }
)
NOTIFICATIONS = Record(
    {
        "channels": field(ListOf(_CHANNEL, CHANNELS_MAX), "Ways to reach people."),
        "routes": field(
            ListOf(_ROUTE, ROUTES_MAX), "Which alerts go where; none at all: from warning on, to all channels."
        ),
        "cooldown_s": field(Duration(low=1.0, high=30 * 86_400), "The same is not sent again within this; default 5m."),
        "group_s": field(Duration(high=3600), "What comes within this goes out as one message; default 5s."),
        "quiet": field(ListOf(_QUIET, QUIET_MAX, unique=False), "Hours in which only the worst is sent."),
    }
)


def build_notifications(
    node: Node, fleets: Collection[str], mistakes: Mistakes, warnings: list[str]
) -> Notifications | None:
    """What is to be told to whom, or None when there are mistakes (which are told). `fleets`: all that there are."""
    before = len(mistakes)
    try:
        values = NOTIFICATIONS.read(node, "notifications", mistakes)
    except Wrong as wrong:
        mistakes.add(wrong.where, wrong.text)
        return None
    if len(mistakes) > before or not isinstance(node, Table):
        return None
    channels: list[Channel] = []
    for entry, table in _pairs(node, "channels", values):
        for key, text in _wrong_channel(entry):
            mistakes.add(_at(table, key), f"channel {entry['name']!r}: {text}")
        try:
            channels.append(_channel(entry, table))
        except Wrong as wrong:
            mistakes.add(wrong.where, wrong.text)
    _check_routes(node, values, fleets, mistakes)
    _check_quiet(node, values, mistakes)
    _warn(node, values, warnings)
    if len(mistakes) > before:
        return None
    return Notifications(
        **{
            **values,
            "channels": channels,
            "routes": [Route(**_severe(entry, "severity")) for entry in values.get("routes", [])],
            "quiet": [Quiet(**_severe(entry, "but")) for entry in values.get("quiet", [])],
        }
    )


def _severe(entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {**entry, **({key: Severity(entry[key])} if key in entry else {})}


def _pairs(node: Table, key: str, values: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Table]]:
    """Entries of a list as read, each with its place."""
    tree = node.entries.get(key)
    for entry, item in zip(values.get(key, []), tree.items if isinstance(tree, Listing) else (), strict=False):
        if isinstance(item, Table):
            yield entry, item


def _at(table: Table, key: str) -> Where:
    return table.entries[key].where if key in table.entries else table.where


def _channel(entry: Mapping[str, Any], table: Table) -> Channel:
    fields = dict(entry)
    if "secret_file" in fields:
        fields["secret_file"] = absolute(fields["secret_file"], table.entries["secret_file"], "secret_file")
    if fields.get("security") == "tls":
        fields.setdefault("port", 465)
    return Channel(**fields)


def _wrong_channel(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it)"""
    kind = entry["kind"]
    has_secret = "secret_env" in entry or "secret_file" in entry
    if "secret_env" in entry and "secret_file" in entry:
        yield "secret_file", "secret_env and secret_file both say where the secret is; remove one"
    if "url" in entry:
        if text := _wrong_url(entry["url"]):
            yield "url", text
    elif kind == "webhook" and not has_secret:
        yield "name", "a webhook needs a url, or a secret_env or secret_file with the whole URL"
    if kind == "telegram" and not has_secret:
        yield "name", "telegram needs the bot's token: name a variable (secret_env) or a file (secret_file)"
    if kind == "smtp":
        if "user" in entry and not has_secret:
            yield "user", "a user needs a password: name a variable (secret_env) or a file (secret_file)"
        if has_secret and "user" not in entry:
            yield "secret_env" if "secret_env" in entry else "secret_file", "a password goes with a user; add user"
        if has_secret and entry.get("security") == "none":
            yield "security", "with security none the password would cross the network unencrypted"
    good = _ADDRESS if kind == "smtp" else _CHAT
    for text in entry.get("to", []):
        if not good.fullmatch(text):
            what = "a mail address" if kind == "smtp" else "the id of a chat, such as -1001234567890 or @channel"
            yield "to", f"{short(text)} is not {what}"


def _wrong_url(url: str) -> str:
    """What is wrong with an address; empty when nothing is. The message shows nothing of it: it may be secret."""
    try:
        parts = urlsplit(url)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 1) < 1
    except ValueError:
        return "url is not a URL such as https://example.org/alerts"
    if bad or not url.isprintable() or " " in url:
        return "url is not a URL such as https://example.org/alerts"
    secret = (
        "@" in parts.netloc
        or _SECRET_PATHS.search(parts.path)
        or any(_SECRET_KEYS.search(key) for key, _ in parse_qsl(parts.query))
    )
    return f"url holds a secret; {_NO_SECRETS.partition('; ')[2]}, with the whole URL in it" if secret else ""


def _check_routes(node: Table, values: Mapping[str, Any], fleets: Collection[str], mistakes: Mistakes) -> None:
    channels = [entry["name"] for entry in values.get("channels", [])]
    for entry, table in _pairs(node, "routes", values):
        for key, known, what in (("to", channels, "channel"), ("fleets", fleets, "fleet")):
            below = table.entries.get(key)
            for name, item in zip(entry.get(key, []), below.items if isinstance(below, Listing) else (), strict=False):
                if name not in known:
                    mistakes.add(item.where, f"there is no {what} {short(name)}{nearest(name, known)}")


def _check_quiet(node: Table, values: Mapping[str, Any], mistakes: Mistakes) -> None:
    for entry, table in _pairs(node, "quiet", values):
        if entry["start"] == entry["end"]:
            mistakes.add(
                _at(table, "end"), f"quiet from {entry['start']} to {entry['end']} is no time at all; change one"
            )
        if entry.get("but") == Severity.INFO:
            mistakes.add(_at(table, "but"), "with 'but: info' everything is sent, so nothing would be quiet; raise it")


def _warn(node: Table, values: Mapping[str, Any], warnings: list[str]) -> None:
    routes = values.get("routes", [])
    named = {name for route in routes for name in route["to"]}
    for entry, table in _pairs(node, "channels", values):
        if routes and entry["name"] not in named:
            warnings.append(
                f"{_at(table, 'name')}: no route names the channel {entry['name']!r}; nothing is sent by it"
            )
        if entry.get("security") == "none" and entry["host"] not in ("localhost", "127.0.0.1", "::1"):
            warnings.append(f"{_at(table, 'security')}: mail of channel {entry['name']!r} is sent unencrypted")
