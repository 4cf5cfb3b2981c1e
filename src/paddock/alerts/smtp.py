"""The channel `smtp`: one mail to all recipients, a connection a message."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib

from paddock.alerts.http import tls
from paddock.alerts.secrets import read_secret
from paddock.decide.redact import said
from paddock.model.errors import Denied, Refused, Unavailable
from paddock.model.incident import Severity
from paddock.model.notify import Channel, Message
from paddock.ports.alerts import PartlyRefused


class SmtpSender:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._password = read_secret(channel)

    async def send(self, message: Message) -> None:
        channel = self._channel
        try:
            async with asyncio.timeout(channel.timeout_s):
                refused, _ = await aiosmtplib.send(
                    mail(message, channel),
                    sender=channel.sender,
                    recipients=list(channel.to),
                    hostname=channel.host,
                    port=channel.port,
                    username=channel.user or None,
                    password=self._password or None,
                    use_tls=channel.security == "tls",
                    start_tls=channel.security == "starttls",
                    tls_context=tls() if channel.security != "none" else None,
                    timeout=channel.timeout_s,
                )
        except TimeoutError as error:
            raise Unavailable(f"{channel.host} did not answer within {channel.timeout_s:g} s") from error
        except aiosmtplib.SMTPAuthenticationError as error:
            raise Denied(f"{channel.host} does not take this user with this password: {self._said(error)}") from None
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [one.code for one in error.recipients]
            self._raise(codes, f"{channel.host} takes mail for none of these addresses")
        except aiosmtplib.SMTPResponseException as error:
            self._raise([error.code], f"{channel.host} refused the mail: {self._said(error)}")
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise Unavailable(f"{channel.host} cannot be reached: {self._said(error)}") from None
        if refused:
            raise PartlyRefused(f"{channel.host} takes no mail for {', '.join(sorted(refused))[:200]}")

    def _raise(self, codes: list[int], text: str) -> None:
        """5xx is for good, all else may be better later."""
        if codes and all(500 <= code < 600 for code in codes):
            raise Refused(text) from None
        raise Unavailable(text) from None

    def _said(self, error: Exception) -> str:
        return said(str(error) or type(error).__name__, (self._password,))

    async def close(self) -> None:
        pass


def mail(message: Message, channel: Channel) -> EmailMessage:
    """The same message has the same id, so that one that is sent twice can be seen as one."""
    letter = EmailMessage()
    letter["From"] = channel.sender
    letter["To"] = ", ".join(channel.to)
    letter["Subject"] = message.title
    letter["Date"] = format_datetime(datetime.fromtimestamp(message.at, UTC))
    digest = hashlib.sha256(f"{message.at}\n{message.title}\n{message.text}".encode()).hexdigest()[:32]
    letter["Message-ID"] = f"<{digest}@paddock.{channel.name}>"
    letter["Auto-Submitted"] = "auto-generated"
    if message.severity is Severity.CRITICAL and not message.recovered:
        letter["Importance"] = "high"
    letter.set_content(message.text)
    return letter
