"""From a channel's declaration to its sender. The libraries are imported when a channel needs them."""

from __future__ import annotations

from paddock.model.notify import Channel
from paddock.ports.alerts import Sender


def make_sender(channel: Channel) -> Sender:
    """Raises Refused when the channel's secret is not there or is no secret of its kind."""
    if channel.kind == "smtp":
        from paddock.alerts.smtp import SmtpSender

        return SmtpSender(channel)
    if channel.kind == "telegram":
        from paddock.alerts.telegram import TelegramSender

        return TelegramSender(channel)
    if channel.kind == "webhook":
        from paddock.alerts.webhook import WebhookSender

        return WebhookSender(channel)
    from paddock.alerts.log import LogSender

    return LogSender(channel)
