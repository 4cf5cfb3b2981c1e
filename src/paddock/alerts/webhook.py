"""The channel `webhook`: JSON by POST, for programs (`generic`) or in the shape that Slack and its likes take."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

from paddock.alerts.http import JsonPoster
from paddock.alerts.secrets import read_secret
from paddock.model.errors import Refused
from paddock.model.incident import Severity
from paddock.model.notify import Channel, Message

_COLOURS = {
    Severity.INFO: "#439fe0",
    Severity.WARNING: "#daa038",
    Severity.ERROR: "#d00000",
    Severity.CRITICAL: "#8b0000",
}
_GOOD = "#2eb886"


class WebhookSender:
    """Where the channel has a url, its secret is a bearer token; where it has none, the secret is the whole url."""

    def __init__(self, channel: Channel) -> None:
        secret = read_secret(channel)
        url = channel.url or secret
        if urlsplit(url).scheme not in ("http", "https"):
            raise Refused("the secret of this channel is no URL: without a url of its own it must be the whole URL")
        headers = {"Authorization": f"Bearer {secret}"} if channel.url and secret else {}
        secrets = tuple(filter(None, (secret, urlsplit(secret).path if not channel.url else "")))
        self._poster = JsonPoster(url, timeout_s=channel.timeout_s, headers=headers, secrets=secrets)
        self._body = slack if channel.shape == "slack" else generic

    async def send(self, message: Message) -> None:
        await self._poster.post(self._body(message))

    async def close(self) -> None:
        await self._poster.close()


def generic(message: Message) -> dict[str, Any]:
    """The message with its alerts, as `docs/alerts.md` shows it."""
    return {"paddock": 1, **msgspec.to_builtins(message)}


def slack(message: Message) -> dict[str, Any]:
    colour = _GOOD if message.recovered else _COLOURS[message.severity]
    # `text` is what notifications of the phone show; nothing of it is taken for mentions or links.
    return {
        "text": _plain(message.title),
        "attachments": [{"color": colour, "text": _plain(message.text), "fallback": _plain(message.title)}],
    }


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
